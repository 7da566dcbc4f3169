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

use super::assignment::{Assignment, AssignmentEpoch};
use crate::services::{
    ingest::{ConsumedRecord, Ingest},
    ledger::IngestStore,
    outcome::{BatchProgress, PartitionProgress, TopicPartition},
};

/// A record on its way to a writer.
pub struct QueuedRecord {
    /// The record.
    pub incoming: ConsumedRecord,
    /// The era in which it was read.
    pub epoch: AssignmentEpoch,
    /// Its share of the memory that waiting records may take; freed with it.
    pub memory_permit: OwnedSemaphorePermit,
}

/// How far a batch has come in partitions, each with the era in which its records were read.
pub type WriteReport = Vec<(TopicPartition, AssignmentEpoch, PartitionProgress)>;

/// The lane of a partition.
pub fn lane_of(topic: &str, partition: i32, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (topic, partition).hash(&mut hasher);
    (hasher.finish() % lanes as u64) as usize
}

/// A writer at the end of its lane.
pub struct Writer<S> {
    lane: mpsc::Receiver<QueuedRecord>,
    ingest: Arc<Ingest<S>>,
    assignment: Arc<Assignment>,
    reports: std_mpsc::Sender<WriteReport>,
    batch_records_max: usize,
    /// Partitions that ended differently than they began; nobody else may know yet. What comes of them
    /// in the same era is not what it seems.
    epoch_results: HashMap<TopicPartition, (AssignmentEpoch, EpochResult)>,
}

/// How a partition turned out in the middle of an era.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EpochResult {
    /// It is held: what comes later is left in the log.
    Paused,
    /// Its tenant was disabled: what comes later is passed by as well.
    TenantDisabled,
}

impl<S: IngestStore> Writer<S> {
    /// A writer of batches of at most so many records.
    pub fn new(
        lane: mpsc::Receiver<QueuedRecord>,
        ingest: Arc<Ingest<S>>,
        assignment: Arc<Assignment>,
        reports: std_mpsc::Sender<WriteReport>,
        batch_records_max: usize,
    ) -> Self {
        Self { lane, ingest, assignment, reports, batch_records_max, epoch_results: HashMap::new() }
    }

    /// Takes what waits, without waiting for more, and settles it, until `stop` or the lane's end.
    pub async fn run(mut self, stop: CancellationToken) {
        // However this writer ends, the service does not go on without it.
        let _end = stop.clone().drop_guard();
        let mut batch = Vec::with_capacity(self.batch_records_max);
        while self.lane.recv_many(&mut batch, self.batch_records_max).await > 0
            && !stop.is_cancelled()
        {
            batch.retain_mut(|queued| self.should_write(queued));
            let records: Vec<&ConsumedRecord> =
                batch.iter().map(|queued| &queued.incoming).collect();
            let Ok(outcome) = self.ingest.commit_batch(&records, &stop).await else { return };
            debug!(tally = ?outcome.counts, "writer: committed a batch");
            let report = self.report(&batch, &outcome.progress);
            batch.clear();
            if self.reports.send(report).is_err() {
                return;
            }
        }
    }

    /// What belongs to somebody else by now is read again by its new owner.
    fn should_write(&self, queued: &mut QueuedRecord) -> bool {
        let position = &queued.incoming.record.position;
        if self.assignment.epoch(&position.topic, position.partition) != Some(queued.epoch) {
            return false;
        }
        match self.epoch_results.get(&(position.topic.clone(), position.partition)) {
            Some((epoch, result)) if *epoch == queued.epoch => {
                queued.incoming.tenant_enabled &= *result != EpochResult::TenantDisabled;
                *result != EpochResult::Paused
            }
            _ => true,
        }
    }

    fn report(&mut self, batch: &[QueuedRecord], progress: &BatchProgress) -> WriteReport {
        let mut epochs = HashMap::new();
        for QueuedRecord { incoming, epoch, .. } in batch {
            let position = &incoming.record.position;
            epochs.insert((position.topic.clone(), position.partition), *epoch);
        }
        let mut report = WriteReport::with_capacity(epochs.len());
        for (topic_partition, partition) in progress.iter() {
            let Some(epoch) = epochs.get(topic_partition) else { continue };
            match partition {
                PartitionProgress { pause_reason: Some(_), .. } => self
                    .epoch_results
                    .insert(topic_partition.clone(), (*epoch, EpochResult::Paused)),
                PartitionProgress { committed: false, .. } => self
                    .epoch_results
                    .insert(topic_partition.clone(), (*epoch, EpochResult::TenantDisabled)),
                _ => None,
            };
            report.push((topic_partition.clone(), *epoch, *partition));
        }
        report
    }
}
