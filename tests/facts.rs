//! Payloads as producers write them.

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::clock::Clock;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) fn now() -> DateTime<Utc> {
    Clock::system().now()
}

/// A date as mod-circulation writes it, so many minutes from now.
pub(crate) fn minutes_from_now(minutes: i64) -> String {
    (now() + TimeDelta::minutes(minutes)).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

pub(crate) fn check_out(user: Uuid, loan: Uuid, due_date: &str) -> Value {
    json!({ "userId": user, "loanId": loan, "dueDate": due_date })
}

/// What most events consist of.
pub(crate) fn about(user: Uuid, loan: Uuid) -> Value {
    json!({ "userId": user, "loanId": loan })
}

pub(crate) fn due(user: Uuid, loan: Uuid, due_date: &str, by_recall: bool) -> Value {
    json!({
        "userId": user, "loanId": loan, "dueDate": due_date, "dueDateChangedByRecall": by_recall,
    })
}

pub(crate) fn fee(user: Uuid, fee_fine: Uuid, loan: Option<Uuid>, balance: f64) -> Value {
    let mut fee = json!({
        "userId": user, "feeFineId": fee_fine, "feeFineTypeId": Uuid::new_v4(), "balance": balance,
    });
    if let Some(loan) = loan {
        fee["loanId"] = json!(loan);
    }
    fee
}

/// Shape B around a payload.
pub(crate) fn enveloped(payload: &Value, at: DateTime<Utc>) -> Value {
    json!({
        "id": Uuid::new_v4(), "type": "UPDATED", "tenant": crate::world::TENANT,
        "timestamp": at.timestamp_millis(), "data": payload,
    })
}
