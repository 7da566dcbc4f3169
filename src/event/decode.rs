//! From a record to an [`Event`], or to the reason why it is none. Pure functions, one per kind, in
//! one table (`fact`), and beside it what storage tells (`change.rs`); nothing here may panic.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::{borrow::Cow, collections::BTreeSet, fmt};

use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::{
    Event, Fact, IdentifiedBy, Kind, Record, Stamp, TenantId, TimedBy, Topic, entity_change,
    envelope::{self, Envelope, Members},
    fields,
    fields::required,
};

/// How far an envelope's time may run ahead of its own record's before it is not believed
/// (docs/contract/events.md#64-clocks).
pub(super) const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::minutes(5);

/// What a record turned out to be.
#[derive(Debug, Clone, PartialEq)]
pub enum DecodeOutcome {
    /// An event of a tenant.
    Event(TenantId, Box<Event>),
    /// Nothing that can be understood; `None` where not even the tenant can be told.
    Rejected(Option<TenantId>, Reject),
    /// A record without a value. It says nothing; it is counted and passed by.
    Tombstone,
    /// A tenant's record of a change that means nothing to us, such as of another type than are known
    /// (docs/contract/events.md#43-change). It is counted and passed by.
    Skipped(TenantId),
}

/// Why a record is parked. A closed list: operators filter by it, metrics are labelled with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// Not a JSON object.
    MalformedJson,
    /// A required member is absent.
    MissingField,
    /// A member is not in its format.
    BadField,
    /// Neither header, body nor topic names a tenant.
    NoTenant,
    /// Header, body and topic name different tenants, or something that can't be a tenant's id.
    TenantDisagrees,
    /// Neither envelope nor record says when it happened.
    NoTime,
    /// The database refuses to store it, whatever is tried.
    RefusedByDatabase,
    /// It stood in a topic of several tenants, and its own tenant's tables could not be written.
    TenantUnusable,
}

impl Reason {
    /// All reasons.
    pub const ALL: [Self; 8] = [
        Self::MalformedJson,
        Self::MissingField,
        Self::BadField,
        Self::NoTenant,
        Self::TenantDisagrees,
        Self::NoTime,
        Self::RefusedByDatabase,
        Self::TenantUnusable,
    ];

    /// The name stored in `dead_letter.reason`.
    pub fn name(self) -> &'static str {
        match self {
            Self::MalformedJson => "malformed_json",
            Self::MissingField => "missing_field",
            Self::BadField => "bad_field",
            Self::NoTenant => "no_tenant",
            Self::TenantDisagrees => "tenant_mismatch",
            Self::NoTime => "no_time",
            Self::RefusedByDatabase => "refused_by_database",
            Self::TenantUnusable => "tenant_unusable",
        }
    }
}

/// A record that can't be applied: the reason, the member it is about, and the rule that is broken.
/// Never quotes the payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// From the closed list.
    pub reason: Reason,
    /// The member, header or part it is about.
    pub field: Option<&'static str>,
    /// The rule, in words.
    pub rule: String,
}

impl Reject {
    /// A reject.
    pub fn new(reason: Reason, field: Option<&'static str>, rule: impl Into<String>) -> Self {
        Self { reason, field, rule: rule.into() }
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field {
            Some(field) => write!(f, "{field} {}", self.rule),
            None => f.write_str(&self.rule),
        }
    }
}

/// Reads a record of `topic`. `cluster` is the broker's cluster id: with the record's place it
/// identifies a record that has no id of its own.
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

/// Reads a value: what its envelope says, and what it means; nothing where it is of a type that is not
/// known, which is no error.
pub(super) fn decode_payload<'a>(
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

/// An event type that is named has to be the topic's (docs/contract/events.md#44-pubsub).
fn check_event_type(envelope: Envelope<'_>, kind: Kind) -> Result<(), Reject> {
    let rule = "names another kind of event than the topic";
    match envelope.event_type {
        Some(named) if fields::lenient_text(Some(named)).as_deref() != Some(kind.name()) => {
            Err(Reject::new(Reason::BadField, Some("eventType"), rule))
        }
        _ => Ok(()),
    }
}

/// What the inbox knows a record by when it brings no id. The timestamp is part of it, so that a topic
/// that was deleted and made again does not repeat identities.
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
        // Another copy may have another time. Were they one to the inbox, the first that is read would
        // decide which of the times counts (invariant I1 of ARCHITECTURE.md).
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

/// The time that orders this event (docs/contract/events.md#64-clocks).
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

/// Whether anything is read from a header of this name. Who keeps nothing of a record but what it says needs
/// no others.
pub fn is_tenant_header(header: &str) -> bool {
    TENANT_HEADERS.iter().any(|name| header.eq_ignore_ascii_case(name))
}

/// All that name a tenant, each with its source, in the order in which they count.
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

/// The tenants that a record which can't be applied names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TenantCandidates {
    /// All of them, agreeing or not.
    pub tenants: BTreeSet<TenantId>,
    /// Whether it names nobody at all: not even something that is no tenant's id.
    pub names_no_tenant: bool,
}

/// Whom a record names. For those that can't be applied: it reads the record once more.
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

/// The tenant on which all that name one agree (docs/contract/events.md#32-headers): the headers,
/// the envelopes and the topic. Header names are compared without regard to case.
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

/// What the flat payload of a business event says: the table of which function understands which.
pub(super) fn decode_fact(kind: Kind, members: &Members<'_>) -> Result<Fact, Reject> {
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

/// Here alone the borrower may be missing, or make no sense: the loan is known by its own id
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

/// Type and loan say nothing of what is owed: where they make no sense the balance counts without them. The
/// patron does: a balance of nobody would count for nobody, unseen.
fn balance_changed(m: &Members<'_>) -> Result<Fact, Reject> {
    Ok(Fact::BalanceChanged {
        fee_fine: required("feeFineId", fields::uuid("feeFineId", m.fee_fine_id)?)?,
        user: fields::uuid("userId", m.user_id)?,
        fee_fine_type: fields::uuid("feeFineTypeId", m.fee_fine_type_id).ok().flatten(),
        loan: fields::uuid("loanId", m.loan_id).ok().flatten(),
        balance: required("balance", fields::decimal("balance", m.balance)?)?,
    })
}
