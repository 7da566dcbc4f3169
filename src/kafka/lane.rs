//! A lane: a bounded queue of records to one writer. A partition always takes the same lane, so its
//! records are settled in their order and the position in the database has no holes.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, mpsc as std_mpsc},
};

use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::assignment::{Assignment, Era};
use crate::{
    event::Record,
    flow::ingest::{Incoming, Ingest},
};

/// Records in one transaction at most: beyond this latency grows faster than throughput
/// (docs/decisions/0005).
pub(super) const BATCH_MOST: usize = 2000;

/// Records that wait in a lane at most: the next batch fills while one is being written.
pub(super) const LANE_MOST: usize = BATCH_MOST;

/// A record on its way to a writer.
pub(super) struct Carried {
    pub(super) incoming: Incoming,
    pub(super) era: Era,
    /// Its share of the memory that waiting records may take; freed with it.
    pub(super) _room: OwnedSemaphorePermit,
}

/// Offsets that may be stored, because everything before them is durable.
pub(super) type Settled = HashMap<(Arc<str>, i32), (Era, i64)>;

/// The lane of a partition.
pub(super) fn lane_of(topic: &str, partition: i32, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (topic, partition).hash(&mut hasher);
    (hasher.finish() % lanes as u64) as usize
}

/// Takes what waits, without waiting for more, and settles it, until `stop` or the lane's end.
pub(super) async fn write(
    mut lane: mpsc::Receiver<Carried>,
    ingest: Arc<Ingest>,
    assignment: Arc<Assignment>,
    settled: std_mpsc::Sender<Settled>,
    stop: CancellationToken,
) {
    // However this writer ends, the service does not go on without it.
    let _end = stop.clone().drop_guard();
    let mut batch = Vec::with_capacity(BATCH_MOST);
    while lane.recv_many(&mut batch, BATCH_MOST).await > 0 && !stop.is_cancelled() {
        // What belongs to somebody else by now is read again by its new owner.
        batch.retain(|carried| is_owned(&assignment, carried));
        let records: Vec<&Incoming> = batch.iter().map(|carried| &carried.incoming).collect();
        let Ok(tally) = ingest.settle(&records, &stop).await else { return };
        debug!(?tally, "batch settled");
        if settled.send(offsets(&batch)).is_err() {
            return;
        }
        batch.clear();
    }
}

fn is_owned(assignment: &Assignment, carried: &Carried) -> bool {
    let place = &carried.incoming.record.place;
    assignment.era(&place.topic, place.partition) == Some(carried.era)
}

fn offsets(batch: &[Carried]) -> Settled {
    let mut settled = Settled::new();
    for Carried { incoming: Incoming { record: Record { place, .. }, .. }, era, .. } in batch {
        settled.insert((place.topic.clone(), place.partition), (*era, place.offset + 1));
    }
    settled
}
