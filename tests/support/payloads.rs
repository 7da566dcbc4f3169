//! Payloads as producers write them.

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::clock::Clock;
use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) fn now() -> DateTime<Utc> {
    Clock::system().now()
}

/// Returns a date in the format of mod-circulation, this number of minutes from now.
pub(crate) fn minutes_from_now(minutes: i64) -> String {
    (now() + TimeDelta::minutes(minutes)).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

pub(crate) fn check_out(user: Uuid, loan: Uuid, due_date: &str) -> Value {
    json!({ "userId": user, "loanId": loan, "dueDate": due_date })
}

/// Returns the members that most events have.
pub(crate) fn loan_event(user: Uuid, loan: Uuid) -> Value {
    json!({ "userId": user, "loanId": loan })
}

pub(crate) fn due_date_change(user: Uuid, loan: Uuid, due_date: &str, by_recall: bool) -> Value {
    json!({
        "userId": user, "loanId": loan, "dueDate": due_date, "dueDateChangedByRecall": by_recall,
    })
}

pub(crate) fn balance_change(
    user: Uuid,
    fee_fine: Uuid,
    loan: Option<Uuid>,
    balance: f64,
) -> Value {
    let mut fee = json!({
        "userId": user, "feeFineId": fee_fine, "feeFineTypeId": Uuid::new_v4(), "balance": balance,
    });
    if let Some(loan) = loan {
        fee["loanId"] = json!(loan);
    }
    fee
}

/// Wraps a payload in an envelope (shape B).
pub(crate) fn in_envelope(payload: &Value, at: DateTime<Utc>) -> Value {
    json!({
        "id": Uuid::new_v4(), "type": "UPDATED", "tenant": crate::support::world::TENANT,
        "timestamp": at.timestamp_millis(), "data": payload,
    })
}

/// Returns an open loan as mod-circulation-storage stores it.
pub(crate) fn storage_loan(user: Uuid, loan: Uuid, due_date: &str) -> Value {
    json!({
        "id": loan, "userId": user, "itemId": Uuid::new_v4(), "status": { "name": "Open" },
        "itemStatus": "Checked out", "action": "checkedout", "dueDate": due_date,
    })
}

/// Returns a copy of an entity with another value of one member.
pub(crate) fn with_member(entity: &Value, name: &str, value: impl Into<Value>) -> Value {
    let mut entity = entity.clone();
    entity[name] = value.into();
    entity
}

/// Returns a user as mod-users stores it.
pub(crate) fn user_record(user: Uuid, group: impl Into<Option<Uuid>>) -> Value {
    let personal = json!({ "lastName": "Dahl", "firstName": "Edda" });
    let mut record = json!({ "id": user, "active": true, "personal": personal });
    if let Some(group) = group.into() {
        record["patronGroup"] = json!(group);
    }
    record
}

/// Returns a change of an entity as storage modules publish it (shape C).
pub(crate) fn entity_change(what: &str, entity: &Value, at: DateTime<Utc>) -> Value {
    let data = match what {
        "CREATED" => json!({ "new": entity }),
        "UPDATED" => json!({ "old": entity, "new": entity }),
        "DELETED" => json!({ "old": entity }),
        _ => json!({}),
    };
    with_member(
        &with_member(&in_envelope(&data, at), "type", what),
        "id",
        Uuid::new_v4().to_string(),
    )
}

/// Moves the instant of enabling one hour back; the inbox counts as complete since that instant. A
/// trigger protects the instant in production.
pub(crate) const BACKDATE_ENABLING_SQL: &str =
    "update mod_patron_blocks.tenant set enabled_at = enabled_at - interval '1 hour'";
