//! A lane: a bounded queue of records to one writer. A partition always uses the same lane, so its
//! writer commits records in order and the stored position has no gaps.

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

/// A record in a lane, on its way to a writer.
pub struct QueuedRecord {
    /// The record with its topic, cluster and position.
    pub incoming: ConsumedRecord,
    /// The epoch in which the record was read.
    pub epoch: AssignmentEpoch,
    /// The record's share of the buffer, in KiB; dropping the record frees it.
    pub memory_permit: OwnedSemaphorePermit,
}

/// The progress of a batch per partition, with the epoch in which the records were read.
pub type WriteReport = Vec<(TopicPartition, AssignmentEpoch, PartitionProgress)>;

/// Returns the lane of a partition, from 0 to `lanes - 1`.
pub fn lane_of(topic: &str, partition: i32, lanes: usize) -> usize {
    let mut hasher = DefaultHasher::new();
    (topic, partition).hash(&mut hasher);
    (hasher.finish() % lanes as u64) as usize
}

/// The task that commits the records of one lane.
pub struct Writer<S> {
    lane: mpsc::Receiver<QueuedRecord>,
    ingest: Arc<Ingest<S>>,
    assignment: Arc<Assignment>,
    reports: std_mpsc::Sender<WriteReport>,
    batch_records_max: usize,
    /// Partitions with a batch that ended in a pause or a disabled tenant. Until the poller applies
    /// the report, later records of that epoch get the treatment of the batch.
    epoch_results: HashMap<TopicPartition, (AssignmentEpoch, EpochResult)>,
}

/// The result of a batch for the rest of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EpochResult {
    /// The partition is paused: later records stay in the log.
    Paused,
    /// The tenant was disabled: later records are skipped, too.
    TenantDisabled,
}

impl<S: IngestStore> Writer<S> {
    /// Creates a writer of batches with at most `batch_records_max` records.
    pub fn new(
        lane: mpsc::Receiver<QueuedRecord>,
        ingest: Arc<Ingest<S>>,
        assignment: Arc<Assignment>,
        reports: std_mpsc::Sender<WriteReport>,
        batch_records_max: usize,
    ) -> Self {
        Self { lane, ingest, assignment, reports, batch_records_max, epoch_results: HashMap::new() }
    }

    /// Commits the records that wait in the lane, without waiting for more, until `stop` or the end
    /// of the lane.
    pub async fn run(mut self, stop: CancellationToken) {
        // If this writer ends for any reason, the guard stops the service.
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

    /// Returns `false` if the epoch has changed or the partition is paused: the next reading delivers
    /// the record again.
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
