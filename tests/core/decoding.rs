//! Recorded payloads of every kind and shape, as snapshots, and the records that are rejected.

mod members;
mod shapes;
mod storage;
mod tenants;
mod times;

use std::{fmt::Write, fs, path::Path};

use chrono::DateTime;
use patron_blocks::event::{
    DecodeOutcome, Environment, Event, Kind, Reason, Record, RecordPosition, decode,
};
use uuid::Uuid;

const CLUSTER: &str = "LkqNbGYhQ2mDBpYI3xUjKQ";
const RECORDED_AT: i64 = 1_788_300_001_000;

fn record(kind: Kind, tenant: &str, payload: &[u8]) -> Record {
    let topic = format!("folio.{tenant}.{}.{}", kind.producer(), kind.name());
    Record {
        position: RecordPosition { topic: topic.into(), partition: 3, offset: 42 },
        timestamp: DateTime::from_timestamp_millis(RECORDED_AT),
        key: None,
        headers: vec![("folio.tenantId".to_owned(), b"northlib".to_vec())],
        payload: Some(payload.to_vec()),
    }
}

fn decode_record(record: &Record) -> DecodeOutcome {
    let environment = Environment::new(Some("folio")).with_pubsub(true);
    decode::decode_record(record, &environment.parse(&record.position.topic).unwrap(), CLUSTER)
}

fn event(record: &Record) -> Event {
    match decode_record(record) {
        DecodeOutcome::Event(_, event) => *event,
        other => panic!("not an event: {other:?}"),
    }
}

/// Returns the outcome of a record in one line, for a table.
fn outcome(record: &Record) -> String {
    match decode_record(record) {
        DecodeOutcome::Event(tenant, event) => {
            let (key, time) = (event.identified_by.name(), event.timed_by.name());
            format!("{tenant}: key by {key}, time by {time}")
        }
        DecodeOutcome::Rejected(tenant, reject) => {
            let tenant = tenant.map_or("no tenant".to_owned(), |tenant| tenant.to_string());
            format!("{tenant}: {} {}", reject.reason.name(), reject.field.unwrap_or("-"))
        }
        DecodeOutcome::Tombstone => "tombstone".to_owned(),
        DecodeOutcome::Skipped(tenant) => format!("{tenant}: skipped"),
    }
}

fn rejected(record: &Record) -> (Reason, Option<&'static str>) {
    match decode_record(record) {
        DecodeOutcome::Rejected(_, reject) => (reject.reason, reject.field),
        other => panic!("not rejected: {other:?}"),
    }
}

#[test]
fn every_recorded_payload_is_decoded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records");
    for kind in Kind::ALL {
        let mut files: Vec<_> =
            fs::read_dir(folder.join(kind.name())).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        let shapes: &[&str] = if Kind::BUSINESS.contains(&kind) {
            &["flat", "enveloped", "wrapped", "changed", "changed_without_data", "stored_by_pubsub"]
        } else {
            &["created", "updated", "deleted", "changed_without_data", "reindexed"]
        };
        for shape in shapes {
            let name = format!("{shape}.json");
            assert!(files.iter().any(|file| file.ends_with(&name)), "{kind:?} in shape {shape}");
        }
        let mut read_as = String::new();
        for file in files {
            let reading = decode_record(&record(kind, "northlib", &fs::read(&file).unwrap()));
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
fn payload_that_is_no_json_object_is_malformed() {
    let brackets = "[".repeat(1 << 20);
    let nested = format!(r#"{{"loanId":{}1{}}}"#, "[".repeat(1 << 19), "]".repeat(1 << 19));
    for payload in ["", "not json", "[]", "7", "null", "{", "\u{feff}{}", &brackets] {
        assert_eq!(rejected(&record(IN, "northlib", payload.as_bytes())).0, Reason::MalformedJson);
    }
    assert_eq!(
        rejected(&record(IN, "northlib", b"{\"loanId\":\"\xff\"}")).0,
        Reason::MalformedJson
    );
    // The deep nesting is inside a member that the decoder skips.
    assert_eq!(
        rejected(&record(IN, "northlib", nested.as_bytes())),
        (Reason::BadField, Some("loanId"))
    );
}

#[test]
fn record_without_value_is_a_tombstone() {
    let mut tombstone = record(IN, "northlib", b"");
    tombstone.payload = None;
    assert_eq!(decode_record(&tombstone), DecodeOutcome::Tombstone);
}

#[test]
fn event_key_comes_from_envelope_id_or_record_position() {
    let key = |record: &Record| event(record).key;
    let first = record(IN, "northlib", &check_in());
    let mut again = first.clone();
    assert_eq!(key(&first), key(&again));
    again.position.offset += 1;
    assert_ne!(key(&first), key(&again));
    let mut recreated_topic = first.clone();
    recreated_topic.timestamp = DateTime::from_timestamp_millis(RECORDED_AT + 1);
    assert_ne!(key(&first), key(&recreated_topic));

    let id = "f1d0a9c4-7e25-4b3a-8c61-0b9d2e5f7a66";
    let body = format!(
        r#"{{"id":"{id}","type":"CREATED","timestamp":{RECORDED_AT},"data":{{"loanId":"{LOAN}"}}}}"#
    );
    assert_eq!(key(&record(IN, "northlib", body.as_bytes())).to_string(), id);
}

/// Event keys must stay the same across upgrades, or repeated records would count as new.
#[test]
fn record_without_timestamp_is_keyed_with_minus_1() {
    let body = format!(r#"{{"timestamp":{RECORDED_AT},"data":{{"loanId":"{LOAN}"}}}}"#);
    let mut timeless = record(IN, "northlib", body.as_bytes());
    timeless.timestamp = None;
    let place = format!("{CLUSTER}/folio.northlib.circulation.ITEM_CHECKED_IN/3/42/-1");
    assert_eq!(event(&timeless).key, Uuid::new_v5(&Uuid::NAMESPACE_URL, place.as_bytes()));
}

#[test]
fn reject_names_the_member_and_the_rule() {
    let message = |payload: &str| match decode_record(&record(IN, "northlib", payload.as_bytes())) {
        DecodeOutcome::Rejected(_, reject) => reject.to_string(),
        other => panic!("not rejected: {other:?}"),
    };
    assert_eq!(message(r#"{"loanId":"0"}"#), "loanId must be a UUID of version 1 to 5");
    assert_eq!(message("[]"), "the value is not a JSON object");
}
