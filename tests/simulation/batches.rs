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
    clock::Clock,
    event::{Environment, Place, Reading, Record, TenantId, decode},
    flow::{
        ingest::{Incoming, Ingest},
        outcome::{End, Hold, Outcome, Tally},
        stop_rule::StopRule,
    },
    kafka::{
        assignment::Assignment,
        lane::{Carried, Writer},
    },
};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    log::{CLUSTER, NORTH},
    model::{Broken, Model},
};
use crate::history::noon;

const TOPIC: &str = "sim.north.circulation.LOAN_CLOSED";
const COLLECTION: &str = "sim.ALL.circulation.LOAN_CLOSED";
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
        position: offset,
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

/// Takes every step of a future over the model, which wakes nobody: it is looked at until it is done.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    let runtime = runtime.unwrap();
    let _inside = runtime.enter();
    let mut future = pin!(tokio::task::unconstrained(future));
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
            return outcome;
        }
        // For what waits a moment before it tries again.
        runtime.block_on(tokio::time::advance(Duration::from_millis(10)));
    }
}

fn settle(ingest: &Ingest<Model>, batch: &[Incoming]) -> Outcome {
    let (batch, stop) = (batch.iter().collect::<Vec<_>>(), CancellationToken::new());
    finish(ingest.settle(&batch, &stop)).unwrap()
}

fn ingest(model: &Model) -> Ingest<Model> {
    Ingest::new(model.clone(), Clock::standing_at(noon()), Duration::from_secs(60), RULE)
}

#[test]
fn each_record_is_counted_as_what_it_was() {
    let batch = [end(0, 1), end(1, 1), incoming(2, Some(b"{}".to_vec())), incoming(3, None)];
    let model = model(&[NORTH]);
    let ingest = ingest(&model);
    let expected = Tally { applied: 1, repeated: 1, parked: 1, tombstones: 1, ..Tally::default() };
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

/// As if it stood in the topic of a tenant collection.
fn in_collection(incoming: Incoming) -> Incoming {
    let topic = Arc::new(Environment::new(Some("sim")).parse(COLLECTION).unwrap());
    let headers = vec![("folio.tenantId".to_owned(), NORTH.as_bytes().to_vec())];
    let place = Place { topic: COLLECTION.into(), ..incoming.record.place };
    Incoming { record: Record { place, headers, ..incoming.record }, topic, ..incoming }
}

/// Such a topic can't wait for one of its tenants: what can't be written is parked for nobody.
#[test]
fn records_of_a_collection_do_not_wait_for_their_tenant() {
    let batch = [in_collection(end(0, 1))];
    let model = model(&[NORTH]);
    model.state().unusable.insert(TenantId::parse(NORTH).unwrap());
    let outcome = settle(&ingest(&model), &batch);
    assert_eq!(outcome.tally, Tally { parked: 1, ..Tally::default() });
    let end = outcome.ends.get(&(COLLECTION.into(), 0));
    assert_eq!(end, Some(End { next: 1, kept: true, hold: None }));
    assert_eq!(model.state().rows[&None].letters.len(), 1);
}

/// A topic of a tenant collection serves those that are enabled, whatever others write there.
#[test]
fn bad_records_stop_a_shared_topic_only_where_they_count() {
    const HEADERS: [&str; 2] = ["folio.tenantId", "x-okapi-tenant"];
    let stops = Tally { parked: 2, ..Tally::default() };
    let goes_on = Tally { applied: 1, ..Tally::default() };
    for (names, expected) in [
        (vec![NORTH], stops),
        (vec![NORTH, "south"], stops),
        (vec!["South-Lib", NORTH], stops),
        (vec![], stops),
        (vec!["south"], Tally { passed_by: 3, ..goes_on }),
        (vec!["south", "east"], Tally { parked: 3, ..goes_on }),
        (vec!["South-Lib"], Tally { parked: 3, ..goes_on }),
    ] {
        let headers = HEADERS.iter().zip(&names);
        let headers: Vec<_> =
            headers.map(|(h, name)| ((*h).to_owned(), name.as_bytes().to_vec())).collect();
        let bad = |offset| {
            let mut bad = in_collection(incoming(offset, Some(b"{}".to_vec())));
            bad.record.headers.clone_from(&headers);
            bad
        };
        let model = model(&[NORTH]);
        let batch = [bad(0), bad(1), bad(2), in_collection(end(3, 1))];
        let outcome = settle(&ingest(&model), &batch);
        assert_eq!(outcome.tally, expected, "{names:?}");
        let hold = (expected == stops).then_some(Hold::Stopped);
        let next = if hold.is_some() { 2 } else { 4 };
        let end = outcome.ends.get(&(COLLECTION.into(), 0));
        assert_eq!(end, Some(End { next, kept: true, hold }), "{names:?}");
    }
}

#[test]
fn a_share_that_takes_too_long_is_taken_in_parts() {
    let batch: Vec<Incoming> = (0..100).map(|n| end(n, n.unsigned_abs().into())).collect();
    let model = model(&[NORTH]);
    model.state().in_time.insert(TenantId::parse(NORTH).unwrap(), 3);
    let outcome = settle(&ingest(&model), &batch);
    assert_eq!(outcome.tally, Tally { applied: 100, ..Tally::default() });
    let end = outcome.ends.get(&(TOPIC.into(), 0));
    assert_eq!(end, Some(End { next: 100, kept: true, hold: None }));
}

/// Where even one takes too long, the tenant's own topics wait, from the first that is not durable on.
#[test]
fn a_tenant_for_whom_nothing_is_in_time_waits() {
    let (model, north) = (model(&[NORTH]), TenantId::parse(NORTH).unwrap());
    let ingest = ingest(&model);
    let known = settle(&ingest, &[end(0, 1)]);
    assert_eq!(known.tally, Tally { applied: 1, ..Tally::default() });
    model.state().in_time.insert(north.clone(), 0);
    // What only moves the position needs no time.
    // Offset 3 of the own topic is a mark of a transaction.
    let last = Incoming { position: 3, ..end(4, 4) };
    let batch = [incoming(1, None), end(2, 2), in_collection(end(3, 3)), last];
    let outcome = settle(&ingest, &batch);
    assert_eq!(outcome.tally, Tally { parked: 1, tombstones: 1, ..Tally::default() });
    let own = outcome.ends.get(&(TOPIC.into(), 0));
    assert_eq!(own.map(|end| end.hold), Some(Some(Hold::Unusable)));
    assert!(own.is_some_and(|end| end.next <= 2), "{own:?}");
    let shared = outcome.ends.get(&(COLLECTION.into(), 0));
    assert_eq!(shared, Some(End { next: 4, kept: true, hold: None }));
    model.state().in_time.clear();
    let again = settle(&ingest, &batch);
    assert_eq!(again.tally, Tally { applied: 3, tombstones: 1, ..Tally::default() });
    assert_eq!(model.state().rows[&Some(north)].inbox.len(), 4);
}

/// What comes after the record that breaks the rule is left in the log, in the same batch too.
#[test]
fn nothing_is_settled_beyond_where_a_partition_stops() {
    let bad = |offset| incoming(offset, Some(b"{}".to_vec()));
    let own = [bad(0), bad(1), bad(2), end(3, 1)];
    let shared = [bad(0), bad(1), bad(2), end(3, 1)].map(in_collection);
    for (topic, whose, batch) in [(TOPIC, TenantId::parse(NORTH), own), (COLLECTION, None, shared)]
    {
        let model = model(&[NORTH]);
        let outcome = settle(&ingest(&model), &batch);
        assert_eq!(outcome.tally, Tally { parked: 2, ..Tally::default() });
        let end = outcome.ends.get(&(topic.into(), 0));
        assert_eq!(end, Some(End { next: 2, kept: true, hold: Some(Hold::Stopped) }));
        let rows = &model.state().rows[&whose];
        assert_eq!(rows.positions[&(topic.to_owned(), 0)].next_offset, 2);
    }
}

/// What was passed by before comes first, also where nobody said that the tenant is enabled by now.
#[test]
fn a_tenant_who_was_enabled_meanwhile_begins_anew() {
    let batch = [1, 2].map(|n| Incoming { kept: false, ..end(n, 1) });
    let model = model(&[NORTH]);
    let outcome = settle(&ingest(&model), &batch);
    let end = outcome.ends.get(&(TOPIC.into(), 0));
    assert_eq!(end, Some(End { next: 1, kept: false, hold: Some(Hold::Anew) }));
    assert!(model.state().rows.is_empty());
}

/// In a log that was made anew the position of a record of the old one would pass over new ones.
#[test]
fn what_was_read_in_an_earlier_era_is_not_settled() {
    let model = model(&[NORTH]);
    let assignment = Arc::new(Assignment::default());
    assignment.add([(TOPIC.to_owned(), 0)]);
    let early = assignment.era(TOPIC, 0).unwrap();
    assignment.begin_anew(|_| true);
    let late = assignment.era(TOPIC, 0).unwrap();
    let (send, lane) = mpsc::channel(4);
    let (settle, settled) = std::sync::mpsc::channel();
    let writer = Writer::new(lane, Arc::new(ingest(&model)), assignment, settle, 4);
    for (offset, era) in [(50, early), (0, late)] {
        let room = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let incoming = end(offset, offset.unsigned_abs().into());
        send.try_send(Carried { incoming, era, room }).ok().unwrap();
    }
    drop(send);
    finish(writer.write(CancellationToken::new()));
    let settled: Vec<_> = settled.iter().flatten().collect();
    let expected = End { next: 1, kept: true, hold: None };
    assert_eq!(settled, [((Arc::<str>::from(TOPIC), 0), late, expected)]);
    let state = model.state();
    let rows = &state.rows[&Some(TenantId::parse(NORTH).unwrap())];
    assert_eq!(rows.inbox.len(), 1);
    assert_eq!(rows.positions[&(TOPIC.to_owned(), 0)].next_offset, 1);
}
