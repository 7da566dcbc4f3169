//! What became of a batch: how many records of which sort, and how far each partition has come.

use std::{collections::BTreeMap, ops::Add, sync::Arc};

use super::{batch::Item, ingest::ConsumedRecord};
use crate::{
    event::{RecordPosition, TenantId},
    store::{
        incidents::{self, Incident},
        positions::{PositionUpdate, Positions},
    },
};

/// A topic's partition.
pub type TopicPartition = (Arc<str>, i32);

/// What became of a batch.
#[derive(Debug, Default)]
pub struct BatchOutcome {
    /// How many records of which sort.
    pub counts: BatchCounts,
    /// How far each partition has come.
    pub progress: BatchProgress,
}

/// What became of a batch's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// Merged, and durable.
    pub applied: usize,
    /// Known already.
    pub duplicates: usize,
    /// Parked as dead letters.
    pub dead_letters: usize,
    /// Of a tenant that is not enabled.
    pub tenant_disabled: usize,
    /// Without a value.
    pub tombstones: usize,
    /// Of a change that means nothing to us.
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

/// How far a batch has come in each partition.
#[derive(Debug, Default)]
pub struct BatchProgress(BTreeMap<TopicPartition, PartitionProgress>);

/// How far a batch has come in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionProgress {
    /// Everything before this offset is durable or none of ours.
    pub next: i64,
    /// Whether it is: records of a tenant that isn't enabled are passed by and not kept.
    pub committed: bool,
    /// Why the partition does not go on, if it doesn't.
    pub pause_reason: Option<PauseReason>,
}

/// Why a partition does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PauseReason {
    /// Too many bad records: until an operator resumes it.
    BadRecordLimit,
    /// Its tenant's tables can't be written: for a while.
    TenantUnwritable,
    /// Its tenant's schema is being migrated: for a moment.
    TenantMigrating,
    /// What stands before its records has to be read first: its tenant was enabled while they were passed by,
    /// or its topic was made anew. It is begun anew, at once.
    Restart,
}

impl BatchProgress {
    /// Each partition and its end.
    pub fn iter(&self) -> impl Iterator<Item = (&TopicPartition, &PartitionProgress)> {
        self.0.iter()
    }

    /// The end of a partition.
    pub fn get(&self, topic_partition: &TopicPartition) -> Option<PartitionProgress> {
        self.0.get(topic_partition).copied()
    }

    /// The batch contains this record.
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

    /// The partition goes no further than this batch.
    pub(super) fn pause_partition(&mut self, topic_partition: TopicPartition, reason: PauseReason) {
        if let Some(progress) = self.0.get_mut(&topic_partition) {
            progress.pause_reason = Some(reason);
        }
    }

    /// These records' tenant isn't enabled: its own topics are passed by.
    pub(super) fn mark_tenant_disabled(&mut self, items: &[Item<'_>]) {
        for item in items.iter().filter(|item| item.incoming.topic.tenant.is_some()) {
            if let Some(progress) = self.0.get_mut(&item.topic_partition()) {
                progress.committed = false;
            }
        }
    }

    /// These records can't be kept yet: their tenant's own topics are held where they stood.
    pub(super) fn pause_tenant_topics(&mut self, items: &[Item<'_>], reason: PauseReason) {
        self.pause_before(items.iter().filter(|item| item.incoming.topic.tenant.is_some()), reason);
    }

    /// These records wait: all their partitions pause before the first of them. What comes after it and was
    /// applied already is read again, and known as a repeat.
    pub(super) fn pause_before<'a, 'b: 'a>(
        &mut self,
        items: impl IntoIterator<Item = &'a Item<'b>>,
        reason: PauseReason,
    ) {
        for item in items {
            if let Some(progress) = self.0.get_mut(&item.topic_partition()) {
                // Where it was read up to before: there may be a gap in the log before the record.
                progress.next = progress
                    .next
                    .min(item.incoming.position.min(item.incoming.record.position.offset));
                // What an operator has to resume stays so.
                progress.pause_reason = progress
                    .pause_reason
                    .filter(|known| *known == PauseReason::BadRecordLimit)
                    .or(Some(reason));
            }
        }
    }

    /// Topics of tenant collections whose position was set back since: they are begun anew from there.
    pub(super) fn restart_collections(&mut self, positions: &Positions<'_>) {
        for ((topic, partition), reached) in positions {
            if let Some(progress) = self.0.get_mut(&(Arc::from(*topic), *partition)) {
                progress.next = progress.next.min(reached.read_from_offset);
                progress.pause_reason = progress.pause_reason.or(Some(PauseReason::Restart));
            }
        }
    }

    /// Positions of topics that belong to no single tenant.
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

    /// What operators must know of partitions that are held.
    pub(super) fn incidents(&self, batch: &[&ConsumedRecord]) -> Vec<Incident> {
        let tenants: BTreeMap<_, _> =
            batch.iter().map(|i| (&*i.record.position.topic, i.topic.tenant.clone())).collect();
        let paused = self.0.iter().filter_map(|(topic_partition, progress)| {
            Some((topic_partition, progress, progress.pause_reason?.incident()?))
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

const TENANT_UNWRITABLE_DETAIL: &str = "the tenant's tables can't be written; records of its own topics wait in the log, those of tenant \
     collections are parked, and both are retried by the service every few seconds";

/// What operators must know of a tenant that can't be written, found at a record of a tenant collection.
/// The same tenant and topic are the same incident.
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

impl PauseReason {
    /// What operators must know of it, if anything.
    fn incident(self) -> Option<(incidents::IncidentKind, &'static str)> {
        match self {
            Self::BadRecordLimit => Some((
                incidents::IncidentKind::PartitionStopped,
                "too many records in a row, or too large a share, can't be understood or stored: the \
                 dead letters tell why; nothing more is read until this incident is resolved",
            )),
            Self::TenantUnwritable => {
                Some((incidents::IncidentKind::TenantUnusable, TENANT_UNWRITABLE_DETAIL))
            }
            Self::TenantMigrating | Self::Restart => None,
        }
    }
}
