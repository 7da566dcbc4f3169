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
use crate::flow::{
    ingest::{Incoming, Ingest},
    ledger::Ledger,
    outcome::{At, End, Ends},
};

/// A record on its way to a writer.
pub struct Carried {
    /// The record.
    pub incoming: Incoming,
    /// The era in which it was read.
    pub era: Era,
    /// Its share of the memory that waiting records may take; freed with it.
    pub room: OwnedSemaphorePermit,
}

/// How far a batch has come in partitions, each with the era in which its records were read.
pub type Settled = Vec<(At, Era, End)>;

/// The lane of a partition.
pub fn lane_of(topic: &str, partition: i32, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (topic, partition).hash(&mut hasher);
    (hasher.finish() % lanes as u64) as usize
}

/// A writer at the end of its lane.
pub struct Writer<L> {
    lane: mpsc::Receiver<Carried>,
    ingest: Arc<Ingest<L>>,
    assignment: Arc<Assignment>,
    settled: std_mpsc::Sender<Settled>,
    batch_most: usize,
    /// Partitions that ended differently than they began; nobody else may know yet. What comes of them
    /// in the same era is not what it seems.
    turned: HashMap<At, (Era, Turn)>,
}

/// How a partition turned out in the middle of an era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It is held: what comes later is left in the log.
    Held,
    /// Its tenant was disabled: what comes later is passed by as well.
    PassedBy,
}

impl<L: Ledger> Writer<L> {
    /// A writer of batches of at most so many records.
    pub fn new(
        lane: mpsc::Receiver<Carried>,
        ingest: Arc<Ingest<L>>,
        assignment: Arc<Assignment>,
        settled: std_mpsc::Sender<Settled>,
        batch_most: usize,
    ) -> Self {
        Self { lane, ingest, assignment, settled, batch_most, turned: HashMap::new() }
    }

    /// Takes what waits, without waiting for more, and settles it, until `stop` or the lane's end.
    pub async fn write(mut self, stop: CancellationToken) {
        // However this writer ends, the service does not go on without it.
        let _end = stop.clone().drop_guard();
        let mut batch = Vec::with_capacity(self.batch_most);
        while self.lane.recv_many(&mut batch, self.batch_most).await > 0 && !stop.is_cancelled() {
            batch.retain_mut(|carried| self.is_to_be_settled(carried));
            let records: Vec<&Incoming> = batch.iter().map(|carried| &carried.incoming).collect();
            let Ok(outcome) = self.ingest.settle(&records, &stop).await else { return };
            debug!(tally = ?outcome.tally, "writer: committed a batch");
            let settled = self.ends(&batch, &outcome.ends);
            batch.clear();
            if self.settled.send(settled).is_err() {
                return;
            }
        }
    }

    /// What belongs to somebody else by now is read again by its new owner.
    fn is_to_be_settled(&self, carried: &mut Carried) -> bool {
        let place = &carried.incoming.record.place;
        if self.assignment.era(&place.topic, place.partition) != Some(carried.era) {
            return false;
        }
        match self.turned.get(&(place.topic.clone(), place.partition)) {
            Some((era, turn)) if *era == carried.era => {
                carried.incoming.kept &= *turn != Turn::PassedBy;
                *turn != Turn::Held
            }
            _ => true,
        }
    }

    fn ends(&mut self, batch: &[Carried], ends: &Ends) -> Settled {
        let mut eras = HashMap::new();
        for Carried { incoming, era, .. } in batch {
            let place = &incoming.record.place;
            eras.insert((place.topic.clone(), place.partition), *era);
        }
        let mut settled = Settled::with_capacity(eras.len());
        for (at, end) in ends.iter() {
            let Some(era) = eras.get(at) else { continue };
            match end {
                End { hold: Some(_), .. } => self.turned.insert(at.clone(), (*era, Turn::Held)),
                End { kept: false, .. } => self.turned.insert(at.clone(), (*era, Turn::PassedBy)),
                _ => None,
            };
            settled.push((at.clone(), *era, *end));
        }
        settled
    }
}
