//! The result of a batch: the number of records per outcome, and the progress of each partition.

use std::{collections::BTreeMap, ops::Add, sync::Arc};

use crate::{
    event::{Record, RecordPosition, TenantId, TopicPartition},
    kafka::delivery::{ConsumedRecord, PartitionProgress, PauseReason},
    store::ingest::{
        incidents::{self, Incident},
        positions::{PositionUpdate, Positions},
    },
};

/// The result of a committed batch.
#[derive(Debug, Default)]
pub struct BatchOutcome {
    /// Number of records per outcome.
    pub counts: BatchCounts,
    /// Progress of each partition.
    pub progress: BatchProgress,
}

/// Numbers of a batch's records per outcome.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// Merged and durable.
    pub applied: usize,
    /// Already in the inbox.
    pub duplicates: usize,
    /// Parked as dead letters.
    pub dead_letters: usize,
    /// Skipped because their tenant is disabled.
    pub tenant_disabled: usize,
    /// Without a value.
    pub tombstones: usize,
    /// Skipped because the change is irrelevant to blocks.
    pub skipped: usize,
}

impl Add for BatchCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            applied: self.applied + other.applied,
            duplicates: self.duplicates + other.duplicates,
            dead_letters: self.dead_letters + other.dead_letters,
            tenant_disabled: self.tenant_disabled + other.tenant_disabled,
            tombstones: self.tombstones + other.tombstones,
            skipped: self.skipped + other.skipped,
        }
    }
}

/// The progress of each partition of a batch.
#[derive(Debug, Default)]
pub struct BatchProgress(BTreeMap<TopicPartition, PartitionProgress>);

/// Returns the partition of a record.
pub(super) fn topic_partition(record: &Record) -> TopicPartition {
    (Arc::clone(&record.position.topic), record.position.partition)
}

impl BatchProgress {
    /// Iterates over the partitions with their progress.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &PartitionProgress)> {
        self.0.iter()
    }

    /// Returns the progress of a partition.
    pub fn get(&self, topic_partition: &TopicPartition) -> Option<PartitionProgress> {
        self.0.get(topic_partition).copied()
    }

    /// Advances the partition of a record past the record.
    pub(super) fn advance(
        &mut self,
        ConsumedRecord { record, tenant_enabled, .. }: &ConsumedRecord,
    ) {
        let next = record.position.offset + 1;
        let topic_partition = (record.position.topic.clone(), record.position.partition);
        let progress = self.0.entry(topic_partition).or_insert(PartitionProgress {
            next,
            committed: *tenant_enabled,
            pause_reason: None,
        });
        progress.next = progress.next.max(next);
    }

    /// Pauses a partition after the records of this batch.
    pub(super) fn pause_partition(&mut self, topic_partition: TopicPartition, reason: PauseReason) {
        if let Some(progress) = self.0.get_mut(&topic_partition) {
            progress.pause_reason = Some(reason);
        }
    }

    /// Marks the tenant's own topics among these records as skipped, because the tenant is disabled.
    pub(super) fn mark_tenant_disabled<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a ConsumedRecord>,
    ) {
        for consumed in records.into_iter().filter(|consumed| consumed.topic.tenant.is_some()) {
            if let Some(progress) = self.0.get_mut(&topic_partition(&consumed.record)) {
                progress.committed = false;
            }
        }
    }

    /// Pauses the tenant's own topics before the first of these records.
    pub(super) fn pause_tenant_topics<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a ConsumedRecord>,
        reason: PauseReason,
    ) {
        let of_tenant = records.into_iter().filter(|consumed| consumed.topic.tenant.is_some());
        self.pause_before(of_tenant, reason);
    }

    /// Pauses all partitions of these records before the first of them. Records after it that were
    /// applied already are read again, and the inbox recognizes them as duplicates.
    pub(super) fn pause_before<'a>(
        &mut self,
        records: impl IntoIterator<Item = &'a ConsumedRecord>,
        reason: PauseReason,
    ) {
        for consumed in records {
            if let Some(progress) = self.0.get_mut(&topic_partition(&consumed.record)) {
                // The read position, because the log may have a gap before the record.
                progress.next =
                    progress.next.min(consumed.position.min(consumed.record.position.offset));
                // A partition that waits for an operator continues to wait.
                progress.pause_reason = progress
                    .pause_reason
                    .filter(|known| *known == PauseReason::BadRecordLimit)
                    .or(Some(reason));
            }
        }
    }

    /// Restarts partitions of shared topics at the stored position, because it was reset during the
    /// batch.
    pub(super) fn restart_collections(&mut self, positions: &Positions<'_>) {
        for ((topic, partition), reached) in positions {
            if let Some(progress) = self.0.get_mut(&(Arc::from(*topic), *partition)) {
                progress.next = progress.next.min(reached.read_from_offset);
                progress.pause_reason = progress.pause_reason.or(Some(PauseReason::Restart));
            }
        }
    }

    /// Returns the new positions of topics that belong to tenant collections.
    pub(super) fn collection_positions<'a>(&self, batch: &[&'a ConsumedRecord]) -> Positions<'a> {
        let is_of_collection = |incoming: &&&ConsumedRecord| incoming.topic.tenant.is_none();
        let mut positions = Positions::new();
        let mut read_from = BTreeMap::new();
        for ConsumedRecord { record, cluster, position, .. } in
            batch.iter().filter(is_of_collection)
        {
            let next_offset = record.position.offset + 1;
            let topic_partition = (&*record.position.topic, record.position.partition);
            let read_from = *read_from.entry(topic_partition).or_insert(*position);
            let progress = self.get(&(record.position.topic.clone(), record.position.partition));
            if progress.is_some_and(|progress| progress.next == next_offset) {
                let last_record_at = record.timestamp;
                let reached = PositionUpdate {
                    next_offset,
                    last_record_at,
                    cluster,
                    read_from_offset: read_from,
                };
                positions.insert(topic_partition, reached);
            }
        }
        positions
    }

    /// Returns the incidents to raise for paused partitions.
    pub(super) fn incidents(&self, batch: &[&ConsumedRecord]) -> Vec<Incident> {
        let tenants: BTreeMap<_, _> =
            batch.iter().map(|i| (&*i.record.position.topic, i.topic.tenant.clone())).collect();
        let paused = self.0.iter().filter_map(|(topic_partition, progress)| {
            Some((topic_partition, progress, incident_of(progress.pause_reason?)?))
        });
        paused
            .map(|((topic, partition), progress, (kind, detail))| Incident {
                kind,
                tenant: tenants.get(&**topic).cloned().flatten(),
                topic: topic.to_string(),
                partition: *partition,
                offsets: progress.next..progress.next,
                from_time: None,
                to_time: None,
                detail: detail.to_owned(),
            })
            .collect()
    }
}

const TENANT_UNWRITABLE_DETAIL: &str = "the service cannot write the tenant's tables; records of the \
    tenant's own topics wait in the log, records of tenant collections \
    are stored as dead letters, and the service retries all of them \
    every few seconds";

/// Returns the incident about an unwritable tenant, found at a record of a tenant collection. Equal
/// tenants and topics result in the same incident.
pub(super) fn tenant_unwritable(tenant: &TenantId, place: &RecordPosition) -> Incident {
    Incident {
        kind: incidents::IncidentKind::TenantUnusable,
        tenant: Some(tenant.clone()),
        topic: place.topic.to_string(),
        partition: place.partition,
        offsets: 0..0,
        from_time: None,
        to_time: None,
        detail: TENANT_UNWRITABLE_DETAIL.to_owned(),
    }
}

/// Returns the kind and the text of the incident to raise, if the reason needs one.
fn incident_of(reason: PauseReason) -> Option<(incidents::IncidentKind, &'static str)> {
    match reason {
        PauseReason::BadRecordLimit => Some((
            incidents::IncidentKind::PartitionStopped,
            "the service could not decode or store too many consecutive records, or too large a share \
             of the records; the dead letters state the reasons; the partition resumes when an operator \
             resolves this incident",
        )),
        PauseReason::TenantUnwritable => {
            Some((incidents::IncidentKind::TenantUnusable, TENANT_UNWRITABLE_DETAIL))
        }
        PauseReason::TenantMigrating | PauseReason::Restart => None,
    }
}
