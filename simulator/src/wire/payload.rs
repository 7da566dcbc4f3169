//! Serialises the values of records like the producers.

use chrono::{DateTime, SecondsFormat, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::model::{Fact, GracePeriod};

/// The place of the event's members in a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// The members at top level.
    Flat,
    /// The members in `data`.
    Enveloped,
    /// The members in `data.map`, as a Jackson mapper writes an unknown Vert.x object.
    Wrapped,
}

/// The members of an envelope around the event.
#[derive(Debug, Serialize)]
pub(super) struct Envelope<'a> {
    pub(super) id: Uuid,
    pub(super) r#type: &'static str,
    pub(super) tenant: &'a str,
    pub(super) timestamp: i64,
}

#[derive(Serialize)]
struct EnvelopedEvent<'a, D> {
    #[serde(flatten)]
    envelope: Envelope<'a>,
    data: D,
}

#[derive(Serialize)]
struct Wrapper<D> {
    map: D,
    empty: bool,
}

/// The members of all events; an absent member is omitted.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Flat {
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee_fine_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee_fine_type_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    loan_id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    due_date_changed_by_recall: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grace_period: Option<GracePeriod>,
    #[serde(skip_serializing_if = "Option::is_none")]
    return_date: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    balance: Option<Box<RawValue>>,
}

/// Returns the value without an envelope.
pub(super) fn flat(fact: &Fact) -> Vec<u8> {
    text(&members(fact))
}

/// Returns the value in an envelope.
pub(super) fn enveloped(fact: &Fact, envelope: Envelope<'_>, wrapped: bool) -> Vec<u8> {
    let members = members(fact);
    if wrapped {
        text(&EnvelopedEvent { envelope, data: Wrapper { map: members, empty: false } })
    } else {
        text(&EnvelopedEvent { envelope, data: members })
    }
}

fn text(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("ids, times and numbers can be serialized")
}

fn members(fact: &Fact) -> Flat {
    let of = |loan: &Uuid, patron: &Uuid| Flat {
        user_id: Some(*patron),
        loan_id: Some(*loan),
        ..Flat::default()
    };
    match fact {
        Fact::CheckedOut { loan, patron, due, grace, .. } => {
            Flat { due_date: Some(date(*due)), grace_period: *grace, ..of(loan, patron) }
        }
        Fact::CheckedIn { loan, patron, returned } => {
            Flat { return_date: Some(date(*returned)), ..of(loan, patron) }
        }
        Fact::DueDateChanged { loan, patron, due, by_recall } => Flat {
            due_date: Some(date(*due)),
            due_date_changed_by_recall: Some(*by_recall),
            ..of(loan, patron)
        },
        Fact::StatusChanged { loan, patron, .. } => of(loan, patron),
        Fact::BalanceChanged { fee, balance, charge: about } => Flat {
            user_id: about.map(|charge| charge.patron),
            fee_fine_id: Some(*fee),
            fee_fine_type_id: about.map(|charge| charge.fee_type),
            loan_id: about.and_then(|charge| charge.loan),
            balance: Some(number(*balance)),
            ..Flat::default()
        },
        Fact::LoanCreatedInStorage { .. }
        | Fact::LoanDeleted { .. }
        | Fact::PatronGroupChanged { .. } => {
            unreachable!("the fact is not a business event")
        }
    }
}

/// Returns a time in UTC with milliseconds and `Z`.
fn date(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Millis, true)
}

fn number(balance: Decimal) -> Box<RawValue> {
    RawValue::from_string(double(balance)).expect("a double's text is a JSON number")
}

/// Returns a number as Java prints a double: always with a fraction, and with an exponent from ten million.
pub(super) fn double(value: Decimal) -> String {
    let value = value.normalize();
    if value.abs() < Decimal::from(10_000_000) {
        let whole = if value.scale() == 0 { ".0" } else { "" };
        return format!("{value}{whole}");
    }
    let sign = if value.is_sign_negative() { "-" } else { "" };
    let digits = value.mantissa().unsigned_abs().to_string();
    let exponent = digits.len() - 1 - value.scale() as usize;
    let (first, rest) = digits.split_at(1);
    let rest = rest.trim_end_matches('0');
    format!("{sign}{first}.{}E{exponent}", if rest.is_empty() { "0" } else { rest })
}
