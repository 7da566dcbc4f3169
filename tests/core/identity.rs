//! The identity of an event (docs/contract/events.md#5-identity), against invariant I1 of
//! ARCHITECTURE.md. The inbox accepts each key once. Two records may share a key only if their order of
//! reading does not matter.

use std::collections::HashSet;

use chrono::DateTime;
use patron_blocks::event::{self, DecodeOutcome, Environment, Event, Kind, Record, RecordPosition};
use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};

use crate::core::merging::fold_events;

const SENT_AT: i64 = 1_788_300_000_000;

/// A copy of one of three envelopes, as a producer's retries publish it: the same envelope at another
/// position and time. The envelopes contain different facts about one loan. Some have a time of their
/// own, which some record timestamps contradict.
fn envelope_copy() -> impl Strategy<Value = Record> {
    let minutes = prop_oneof![Just(0), -20..20_i64];
    (0..3_u8, minutes, 0..2_i32, 0..40_i64).prop_map(|(which, minutes, partition, offset)| {
        let envelope_time = [None, Some(SENT_AT), Some(SENT_AT + 60_000)][usize::from(which)];
        let kind = Kind::LoanDueDateChanged;
        let topic = format!("folio.northlib.{}.{}", kind.producer(), kind.name());
        Record {
            position: RecordPosition { topic: topic.into(), partition, offset },
            timestamp: DateTime::from_timestamp_millis(SENT_AT + minutes * 60_000),
            key: None,
            headers: Vec::new(),
            payload: Some(envelope(which, envelope_time).to_string().into_bytes()),
        }
    })
}

fn envelope(which: u8, envelope_time: Option<i64>) -> Value {
    json!({
        "id": format!("f1d0a9c4-7e25-4b3a-8c61-0b9d2e5f7a6{which}"),
        "type": "UPDATED",
        "timestamp": envelope_time,
        "data": {
            "userId": "7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01",
            "loanId": "0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11",
            "dueDate": format!("2026-09-1{which}T12:00:00Z"),
            "dueDateChangedByRecall": which == 1,
        },
    })
}

/// Returns the events of `records` that the inbox accepts: the first per key.
fn claimed_events(records: &[Record]) -> Vec<Event> {
    let mut keys = HashSet::new();
    let events = records.iter().map(|record| {
        let topic = Environment::new(Some("folio")).parse(&record.position.topic).unwrap();
        match event::decode_record(record, &topic, "cluster") {
            DecodeOutcome::Event(_, event) => *event,
            other => panic!("not an event: {other:?}"),
        }
    });
    events.filter(|event| keys.insert(event.key)).collect()
}

proptest! {
    #[test]
    fn envelope_copies_converge_for_any_record_time(
        (sent, arrived) in vec(envelope_copy(), 1..8).prop_flat_map(|sent| {
            let again = [sent.clone(), sent.clone()].concat();
            (Just(sent), Just(again).prop_shuffle())
        }),
    ) {
        prop_assert_eq!(fold_events(&claimed_events(&sent)), fold_events(&claimed_events(&arrived)));
    }

    #[test]
    fn envelope_copy_with_own_time_is_a_duplicate(
        minutes in vec(-5..600_i64, 1..6),
    ) {
        let body = envelope(1, Some(SENT_AT)).to_string().into_bytes();
        let copies: Vec<Record> = minutes.iter().zip(0..).map(|(minutes, offset)| Record {
            position: RecordPosition {
                topic: "folio.ALL.circulation.LOAN_DUE_DATE_CHANGED".into(), partition: 0, offset,
            },
            timestamp: DateTime::from_timestamp_millis(SENT_AT + minutes * 60_000),
            key: None,
            headers: vec![("folio.tenantId".to_owned(), b"northlib".to_vec())],
            payload: Some(body.clone()),
        }).collect();
        let taken = claimed_events(&copies);
        prop_assert_eq!(taken.len(), 1);
        prop_assert_eq!(taken[0].key.to_string(), "f1d0a9c4-7e25-4b3a-8c61-0b9d2e5f7a61");
    }
}
