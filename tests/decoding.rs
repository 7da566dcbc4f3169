//! Recorded payloads of every kind and shape, as snapshots, and the records that can't be applied.

use std::{fmt::Write, fs, path::Path};

use chrono::DateTime;
use patron_blocks::event::{Environment, Kind, Place, Reading, Reason, Record, TimedBy, decode};

const CLUSTER: &str = "LkqNbGYhQ2mDBpYI3xUjKQ";
const RECORDED_AT: i64 = 1_788_300_001_000;

fn record(kind: Kind, tenant: &str, payload: &[u8]) -> Record {
    let topic = format!("folio.{tenant}.{}.{}", kind.producer(), kind.name());
    Record {
        place: Place { topic: topic.into(), partition: 3, offset: 42 },
        timestamp: DateTime::from_timestamp_millis(RECORDED_AT),
        key: None,
        headers: vec![("folio.tenantId".to_owned(), b"northlib".to_vec())],
        payload: Some(payload.to_vec()),
    }
}

fn read(record: &Record) -> Reading {
    let topic = Environment::new(Some("folio")).parse(&record.place.topic).unwrap();
    decode::read(record, &topic, CLUSTER)
}

fn rejected(record: &Record) -> (Reason, Option<&'static str>) {
    match read(record) {
        Reading::Dead(_, reject) => (reject.reason, reject.field),
        other => panic!("not rejected: {other:?}"),
    }
}

#[test]
fn every_recorded_payload_is_understood() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records");
    for kind in Kind::ALL {
        let mut files: Vec<_> =
            fs::read_dir(folder.join(kind.name())).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        for shape in ["flat", "enveloped", "wrapped"] {
            let name = format!("{shape}.json");
            assert!(files.iter().any(|file| file.ends_with(&name)), "{kind:?} in shape {shape}");
        }
        let mut read_as = String::new();
        for file in files {
            let reading = read(&record(kind, "northlib", &fs::read(&file).unwrap()));
            let name = file.file_stem().unwrap().to_string_lossy();
            writeln!(read_as, "{name}: {reading:#?}\n").unwrap();
        }
        insta::assert_snapshot!(kind.name(), read_as);
    }
}

const IN: Kind = Kind::ItemCheckedIn;
const LOAN: &str = "0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11";

fn check_in() -> Vec<u8> {
    format!(r#"{{"loanId":"{LOAN}"}}"#).into_bytes()
}

#[test]
fn what_is_no_json_object_is_malformed() {
    let brackets = "[".repeat(1 << 20);
    let nested = format!(r#"{{"loanId":{}1{}}}"#, "[".repeat(1 << 19), "]".repeat(1 << 19));
    for payload in ["", "not json", "[]", "7", "null", "{", "\u{feff}{}", &brackets] {
        assert_eq!(rejected(&record(IN, "northlib", payload.as_bytes())).0, Reason::MalformedJson);
    }
    assert_eq!(
        rejected(&record(IN, "northlib", b"{\"loanId\":\"\xff\"}")).0,
        Reason::MalformedJson
    );
    // Deep, but inside a member that is not looked into.
    assert_eq!(
        rejected(&record(IN, "northlib", nested.as_bytes())),
        (Reason::BadField, Some("loanId"))
    );
}

#[test]
fn a_missing_or_bad_member_is_named() {
    let user = "7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01";
    let due = "2026-09-14T21:59:59.000Z";
    let out = |user: &str, loan: &str, due: &str| {
        format!(r#"{{"userId":"{user}","loanId":"{loan}","dueDate":"{due}"}}"#)
    };
    for (kind, payload, reason, field) in [
        (IN, "{}".to_owned(), Reason::MissingField, "loanId"),
        (Kind::LoanClosed, format!(r#"{{"loanId":"{LOAN}"}}"#), Reason::MissingField, "userId"),
        (Kind::ItemCheckedOut, out("x", LOAN, due), Reason::BadField, "userId"),
        (Kind::ItemCheckedOut, out(user, "0", due), Reason::BadField, "loanId"),
        (Kind::ItemCheckedOut, out(user, LOAN, "soon"), Reason::BadField, "dueDate"),
        (Kind::ItemCheckedOut, out(user, LOAN, ""), Reason::MissingField, "dueDate"),
        (
            Kind::LoanDueDateChanged,
            out(user, LOAN, due),
            Reason::MissingField,
            "dueDateChangedByRecall",
        ),
        (
            Kind::FeeFineBalanceChanged,
            "{\"balance\":1}".to_owned(),
            Reason::MissingField,
            "feeFineId",
        ),
        (
            Kind::FeeFineBalanceChanged,
            format!(r#"{{"feeFineId":"{LOAN}","balance":"much"}}"#),
            Reason::BadField,
            "balance",
        ),
        (
            Kind::FeeFineBalanceChanged,
            format!(r#"{{"feeFineId":"{LOAN}","balance":1,"loanId":"0"}}"#),
            Reason::BadField,
            "loanId",
        ),
    ] {
        let record = record(kind, "northlib", payload.as_bytes());
        assert_eq!(rejected(&record), (reason, Some(field)), "{kind:?} {payload}");
    }
}

#[test]
fn sources_that_name_different_tenants_are_not_reconciled() {
    let mut other_topic = record(IN, "southlib", &check_in());
    assert_eq!(rejected(&other_topic), (Reason::TenantDisagrees, Some("topic")));
    other_topic.headers.clear();
    assert!(matches!(read(&other_topic), Reading::Event(..)));

    let mut other_header = record(IN, "northlib", &check_in());
    other_header.headers.push(("x-okapi-TENANT".to_owned(), b"southlib".to_vec()));
    assert_eq!(rejected(&other_header), (Reason::TenantDisagrees, Some("x-okapi-tenant")));

    let body = format!(r#"{{"type":"CREATED","tenant":"southlib","data":{{"loanId":"{LOAN}"}}}}"#);
    let other_body = record(IN, "northlib", body.as_bytes());
    assert_eq!(rejected(&other_body), (Reason::TenantDisagrees, Some("tenant")));

    let mut illegal = record(IN, "northlib", &check_in());
    illegal.headers = vec![("folio.tenantId".to_owned(), b"North\"Lib".to_vec())];
    assert_eq!(rejected(&illegal), (Reason::TenantDisagrees, Some("folio.tenantId")));
}

#[test]
fn a_collection_topic_takes_the_tenant_from_the_record_alone() {
    let mut record = record(IN, "ALL", &check_in());
    assert!(matches!(read(&record), Reading::Event(tenant, _) if tenant.as_str() == "northlib"));
    // Blank values say nothing, and case does not matter.
    record.headers = vec![
        ("folio.tenantId".to_owned(), b" ".to_vec()),
        ("X-Okapi-Tenant".to_owned(), b"eastlib".to_vec()),
    ];
    assert!(matches!(read(&record), Reading::Event(tenant, _) if tenant.as_str() == "eastlib"));
    record.headers.clear();
    assert_eq!(rejected(&record), (Reason::NoTenant, None));
}

#[test]
fn a_record_without_a_value_says_nothing() {
    let mut tombstone = record(IN, "northlib", b"");
    tombstone.payload = None;
    assert_eq!(read(&tombstone), Reading::Tombstone);
}

#[test]
fn an_envelope_whose_clock_runs_ahead_gives_way_to_its_record() {
    let at = |ms: i64| {
        let data = format!(r#"{{"type":"CREATED","timestamp":{ms},"data":{{"loanId":"{LOAN}"}}}}"#);
        match read(&record(IN, "northlib", data.as_bytes())) {
            Reading::Event(_, event) => (event.occurred_at.timestamp_millis(), event.timed_by),
            other => panic!("{other:?}"),
        }
    };
    let limit = RECORDED_AT + 5 * 60 * 1000;
    assert_eq!(at(limit), (limit, TimedBy::Envelope));
    assert_eq!(at(limit + 1), (RECORDED_AT, TimedBy::RecordAsEnvelopeIsAhead));
    assert_eq!(at(0), (0, TimedBy::Envelope));
}

#[test]
fn a_record_that_no_clock_has_seen_is_rejected() {
    let mut timeless = record(IN, "northlib", &check_in());
    timeless.timestamp = None;
    assert_eq!(rejected(&timeless), (Reason::NoTime, Some("timestamp")));
}

#[test]
fn a_bare_record_is_known_by_its_place_and_time_and_an_enveloped_one_by_its_id() {
    let key = |record: &Record| match read(record) {
        Reading::Event(_, event) => event.key,
        other => panic!("{other:?}"),
    };
    let first = record(IN, "northlib", &check_in());
    let mut again = first.clone();
    assert_eq!(key(&first), key(&again));
    again.place.offset += 1;
    assert_ne!(key(&first), key(&again));
    let mut topic_made_anew = first.clone();
    topic_made_anew.timestamp = DateTime::from_timestamp_millis(RECORDED_AT + 1);
    assert_ne!(key(&first), key(&topic_made_anew));

    let id = "f1d0a9c4-7e25-4b3a-8c61-0b9d2e5f7a66";
    let body = format!(
        r#"{{"id":"{id}","type":"CREATED","timestamp":{RECORDED_AT},"data":{{"loanId":"{LOAN}"}}}}"#
    );
    assert_eq!(key(&record(IN, "northlib", body.as_bytes())).to_string(), id);
}
