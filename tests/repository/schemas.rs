//! The JSON schemas of the eight events, in `docs/events/`. Recorded and simulated payloads are valid,
//! and a payload is valid exactly if it can be applied.

use std::{fs, path::Path, sync::Arc};

use chrono::DateTime;
use jsonschema::Validator;
use patron_blocks::event::{DecodeOutcome, Environment, Kind, Record, RecordPosition, decode};
use serde_json::{Value, json};
use simulator::{
    model::Settings,
    wire::{Faults, Play, Shape, Wire},
};

fn file(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

fn schema(kind: Kind) -> (Value, Validator) {
    let schema = file(&format!("docs/events/{}.json", kind.name()));
    assert_eq!(schema["title"], kind.name());
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::validator_for(&schema).unwrap();
    (schema, validator)
}

/// Returns the validator of a message that the service publishes.
pub(crate) fn message_validator(name: &str) -> Validator {
    let schema = file(&format!("docs/messages/{name}.json"));
    assert_eq!(schema["title"], name);
    jsonschema::meta::validate(&schema).unwrap();
    jsonschema::options().should_validate_formats(true).build(&schema).unwrap()
}

/// Returns the event's own members without any wrapper; `None` for an envelope without data.
fn content(value: &Value) -> Option<Value> {
    if let Some(text) = value.get("eventPayload").and_then(Value::as_str) {
        return serde_json::from_str(text).ok();
    }
    let Some(kind) = value.get("type") else { return Some(value.clone()) };
    assert!(kind.is_string());
    let data = value.get("data").unwrap_or(value);
    let inner = data.get("map").or_else(|| data.get("new")).unwrap_or(data);
    inner.is_object().then(|| inner.clone())
}

#[test]
fn recorded_payloads_match_their_schema() {
    for kind in Kind::BUSINESS {
        let (_, validator) = schema(kind);
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/records").join(kind.name());
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let value: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
            let content = content(&value).unwrap_or_else(|| panic!("{}", path.display()));
            if let Err(error) = validator.validate(&content) {
                panic!("{}: {error} in {content}", path.display());
            }
        }
    }
}

#[test]
fn simulator_payloads_match_their_schema() {
    let validators = Kind::BUSINESS.map(|kind| (kind, schema(kind).1));
    let end = "2026-09-15T00:00:00Z".parse().unwrap();
    let settings = Settings { patrons: 200, days: 2, ..Settings::new(7, end) };
    let wire = Wire { shape: Shape::Mixed, ..Wire::new("folio", "northlib") };
    let (records, _) = Play::in_memory(&settings, &wire, Faults::NONE);
    let mut kinds = std::collections::BTreeSet::new();
    for record in records {
        let (kind, validator) = validators
            .iter()
            .find(|(kind, _)| record.topic.ends_with(kind.name()))
            .expect("each topic belongs to the service");
        let value = serde_json::from_slice(&record.payload).unwrap();
        let content = content(&value).expect("the message has content");
        assert!(validator.is_valid(&content), "{}: {content}", record.topic);
        kinds.insert(kind.name());
    }
    assert_eq!(kinds.len(), Kind::BUSINESS.len(), "all kinds were played");
}

fn is_applied(kind: Kind, payload: &Value) -> bool {
    let topic: Arc<str> = format!("folio.northlib.{}.{}", kind.producer(), kind.name()).into();
    let record: Record = Record {
        position: RecordPosition { topic: topic.clone(), partition: 0, offset: 0 },
        timestamp: DateTime::from_timestamp_millis(1_788_300_000_123),
        key: None,
        headers: Vec::new(),
        payload: Some(payload.to_string().into_bytes()),
    };
    let topic = Environment::new(Some("folio")).parse(&topic).unwrap();
    matches!(decode::decode_record(&record, &topic, "cluster"), DecodeOutcome::Event(..))
}

/// Members that reject no event from the log; over HTTP they must be valid too.
const MINOR_MEMBERS: [(Kind, &str); 3] = [
    (Kind::ItemCheckedIn, "userId"),
    (Kind::FeeFineBalanceChanged, "feeFineTypeId"),
    (Kind::FeeFineBalanceChanged, "loanId"),
];

/// Tests each member missing, or with each of these values.
#[test]
fn payload_is_valid_exactly_if_it_is_decoded() {
    let odd = [
        json!(null),
        json!("abc"),
        json!(""),
        json!(7),
        json!(true),
        json!("true"),
        json!(["x"]),
        json!({}),
        json!("12.50"),
        json!("2026-09-14"),
        json!("2026-09-14T21:59"),
        json!("2026-09-14T21:59:59.123456+0200"),
        json!("2026-09-14 21:59:59"),
        json!("00000000-0000-0000-0000-000000000000"),
        json!("7B1F0C52-9A3E-4D0E-8F66-2C4F5A9D1E01"),
    ];
    for kind in Kind::BUSINESS {
        let (schema, validator) = schema(kind);
        let whole = file(&format!("tests/records/{}/flat.json", kind.name()));
        for member in schema["properties"].as_object().unwrap().keys() {
            let mut without = whole.clone();
            without.as_object_mut().unwrap().remove(member);
            let changed = odd.iter().map(|odd| {
                let mut changed = whole.clone();
                changed[member] = odd.clone();
                changed
            });
            for payload in changed.chain([without]) {
                let applied = is_applied(kind, &payload);
                if MINOR_MEMBERS.contains(&(kind, member)) {
                    assert!(applied, "{kind:?} {payload}");
                } else {
                    assert_eq!(validator.is_valid(&payload), applied, "{kind:?} {payload}");
                }
            }
        }
    }
}
