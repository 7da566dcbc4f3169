//! The writer: it commits the records of one lane in batches and reports the progress to the poller.

use std::{
    collections::HashMap,
    sync::{Arc, mpsc as std_mpsc},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{Ingest, ingest_store::IngestStore, outcome::BatchProgress};
use crate::{
    event::TopicPartition,
    kafka::{
        assignment::{Assignment, AssignmentEpoch},
        delivery::{ConsumedRecord, PartitionProgress, QueuedRecord, WriteReport},
    },
};

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
