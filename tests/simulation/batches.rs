//! Single batches over the model: what is told of them.

use std::{
    future::Future,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use chrono::TimeDelta;
use patron_blocks::{
    event::{Environment, Place, Reading, Record, TenantId, decode},
    flow::{
        ingest::{Incoming, Ingest},
        outcome::{End, Hold, Outcome, Tally},
        stop_rule::StopRule,
    },
};
use serde_json::json;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    log::{CLUSTER, NORTH},
    model::{Broken, Model},
};
use crate::history::noon;

const TOPIC: &str = "sim.north.circulation.LOAN_CLOSED";
const RULE: StopRule = StopRule { in_a_row: 2, of_window: 1000 };

fn incoming(offset: i64, payload: Option<Vec<u8>>) -> Incoming {
    Incoming {
        record: Record {
            place: Place { topic: TOPIC.into(), partition: 0, offset },
            timestamp: Some(noon() + TimeDelta::milliseconds(offset)),
            key: None,
            headers: Vec::new(),
            payload,
        },
        topic: Arc::new(Environment::new(Some("sim")).parse(TOPIC).unwrap()),
        cluster: CLUSTER.into(),
        kept: true,
    }
}

/// The end of a loan, in an envelope with the loan's id.
fn end(offset: i64, loan: u128) -> Incoming {
    let id = uuid::Builder::from_random_bytes(loan.to_be_bytes()).into_uuid();
    let payload = json!({
        "id": id, "type": "CREATED", "timestamp": noon().timestamp_millis(),
        "data": { "loanId": id, "userId": id },
    });
    incoming(offset, Some(payload.to_string().into_bytes()))
}

fn key(incoming: &Incoming) -> Uuid {
    match decode::read(&incoming.record, &incoming.topic, CLUSTER) {
        Reading::Event(_, event) => event.key,
        other => panic!("not understood: {other:?}"),
    }
}

fn model(enabled: &[&str]) -> Model {
    let enabled = enabled.iter().map(|name| TenantId::parse(name).unwrap()).collect();
    Model::new(0, enabled, Broken::Not)
}

fn settle(ingest: &Ingest<Model>, batch: &[Incoming]) -> Outcome {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    let _inside = runtime.enter();
    let (batch, stop) = (batch.iter().collect::<Vec<_>>(), CancellationToken::new());
    let mut settled = pin!(tokio::task::unconstrained(ingest.settle(&batch, &stop)));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        // The model wakes nobody: it is looked at until it is done.
        if let Poll::Ready(outcome) = settled.as_mut().poll(&mut context) {
            return outcome.unwrap();
        }
    }
}

fn ingest(model: &Model) -> Ingest<Model> {
    Ingest::new(model.clone(), Duration::from_secs(60), RULE)
}

#[test]
fn each_record_is_counted_as_what_it_was() {
    let batch = [end(0, 1), end(1, 1), incoming(2, Some(b"{}".to_vec())), incoming(3, None)];
    let model = model(&[NORTH]);
    let ingest = ingest(&model);
    let expected = Tally { applied: 1, repeated: 1, parked: 1, tombstones: 1, passed_by: 0 };
    assert_eq!(settle(&ingest, &batch).tally, expected);
    let again = settle(&ingest, &batch);
    assert_eq!(again.tally, Tally { applied: 0, repeated: 2, ..expected });
    let at = (TOPIC.into(), 0);
    assert_eq!(again.ends.get(&at), Some(End { next: 4, kept: true, hold: None }));
}

#[test]
fn of_a_tenant_who_is_not_enabled_nothing_is_kept() {
    let model = model(&[]);
    let outcome = settle(&ingest(&model), &[end(0, 1), incoming(1, None)]);
    assert_eq!(outcome.tally, Tally { passed_by: 1, tombstones: 1, ..Tally::default() });
    let at = (TOPIC.into(), 0);
    assert_eq!(outcome.ends.get(&at), Some(End { next: 2, kept: false, hold: None }));
    assert!(model.state().rows.is_empty());
}

#[test]
fn records_that_the_database_refuses_stop_a_partition_as_bad_ones_do() {
    let batch = [end(0, 1), end(1, 2), end(2, 3)];
    let model = model(&[NORTH]);
    model.state().refused.extend([key(&batch[1]), key(&batch[2])]);
    let outcome = settle(&ingest(&model), &batch);
    assert_eq!(outcome.tally, Tally { applied: 1, parked: 2, ..Tally::default() });
    let at = (TOPIC.into(), 0);
    let end = outcome.ends.get(&at);
    assert_eq!(end, Some(End { next: 3, kept: true, hold: Some(Hold::Stopped) }));
    assert!(model.state().stopped.contains(&(TOPIC.to_owned(), 0)));
}
