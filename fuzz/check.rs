//! The properties of every record with any bytes: decoding never panics, and an event has the properties
//! that the store and the merge rely on. The fuzzer and `tests/core/fuzzing.rs` share this module.

use chrono::{DateTime, Datelike, TimeDelta, Utc};
use patron_blocks::{
    event::{
        self, DecodeOutcome, Environment, Event, Fact, IdentifiedBy, Kind, Reason, Record,
        RecordPosition, Reject, TenantId, TimedBy, Topic, parse_uuid, stamp::Horizon,
    },
    patron::{Fee, Loan, StateDelta, overdue_minutes},
};
use rust_decimal::Decimal;
use uuid::Uuid;

/// The rules that a dead letter may report, with numbers replaced by `#`. The list is exact, because an
/// unlisted rule might quote the payload with personal data.
const RULES: [&str; 20] = [
    "the value is not UTF-#",
    "the value is not a JSON object",
    "the value is not valid JSON (line #, column #)",
    "the value holds a member twice (line #, column #)",
    "is not a JSON object",
    "is not valid JSON (line #, column #)",
    "holds a member twice (line #, column #)",
    "is required",
    "is required in an envelope of a change",
    "must be an object",
    "must be a string",
    "must be a UUID of version # to #",
    "must be an ISO # date and time, or epoch milliseconds",
    "must be a number of at most # digits before the point",
    "must be true or false",
    "names another kind of event than the topic",
    "names another tenant than the record's other sources",
    "is no tenant id, which starts with a lower-case letter and has up to # lower-case letters, digits and underscores",
    "neither headers, envelope nor topic name a tenant",
    "neither the envelope nor the record says when it happened",
];

/// Decodes `bytes` as a record and checks the properties of the event.
///
/// | bytes | content |
/// |---|---|
/// | 1 | the kind of event |
/// | 1 | bits 0 and 1: form of the topic; 2: with a key; 3: without a timestamp; 4: a tombstone; 5 and 6: number of headers |
/// | 8 | the timestamp, big endian |
/// | | the headers, each a name and a value, each a length (1) and bytes |
/// | | the payload |
pub(crate) fn check(bytes: &[u8]) {
    let Some((record, topic)) = record(&mut Bytes(bytes)) else { return };
    let reading = event::decode_record(&record, &topic, "cluster");
    assert_eq!(
        reading,
        event::decode_record(&record, &topic, "cluster"),
        "a second decoding has the same result"
    );
    match &reading {
        DecodeOutcome::Tombstone => assert_eq!(record.payload, None),
        DecodeOutcome::Skipped(tenant) => {
            assert!(!Kind::BUSINESS.contains(&topic.kind));
            assert!(topic.tenant.as_ref().is_none_or(|of_topic| of_topic == tenant));
        }
        DecodeOutcome::Rejected(tenant, reject) => check_dead(&topic, tenant.as_ref(), reject),
        DecodeOutcome::Event(tenant, event) => {
            assert!(topic.tenant.as_ref().is_none_or(|of_topic| of_topic == tenant));
            assert_eq!(event.fact.kind(), topic.kind);
            check_time(&record, event);
            check_identity(&record, &topic, event);
            check_fact(&event.fact);
            check_merge(event);
        }
    }
}

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|byte| byte[0])
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = self.byte()?;
        self.take(usize::from(length % 64))
    }
}

fn record(bytes: &mut Bytes<'_>) -> Option<(Record, Topic)> {
    let kind = Kind::ALL[usize::from(bytes.byte()?) % Kind::ALL.len()];
    let flags = bytes.byte()?;
    let (producer, name) = (kind.producer(), kind.name());
    let topic = match flags & 3 {
        0 => format!("prod1.northlib.{producer}.{name}"),
        1 => format!("prod1.ALL.{producer}.{name}"),
        2 if Kind::BUSINESS.contains(&kind) => {
            format!("prod1.pub-sub.northlib.{name}.mod-pubsub-2.16.0")
        }
        _ => format!("prod1.southlib.{producer}.{name}"),
    };
    let milliseconds = i64::from_be_bytes(bytes.take(8)?.try_into().ok()?);
    let headers = (0..flags >> 5 & 3).map(|_| {
        let name = String::from_utf8_lossy(bytes.text()?).into_owned();
        Some((name, bytes.text()?.to_vec()))
    });
    let headers = headers.collect::<Option<Vec<_>>>()?;
    let set = |bit: u8| flags & 1 << bit != 0;
    let read = Environment::new(Some("prod1")).with_pubsub(true).parse(&topic);
    let record = Record {
        position: RecordPosition { topic: topic.into(), partition: 3, offset: 42 },
        timestamp: DateTime::from_timestamp_millis(milliseconds).filter(|_| !set(3)),
        key: set(2).then(|| name.as_bytes().to_vec()),
        headers,
        payload: (!set(4)).then(|| bytes.0.to_vec()),
    };
    Some((record, read.expect("every form is a known form")))
}

fn check_dead(topic: &Topic, tenant: Option<&TenantId>, reject: &Reject) {
    let mut rule = String::new();
    for c in reject.rule.chars() {
        match c.is_ascii_digit() {
            true if rule.ends_with('#') => {}
            true => rule.push('#'),
            false => rule.push(c),
        }
    }
    assert!(RULES.contains(&rule.as_str()), "an unknown rule: {}", reject.rule);
    assert_eq!(Reason::ALL.iter().filter(|reason| **reason == reject.reason).count(), 1);
    let of_tenant = matches!(reject.reason, Reason::NoTenant | Reason::TenantDisagrees);
    assert_eq!(tenant.is_none(), of_tenant, "{reject}");
    assert!(tenant.is_none() || topic.tenant.is_none() || tenant == topic.tenant.as_ref());
}

fn in_calendar(at: &DateTime<Utc>) -> bool {
    (1..=9999).contains(&at.year())
}

/// Returns true if the date was written with a year of four digits. In UTC the year may differ by one.
fn is_a_due_date(at: &DateTime<Utc>) -> bool {
    (0..=10_000).contains(&at.year())
}

fn check_time(record: &Record, event: &Event) {
    let at = event.occurred_at;
    assert!(in_calendar(&at));
    assert_eq!(at.timestamp_subsec_nanos() % 1_000_000, 0, "a time has whole milliseconds");
    let recorded = record.timestamp.filter(in_calendar);
    match event.timed_by {
        TimedBy::Envelope => assert!(recorded.is_none_or(|r| at - r <= TimeDelta::minutes(5))),
        TimedBy::Record | TimedBy::RecordAsEnvelopeIsAhead => assert_eq!(Some(at), recorded),
        TimedBy::Metadata | TimedBy::Receipt => panic!("a record does not come over HTTP"),
    }
    assert!(Horizon::at(at).admits(&event.stamp));
    assert!(!Horizon::at(at + TimeDelta::milliseconds(1)).admits(&event.stamp));
}

/// Checks that a copy at another position is the same event if the record has an identity, and else a
/// different event.
fn check_identity(record: &Record, topic: &Topic, event: &Event) {
    assert!(!event.key.is_nil());
    let of_envelope = event.timed_by == TimedBy::Envelope;
    match event.identified_by {
        IdentifiedBy::Envelope => assert!(of_envelope),
        IdentifiedBy::EnvelopeAndTime => assert!(!of_envelope),
        IdentifiedBy::Position => {}
        IdentifiedBy::Content => panic!("a record does not come over HTTP"),
    }
    let mut copy = record.clone();
    copy.position.offset += 1;
    copy.key = None;
    let DecodeOutcome::Event(_, copy) = event::decode_record(&copy, topic, "cluster") else {
        panic!("a copy is decoded differently")
    };
    let has_identity = event.identified_by != IdentifiedBy::Position;
    assert_eq!(copy.key == event.key, has_identity);
    assert_eq!(copy.stamp == event.stamp, has_identity);
    assert_eq!(copy.fact, event.fact);
}

fn check_fact(fact: &Fact) {
    let known = |id: Uuid| parse_uuid(&id.to_string()) == Some(id);
    assert_eq!(fact.subject().is_none(), *fact == Fact::AllLoansDeleted);
    assert!(fact.subject().is_none_or(known));
    assert!(fact.user().is_none_or(known));
    match fact {
        Fact::CheckedOut { due_date, grace, .. } => {
            assert!(is_a_due_date(due_date));
            assert!(grace.is_none_or(|grace| grace.duration > 0));
        }
        Fact::DueDateChanged { due_date, .. } => assert!(is_a_due_date(due_date)),
        Fact::LoanSnapshot { due_date, lost, claimed_returned, .. } => {
            assert!(is_a_due_date(due_date));
            assert_eq!(lost.is_some(), claimed_returned.is_some());
            assert!(*lost != Some(true) || *claimed_returned != Some(true));
        }
        Fact::PatronGroupChanged { group, .. } => {
            assert!(group.as_ref().is_none_or(|group| !group.trim().is_empty()));
        }
        Fact::BalanceChanged { balance, fee_fine_type, loan, .. } => {
            assert_eq!(balance.to_string(), balance.normalize().to_string());
            assert!(balance.abs() <= Decimal::from(10_000_000_000_000_i64));
            assert!(balance.scale() <= 15);
            assert!(fee_fine_type.is_none_or(known) && loan.is_none_or(known));
        }
        Fact::CheckedIn { .. }
        | Fact::LoanClosed { .. }
        | Fact::Lost { .. }
        | Fact::ClaimedReturned { .. }
        | Fact::LoanSnapshotClosed { .. }
        | Fact::AllLoansDeleted => {}
    }
}

/// Checks the merge of an event. It is about a loan, a fee/fine or neither; a second merge changes nothing;
/// an evaluation succeeds.
fn check_merge(event: &Event) {
    let horizon = Some(Horizon::at(event.occurred_at));
    match (Loan::from_event(event), Fee::from_event(event)) {
        (Some((id, loan)), None) => {
            assert_eq!(Some(id), event.fact.subject());
            assert_eq!(loan.clone().merge(loan.clone()), loan);
            assert_eq!(loan.clone().merge(Loan::default()), loan);
            let open = loan.as_open(None);
            assert_eq!(
                loan.as_open(horizon),
                open,
                "a horizon accepts evidence of its own instant"
            );
            let opens = matches!(event.fact, Fact::CheckedOut { .. } | Fact::LoanSnapshot { .. });
            assert_eq!(open.is_some(), opens);
            if let Some((open, due)) = open.and_then(|open| Some((open, open.due_date?))) {
                assert!(open.overdue_from().is_some_and(|from| from > due));
                assert_eq!(overdue_minutes(due, open.grace, due), 0);
            }
        }
        (None, Some((id, fee))) => {
            assert_eq!(Some(id), event.fact.subject());
            assert_eq!(fee.clone().merge(fee.clone()), fee);
            assert_eq!(fee.clone().merge(Fee::default()), fee);
            let open = fee.as_open(None);
            assert_eq!(fee.as_open(horizon), open, "a horizon accepts evidence of its own instant");
            let owed = matches!(event.fact, Fact::BalanceChanged { user: Some(_), balance, .. }
                if !balance.is_zero());
            assert_eq!(open.is_some(), owed);
        }
        (None, None) => {
            let delta = StateDelta::from_events([event]);
            assert_eq!(delta.clone().merge(delta.clone()), delta);
            let group = event.fact.subject().is_some_and(|user| delta.groups.contains_key(&user));
            assert!(group != delta.loans_deleted_before.is_some(), "{delta:?}");
        }
        both => panic!("about a loan and a fee/fine: {both:?}"),
    }
}
