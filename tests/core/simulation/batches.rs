//! Single batches over the model: the outcome of each.

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
    config::BadRecordLimit,
    event::{DecodeOutcome, Environment, Record, RecordPosition, TenantId, decode},
    kafka::{
        assignment::Assignment,
        delivery::{ConsumedRecord, PartitionProgress, PauseReason, QueuedRecord},
    },
    services::ingest::{
        Ingest,
        outcome::{BatchCounts, BatchOutcome},
        writer::Writer,
    },
};
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    log::{CLUSTER, NORTH},
    model::{InjectedFault, Model},
};
use crate::support::history::noon;

const TOPIC: &str = "sim.north.circulation.LOAN_CLOSED";
const COLLECTION: &str = "sim.ALL.circulation.LOAN_CLOSED";
const BAD_RECORD_LIMIT: BadRecordLimit = BadRecordLimit { consecutive: 2, per_window: 1000 };

fn consumed_record(offset: i64, payload: Option<Vec<u8>>) -> ConsumedRecord {
    ConsumedRecord {
        record: Record {
            position: RecordPosition { topic: TOPIC.into(), partition: 0, offset },
            timestamp: Some(noon() + TimeDelta::milliseconds(offset)),
            key: None,
            headers: Vec::new(),
            payload,
        },
        topic: Arc::new(Environment::new(Some("sim")).parse(TOPIC).unwrap()),
        cluster: CLUSTER.into(),
        tenant_enabled: true,
        position: offset,
    }
}

/// Returns an event that closes a loan, in an envelope with the loan's id.
fn loan_end(offset: i64, loan: u128) -> ConsumedRecord {
    let id = uuid::Builder::from_random_bytes(loan.to_be_bytes()).into_uuid();
    let payload = json!({
        "id": id, "type": "CREATED", "timestamp": noon().timestamp_millis(),
        "data": { "loanId": id, "userId": id },
    });
    consumed_record(offset, Some(payload.to_string().into_bytes()))
}

fn event_key(incoming: &ConsumedRecord) -> Uuid {
    match decode::decode_record(&incoming.record, &incoming.topic, CLUSTER) {
        DecodeOutcome::Event(_, event) => event.key,
        other => panic!("not understood: {other:?}"),
    }
}

fn model(enabled: &[&str]) -> Model {
    let enabled = enabled.iter().map(|name| TenantId::parse(name).unwrap()).collect();
    Model::new(0, enabled, InjectedFault::None)
}

/// Polls a future over the model until the future is ready; the model wakes no task.
fn run_to_completion<T>(future: impl Future<Output = T>) -> T {
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
        // A retry waits for a moment of time.
        runtime.block_on(tokio::time::advance(Duration::from_millis(10)));
    }
}

fn ingest_batch(ingest: &Ingest<Model>, batch: &[ConsumedRecord]) -> BatchOutcome {
    let (batch, stop) = (batch.iter().collect::<Vec<_>>(), CancellationToken::new());
    run_to_completion(ingest.commit_batch(&batch, &stop)).unwrap()
}

fn ingest(model: &Model) -> Ingest<Model> {
    Ingest::new(model.clone(), Clock::fixed_at(noon()), Duration::from_secs(60), BAD_RECORD_LIMIT)
}

#[test]
fn records_are_counted_by_outcome() {
    let batch = [
        loan_end(0, 1),
        loan_end(1, 1),
        consumed_record(2, Some(b"{}".to_vec())),
        consumed_record(3, None),
    ];
    let model = model(&[NORTH]);
    let ingest = ingest(&model);
    let expected = BatchCounts {
        applied: 1,
        duplicates: 1,
        dead_letters: 1,
        tombstones: 1,
        ..BatchCounts::default()
    };
    assert_eq!(ingest_batch(&ingest, &batch).counts, expected);
    let again = ingest_batch(&ingest, &batch);
    assert_eq!(again.counts, BatchCounts { applied: 0, duplicates: 2, ..expected });
    let at = (TOPIC.into(), 0);
    assert_eq!(
        again.progress.get(&at),
        Some(PartitionProgress { next: 4, committed: true, pause_reason: None })
    );
}

#[test]
fn records_of_disabled_tenant_are_not_stored() {
    let model = model(&[]);
    let outcome = ingest_batch(&ingest(&model), &[loan_end(0, 1), consumed_record(1, None)]);
    assert_eq!(
        outcome.counts,
        BatchCounts { tenant_disabled: 1, tombstones: 1, ..BatchCounts::default() }
    );
    let at = (TOPIC.into(), 0);
    assert_eq!(
        outcome.progress.get(&at),
        Some(PartitionProgress { next: 2, committed: false, pause_reason: None })
    );
    assert!(model.state().rows.is_empty());
}

#[test]
fn refused_records_stop_a_partition_like_bad_ones() {
    let batch = [loan_end(0, 1), loan_end(1, 2), loan_end(2, 3)];
    let model = model(&[NORTH]);
    model.state().refused.extend([event_key(&batch[1]), event_key(&batch[2])]);
    let outcome = ingest_batch(&ingest(&model), &batch);
    assert_eq!(
        outcome.counts,
        BatchCounts { applied: 1, dead_letters: 2, ..BatchCounts::default() }
    );
    let at = (TOPIC.into(), 0);
    let end = outcome.progress.get(&at);
    assert_eq!(
        end,
        Some(PartitionProgress {
            next: 3,
            committed: true,
            pause_reason: Some(PauseReason::BadRecordLimit)
        })
    );
    assert!(model.state().stopped.contains(&(TOPIC.to_owned(), 0)));
}

/// Moves a record to the topic of a tenant collection.
fn in_collection(incoming: ConsumedRecord) -> ConsumedRecord {
    let topic = Arc::new(Environment::new(Some("sim")).parse(COLLECTION).unwrap());
    let headers = vec![("folio.tenantId".to_owned(), NORTH.as_bytes().to_vec())];
    let position = RecordPosition { topic: COLLECTION.into(), ..incoming.record.position };
    ConsumedRecord { record: Record { position, headers, ..incoming.record }, topic, ..incoming }
}

/// A shared topic never pauses for one of its tenants: unwritable records become dead letters without a
/// tenant.
#[test]
fn collection_records_do_not_wait_for_unwritable_tenant() {
    let batch = [in_collection(loan_end(0, 1))];
    let model = model(&[NORTH]);
    model.state().unusable.insert(TenantId::parse(NORTH).unwrap());
    let outcome = ingest_batch(&ingest(&model), &batch);
    assert_eq!(outcome.counts, BatchCounts { dead_letters: 1, ..BatchCounts::default() });
    let end = outcome.progress.get(&(COLLECTION.into(), 0));
    assert_eq!(end, Some(PartitionProgress { next: 1, committed: true, pause_reason: None }));
    assert_eq!(model.state().rows[&None].dead_letters.len(), 1);
}

/// Bad records of disabled tenants do not pause the topic of a tenant collection.
#[test]
fn only_counted_bad_records_stop_a_shared_topic() {
    const HEADERS: [&str; 2] = ["folio.tenantId", "x-okapi-tenant"];
    let stops = BatchCounts { dead_letters: 2, ..BatchCounts::default() };
    let continued = BatchCounts { applied: 1, ..BatchCounts::default() };
    for (names, expected) in [
        (vec![NORTH], stops),
        (vec![NORTH, "south"], stops),
        (vec!["South-Lib", NORTH], stops),
        (vec![], stops),
        (vec!["south"], BatchCounts { tenant_disabled: 3, ..continued }),
        (vec!["south", "east"], BatchCounts { dead_letters: 3, ..continued }),
        (vec!["South-Lib"], BatchCounts { dead_letters: 3, ..continued }),
    ] {
        let headers = HEADERS.iter().zip(&names);
        let headers: Vec<_> =
            headers.map(|(h, name)| ((*h).to_owned(), name.as_bytes().to_vec())).collect();
        let bad = |offset| {
            let mut bad = in_collection(consumed_record(offset, Some(b"{}".to_vec())));
            bad.record.headers.clone_from(&headers);
            bad
        };
        let model = model(&[NORTH]);
        let batch = [bad(0), bad(1), bad(2), in_collection(loan_end(3, 1))];
        let outcome = ingest_batch(&ingest(&model), &batch);
        assert_eq!(outcome.counts, expected, "{names:?}");
        let pause_reason = (expected == stops).then_some(PauseReason::BadRecordLimit);
        let next = if pause_reason.is_some() { 2 } else { 4 };
        let end = outcome.progress.get(&(COLLECTION.into(), 0));
        assert_eq!(
            end,
            Some(PartitionProgress { next, committed: true, pause_reason }),
            "{names:?}"
        );
    }
}

#[test]
fn slow_tenant_batch_is_split() {
    let batch: Vec<ConsumedRecord> =
        (0..100).map(|n| loan_end(n, n.unsigned_abs().into())).collect();
    let model = model(&[NORTH]);
    model.state().timely_events.insert(TenantId::parse(NORTH).unwrap(), 3);
    let outcome = ingest_batch(&ingest(&model), &batch);
    assert_eq!(outcome.counts, BatchCounts { applied: 100, ..BatchCounts::default() });
    let end = outcome.progress.get(&(TOPIC.into(), 0));
    assert_eq!(end, Some(PartitionProgress { next: 100, committed: true, pause_reason: None }));
}

/// If even one event takes too long, the tenant's own topics pause at the first record that is not
/// durable.
#[test]
fn tenant_too_slow_for_one_record_pauses() {
    let (model, north) = (model(&[NORTH]), TenantId::parse(NORTH).unwrap());
    let ingest = ingest(&model);
    let known = ingest_batch(&ingest, &[loan_end(0, 1)]);
    assert_eq!(known.counts, BatchCounts { applied: 1, ..BatchCounts::default() });
    model.state().timely_events.insert(north.clone(), 0);
    // A transaction that only moves the position needs no time.
    //
    // Offset 3 of the tenant's own topic is a transaction marker.
    let last = ConsumedRecord { position: 3, ..loan_end(4, 4) };
    let batch = [consumed_record(1, None), loan_end(2, 2), in_collection(loan_end(3, 3)), last];
    let outcome = ingest_batch(&ingest, &batch);
    assert_eq!(
        outcome.counts,
        BatchCounts { dead_letters: 1, tombstones: 1, ..BatchCounts::default() }
    );
    let own = outcome.progress.get(&(TOPIC.into(), 0));
    assert_eq!(own.map(|end| end.pause_reason), Some(Some(PauseReason::TenantUnwritable)));
    assert!(own.is_some_and(|end| end.next <= 2), "{own:?}");
    let shared = outcome.progress.get(&(COLLECTION.into(), 0));
    assert_eq!(shared, Some(PartitionProgress { next: 4, committed: true, pause_reason: None }));
    model.state().timely_events.clear();
    let again = ingest_batch(&ingest, &batch);
    assert_eq!(again.counts, BatchCounts { applied: 3, tombstones: 1, ..BatchCounts::default() });
    assert_eq!(model.state().rows[&Some(north)].inbox.len(), 4);
}

/// The records after the one that reaches the bad record limit stay in the log, even in the same batch.
#[test]
fn records_after_stop_offset_are_not_committed() {
    let bad = |offset| consumed_record(offset, Some(b"{}".to_vec()));
    let own = [bad(0), bad(1), bad(2), loan_end(3, 1)];
    let shared = [bad(0), bad(1), bad(2), loan_end(3, 1)].map(in_collection);
    for (topic, tenant, batch) in [(TOPIC, TenantId::parse(NORTH), own), (COLLECTION, None, shared)]
    {
        let model = model(&[NORTH]);
        let outcome = ingest_batch(&ingest(&model), &batch);
        assert_eq!(outcome.counts, BatchCounts { dead_letters: 2, ..BatchCounts::default() });
        let end = outcome.progress.get(&(topic.into(), 0));
        assert_eq!(
            end,
            Some(PartitionProgress {
                next: 2,
                committed: true,
                pause_reason: Some(PauseReason::BadRecordLimit)
            })
        );
        let rows = &model.state().rows[&tenant];
        assert_eq!(rows.positions[&(topic.to_owned(), 0)].next_offset, 2);
    }
}

/// If the tenant is enabled during a batch, the partition restarts before its skipped records, even
/// without a notification.
#[test]
fn tenant_enabled_during_batch_restarts_partition() {
    let batch = [1, 2].map(|n| ConsumedRecord { tenant_enabled: false, ..loan_end(n, 1) });
    let model = model(&[NORTH]);
    let outcome = ingest_batch(&ingest(&model), &batch);
    let end = outcome.progress.get(&(TOPIC.into(), 0));
    assert_eq!(
        end,
        Some(PartitionProgress {
            next: 1,
            committed: false,
            pause_reason: Some(PauseReason::Restart)
        })
    );
    assert!(model.state().rows.is_empty());
}

/// A recreated log starts at offset zero again. The position of an old record would skip new records.
#[test]
fn records_of_an_earlier_epoch_are_not_committed() {
    let model = model(&[NORTH]);
    let assignment = Arc::new(Assignment::default());
    assignment.add([(TOPIC.to_owned(), 0)]);
    let early = assignment.epoch(TOPIC, 0).unwrap();
    assignment.restart(|_| true);
    let late = assignment.epoch(TOPIC, 0).unwrap();
    let (send, lane) = mpsc::channel(4);
    let (reports, received_reports) = std::sync::mpsc::channel();
    let writer = Writer::new(lane, Arc::new(ingest(&model)), assignment, reports, 4);
    for (offset, epoch) in [(50, early), (0, late)] {
        let permit = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let incoming = loan_end(offset, offset.unsigned_abs().into());
        send.try_send(QueuedRecord { incoming, epoch, memory_permit: permit }).ok().unwrap();
    }
    drop(send);
    run_to_completion(writer.run(CancellationToken::new()));
    let received_reports: Vec<_> = received_reports.iter().flatten().collect();
    let expected = PartitionProgress { next: 1, committed: true, pause_reason: None };
    assert_eq!(received_reports, [((Arc::<str>::from(TOPIC), 0), late, expected)]);
    let state = model.state();
    let rows = &state.rows[&Some(TenantId::parse(NORTH).unwrap())];
    assert_eq!(rows.inbox.len(), 1);
    assert_eq!(rows.positions[&(TOPIC.to_owned(), 0)].next_offset, 1);
}
