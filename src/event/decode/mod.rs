//! Decodes a record into an [`Event`] or a [`Reject`]. Each business event has one pure function in the
//! table of `decode_fact`; `entity_change.rs` decodes storage events. Nothing here may panic.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

mod entity_change;
mod envelope;
pub(crate) mod fields;
pub mod http_body;
pub mod inbox_row;
pub(crate) mod json;
pub mod storage_record;

pub use fields::{in_calendar, parse_uuid, uuids_in};

use std::{borrow::Cow, collections::BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use self::{
    envelope::{Envelope, Members},
    fields::required,
};
use super::{
    Event, Fact, IdentifiedBy, Kind, Reason, Record, Reject, Stamp, TenantId, TimedBy, Topic,
};

/// Longest time by which an envelope's time may be ahead of its record's time; beyond it the record's time
/// counts (docs/contract/events.md#64-clocks).
const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::minutes(5);

/// The result of decoding one record.
#[derive(Debug, Clone, PartialEq)]
pub enum DecodeOutcome {
    /// An event of a tenant.
    Event(TenantId, Box<Event>),
    /// A record that can't become an event; `None` if the tenant is unknown.
    Rejected(Option<TenantId>, Reject),
    /// A record without a value. Ingest counts and skips tombstones.
    Tombstone,
    /// A change without meaning for this service, such as one of an unknown type
    /// (docs/contract/events.md#43-change). Ingest counts and skips the record.
    Skipped(TenantId),
}

/// Decodes a record of `topic`. `cluster` is the broker's cluster id; together with the record's position
/// it identifies a record without an id.
pub fn decode_record<T: AsRef<str>, B: AsRef<[u8]>>(
    record: &Record<T, B>,
    topic: &Topic,
    cluster: &str,
) -> DecodeOutcome {
    let Some(payload) = &record.payload else { return DecodeOutcome::Tombstone };
    let mut inner = String::new();
    let (envelope, fact) = decode_payload(topic.kind, payload.as_ref(), &mut inner);
    let tenant = match resolve_tenant(record, topic, envelope) {
        Ok(tenant) => tenant,
        Err(reject) => return DecodeOutcome::Rejected(None, reject),
    };
    let event = match fact {
        Ok(Some(fact)) => build_event(record, topic.kind, envelope, fact, cluster),
        Ok(None) => return DecodeOutcome::Skipped(tenant),
        Err(reject) => Err(reject),
    };
    match event {
        Ok(event) => DecodeOutcome::Event(tenant, Box::new(event)),
        Err(reject) => DecodeOutcome::Rejected(Some(tenant), reject),
    }
}

/// Decodes a value into its envelope and its fact. The fact is `None` if the type of a change is unknown;
/// an unknown type is no error.
fn decode_payload<'a>(
    kind: Kind,
    payload: &'a [u8],
    inner: &'a mut String,
) -> (Envelope<'a>, Result<Option<Fact>, Reject>) {
    match kind {
        Kind::StoredLoan | Kind::StoredUser => entity_change::decode_change(kind, payload),
        kind => {
            let (envelope, members) = envelope::open(payload, inner);
            let members = check_event_type(envelope, kind).and(members);
            (envelope, members.and_then(|members| decode_fact(kind, &members)).map(Some))
        }
    }
}

/// Checks that the event type of an envelope is the topic's kind (docs/contract/events.md#44-pubsub).
fn check_event_type(envelope: Envelope<'_>, kind: Kind) -> Result<(), Reject> {
    let rule = "names another kind of event than the topic";
    match envelope.event_type {
        Some(named) if fields::lenient_text(Some(named)).as_deref() != Some(kind.name()) => {
            Err(Reject::new(Reason::BadField, Some("eventType"), rule))
        }
        _ => Ok(()),
    }
}

/// Returns the inbox key of a record without an id. The key includes the timestamp, so a recreated topic
/// does not repeat keys.
pub fn position_key<T, B>(record: &Record<T, B>, cluster: &str) -> Uuid {
    let position = &record.position;
    let at = record.timestamp.map_or(-1, |at| at.timestamp_millis());
    let name =
        format!("{cluster}/{}/{}/{}/{at}", position.topic, position.partition, position.offset);
    Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
}

fn build_event<T, B>(
    record: &Record<T, B>,
    kind: Kind,
    envelope: Envelope<'_>,
    fact: Fact,
    cluster: &str,
) -> Result<Event, Reject> {
    let (occurred_at, timed_by) = resolve_time(record, envelope)?;
    let id = fields::any_uuid(envelope.id).filter(|id| !id.is_nil());
    let (key, identified_by) = match (id, timed_by) {
        (Some(id), TimedBy::Envelope) => (id, IdentifiedBy::Envelope),
        // Another copy of the envelope may have another time. With equal keys, the copy that is read first
        // would decide which time counts (invariant I1 of ARCHITECTURE.md).
        (Some(id), _) => {
            let at = occurred_at.timestamp_millis().to_be_bytes();
            (Uuid::new_v5(&id, &at), IdentifiedBy::EnvelopeAndTime)
        }
        (None, _) => (position_key(record, cluster), IdentifiedBy::Position),
    };
    let stamp = match id {
        Some(id) => Stamp::from_envelope(occurred_at, kind, id),
        None => Stamp::from_position(occurred_at, kind, &record.position),
    };
    Ok(Event { key, identified_by, occurred_at, timed_by, stamp, fact })
}

/// Returns the time that orders the event (docs/contract/events.md#64-clocks).
fn resolve_time<T, B>(
    record: &Record<T, B>,
    envelope: Envelope<'_>,
) -> Result<(DateTime<Utc>, TimedBy), Reject> {
    let record_time = record.timestamp.filter(fields::in_calendar);
    match (fields::epoch_milliseconds(envelope.timestamp), record_time) {
        (Some(envelope_time), Some(record_time))
            if envelope_time - record_time > CLOCK_SKEW_MAX =>
        {
            Ok((record_time, TimedBy::RecordAsEnvelopeIsAhead))
        }
        (Some(envelope_time), _) => Ok((envelope_time, TimedBy::Envelope)),
        (None, Some(record_time)) => Ok((record_time, TimedBy::Record)),
        (None, None) => {
            let rule = "neither the envelope nor the record says when it happened";
            Err(Reject::new(Reason::NoTime, Some("timestamp"), rule))
        }
    }
}

/// Headers that name the tenant.
const TENANT_HEADERS: [&str; 2] = ["folio.tenantId", "x-okapi-tenant"];

/// Returns whether decoding reads headers of this name. A caller that only decodes a record can drop all
/// other headers.
pub fn is_tenant_header(header: &str) -> bool {
    TENANT_HEADERS.iter().any(|name| header.eq_ignore_ascii_case(name))
}

/// Returns every tenant name of a record with its source, in order of precedence.
fn tenant_names<'a, T: AsRef<str>, B: AsRef<[u8]>>(
    record: &'a Record<T, B>,
    topic: &'a Topic,
    envelope: Envelope<'a>,
) -> impl Iterator<Item = (&'static str, Cow<'a, str>)> {
    let header = |name: &str| {
        let of_name = |n: &T| n.as_ref().eq_ignore_ascii_case(name);
        let values = record.headers.iter().filter(|(n, _)| of_name(n));
        let mut values = values.map(|(_, value)| String::from_utf8_lossy(value.as_ref()));
        values.find(|text| !text.trim().is_empty())
    };
    let of_topic = topic.tenant.as_ref().map(|tenant| Cow::Borrowed(tenant.as_str()));
    let names = [
        (TENANT_HEADERS[0], header(TENANT_HEADERS[0])),
        (TENANT_HEADERS[1], header(TENANT_HEADERS[1])),
        ("tenant", fields::lenient_text(envelope.tenant)),
        ("eventMetadata.tenantId", fields::lenient_text(envelope.pubsub_tenant)),
        ("topic", of_topic),
    ];
    names.into_iter().filter_map(|(source, name)| Some((source, name?)))
}

/// The tenants that a rejected record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantCandidates {
    /// All valid tenant ids of the record, equal or not.
    pub tenants: BTreeSet<TenantId>,
    /// Whether the record contains no tenant name at all, valid or not.
    pub names_no_tenant: bool,
}

/// Returns the tenants that a rejected record names; decodes the record once more.
pub fn tenant_candidates<T: AsRef<str>, B: AsRef<[u8]>>(
    record: &Record<T, B>,
    topic: &Topic,
) -> TenantCandidates {
    let payload = record.payload.as_ref().map(AsRef::as_ref).unwrap_or_default();
    let mut inner = String::new();
    let (envelope, _) = decode_payload(topic.kind, payload, &mut inner);
    let names: Vec<_> = tenant_names(record, topic, envelope).collect();
    let tenants = names.iter().filter_map(|(_, name)| TenantId::parse(name.trim())).collect();
    TenantCandidates { tenants, names_no_tenant: names.is_empty() }
}

/// Returns the tenant if all sources agree: headers, envelopes and topic
/// (docs/contract/events.md#32-headers). Header names are case-insensitive.
fn resolve_tenant<T: AsRef<str>, B: AsRef<[u8]>>(
    record: &Record<T, B>,
    topic: &Topic,
    envelope: Envelope<'_>,
) -> Result<TenantId, Reject> {
    let of_topic = topic.tenant.as_ref();
    let mut found: Option<TenantId> = None;
    for (source, named) in tenant_names(record, topic, envelope) {
        let named = named.trim();
        let is = |tenant: &TenantId| tenant.as_str() == named;
        if found.as_ref().is_some_and(is) {
            continue;
        }
        let disagrees = |rule: &str| Reject::new(Reason::TenantDisagrees, Some(source), rule);
        let known = of_topic.filter(|tenant| is(tenant)).cloned();
        let tenant = known
            .or_else(|| TenantId::parse(named))
            .ok_or_else(|| disagrees(&format!("is no tenant id, which {}", TenantId::RULE)))?;
        if found.is_some() {
            return Err(disagrees("names another tenant than the record's other sources"));
        }
        found = Some(tenant);
    }
    let rule = "neither headers, envelope nor topic name a tenant";
    found.ok_or_else(|| Reject::new(Reason::NoTenant, None, rule))
}

/// Decodes the flat payload of a business event with the function of its kind.
fn decode_fact(kind: Kind, members: &Members<'_>) -> Result<Fact, Reject> {
    match kind {
        Kind::ItemCheckedOut => checked_out(members),
        Kind::ItemCheckedIn => checked_in(members),
        Kind::ItemDeclaredLost => declared_lost(members),
        Kind::ItemAgedToLost => aged_to_lost(members),
        Kind::ItemClaimedReturned => claimed_returned(members),
        Kind::LoanDueDateChanged => due_date_changed(members),
        Kind::LoanClosed => loan_closed(members),
        Kind::FeeFineBalanceChanged => balance_changed(members),
        Kind::StoredLoan | Kind::StoredUser => Err(entity_change::missing_type()),
    }
}

fn loan_id(m: &Members<'_>) -> Result<Uuid, Reject> {
    required("loanId", fields::uuid("loanId", m.loan_id)?)
}

fn user_id(m: &Members<'_>) -> Result<Uuid, Reject> {
    required("userId", fields::uuid("userId", m.user_id)?)
}

fn due_date(m: &Members<'_>) -> Result<DateTime<Utc>, Reject> {
    required("dueDate", fields::date_time("dueDate", m.due_date)?)
}

fn checked_out(m: &Members<'_>) -> Result<Fact, Reject> {
    Ok(Fact::CheckedOut {
        loan: loan_id(m)?,
        user: user_id(m)?,
        due_date: due_date(m)?,
        grace: fields::grace(m.grace_period),
    })
}

/// Only a check-in may have a missing or invalid borrower, because the loan id identifies the loan
/// (docs/contract/events.md#72-item_checked_in).
fn checked_in(m: &Members<'_>) -> Result<Fact, Reject> {
    Ok(Fact::CheckedIn {
        loan: loan_id(m)?,
        user: fields::uuid("userId", m.user_id).ok().flatten(),
    })
}

fn declared_lost(m: &Members<'_>) -> Result<Fact, Reject> {
    Ok(Fact::Lost { loan: loan_id(m)?, user: user_id(m)?, by_age: false })
}

fn aged_to_lost(m: &Members<'_>) -> Result<Fact, Reject> {
    Ok(Fact::Lost { loan: loan_id(m)?, user: user_id(m)?, by_age: true })
}

fn claimed_returned(m: &Members<'_>) -> Result<Fact, Reject> {
    Ok(Fact::ClaimedReturned { loan: loan_id(m)?, user: user_id(m)? })
}

fn loan_closed(m: &Members<'_>) -> Result<Fact, Reject> {
    Ok(Fact::LoanClosed { loan: loan_id(m)?, user: user_id(m)? })
}

fn due_date_changed(m: &Members<'_>) -> Result<Fact, Reject> {
    const RECALL: &str = "dueDateChangedByRecall";
    Ok(Fact::DueDateChanged {
        loan: loan_id(m)?,
        user: user_id(m)?,
        due_date: due_date(m)?,
        by_recall: required(RECALL, fields::boolean(RECALL, m.due_date_changed_by_recall)?)?,
    })
}

/// The fee/fine type and the loan do not change the debt, so an invalid one counts as absent. An invalid
/// patron is rejected; otherwise the balance would count for nobody.
fn balance_changed(m: &Members<'_>) -> Result<Fact, Reject> {
    Ok(Fact::BalanceChanged {
        fee_fine: required("feeFineId", fields::uuid("feeFineId", m.fee_fine_id)?)?,
        user: fields::uuid("userId", m.user_id)?,
        fee_fine_type: fields::uuid("feeFineTypeId", m.fee_fine_type_id).ok().flatten(),
        loan: fields::uuid("loanId", m.loan_id).ok().flatten(),
        balance: required("balance", fields::decimal("balance", m.balance)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_of_the_tenant_are_read() {
        for name in ["folio.tenantId", "FOLIO.TENANTID", "x-okapi-tenant", "X-Okapi-Tenant"] {
            assert!(is_tenant_header(name), "{name}");
        }
        for name in ["x-okapi-token", "tenant", ""] {
            assert!(!is_tenant_header(name), "{name}");
        }
    }
}
