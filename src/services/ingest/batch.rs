//! A decoded batch: the decode result and the owner of each record.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{
    bad_record_limit::BadRecordWindow,
    outcome::{BatchProgress, topic_partition},
};
use crate::{
    config::BadRecordLimit,
    event::{DecodeOutcome, Event, Record, Reject, TenantId, TopicPartition, decode},
    kafka::delivery::{ConsumedRecord, PauseReason},
    store::ingest::{
        dead_letters::DeadLetter,
        positions::{PositionUpdate, Positions},
    },
};

/// A record with its decode result.
pub(super) struct Item<'a> {
    pub(super) incoming: &'a ConsumedRecord,
    pub(super) kind: ItemKind,
}

/// The decode result of a record, as its tenant batch contains it.
pub(super) enum ItemKind {
    Event(Box<Event>),
    Rejected(Reject),
    /// A record that only advances the position: a tombstone, an irrelevant change, or a dead letter
    /// without a tenant.
    PositionOnly,
}

/// The records of one tenant in a batch, in log order.
pub(super) type TenantBatch<'a> = Vec<Item<'a>>;

/// The owner of a tenant batch. Records without a tenant sort first, because a tenant's position may
/// lie after them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) tenant: Option<TenantId>,
    /// `true` if the partitions' records were stored up to here. With `false` they were skipped while
    /// the tenant was disabled, and the skipped records must be read first.
    pub(super) tenant_enabled: bool,
}

/// A batch split by tenant, with the progress of each partition.
pub(super) struct Batch<'a> {
    pub(super) tenant_batches: BTreeMap<Owner, TenantBatch<'a>>,
    pub(super) progress: BatchProgress,
    pub(super) tombstones: usize,
    pub(super) skipped: usize,
}

/// Decoded records before the split by tenant.
pub(super) struct DecodedBatch<'a>(Vec<(&'a ConsumedRecord, DecodeOutcome)>);

impl<'a> DecodedBatch<'a> {
    /// Decodes the records.
    pub(super) fn decode(batch: &[&'a ConsumedRecord]) -> Self {
        let decode_record = |incoming: &&'a ConsumedRecord| {
            let ConsumedRecord { record, topic, cluster, .. } = incoming;
            (*incoming, decode::decode_record(record, topic, cluster))
        };
        Self(batch.iter().map(decode_record).collect())
    }

    /// Returns the tenants that own bad records or are named in bad records without an owner.
    pub(super) fn tenants_with_bad_records(&self) -> BTreeSet<TenantId> {
        let tenants_of = |(incoming, outcome): &(&ConsumedRecord, DecodeOutcome)| match outcome {
            DecodeOutcome::Rejected(Some(tenant), _) => BTreeSet::from([tenant.clone()]),
            DecodeOutcome::Rejected(None, _) => {
                decode::tenant_candidates(&incoming.record, &incoming.topic).tenants
            }
            _ => BTreeSet::new(),
        };
        self.0.iter().flat_map(tenants_of).collect()
    }

    /// Splits the records by tenant. If a partition reaches the bad record limit, it stops after the
    /// record that reached the limit, and later records stay in the log. Bad records of tenants that
    /// are not in `enabled` count for no limit (docs/decisions/0012).
    pub(super) fn split(
        self,
        windows: &mut HashMap<TopicPartition, BadRecordWindow>,
        limit: BadRecordLimit,
        enabled: &BTreeSet<TenantId>,
    ) -> Batch<'a> {
        let (tenant_batches, progress) = (BTreeMap::new(), BatchProgress::default());
        let mut batch = Batch { tenant_batches, progress, tombstones: 0, skipped: 0 };
        let mut stopped = HashSet::new();
        for (incoming, outcome) in self.0 {
            let partition = topic_partition(&incoming.record);
            if stopped.contains(&partition) {
                continue;
            }
            batch.progress.advance(incoming);
            let badness = classify_record(incoming, &outcome, enabled);
            batch.add(incoming, outcome);
            let Some(is_bad) = badness else { continue };
            if windows.entry(partition.clone()).or_default().record(is_bad, limit) {
                batch.progress.pause_partition(partition.clone(), PauseReason::BadRecordLimit);
                stopped.insert(partition);
            }
        }
        batch
    }
}

/// Returns whether a record counts as bad; `None` if it counts neither way. A bad record that names
/// no tenant counts, because a defect of the decoder makes all records look alike.
fn classify_record(
    incoming: &ConsumedRecord,
    outcome: &DecodeOutcome,
    enabled: &BTreeSet<TenantId>,
) -> Option<bool> {
    match outcome {
        DecodeOutcome::Rejected(Some(tenant), _) => enabled.contains(tenant).then_some(true),
        DecodeOutcome::Rejected(None, _) => {
            let named = decode::tenant_candidates(&incoming.record, &incoming.topic);
            (named.names_no_tenant || !named.tenants.is_disjoint(enabled)).then_some(true)
        }
        _ => Some(false),
    }
}

impl<'a> Batch<'a> {
    /// Adds a record to the batch of its tenant.
    fn add(&mut self, incoming: &'a ConsumedRecord, outcome: DecodeOutcome) {
        let of_topic = &incoming.topic.tenant;
        let tenant_batches = &mut self.tenant_batches;
        let mut put = |tenant: Option<TenantId>, kind| {
            let tenant_enabled = incoming.tenant_enabled || tenant.is_none();
            tenant_batches
                .entry(Owner { tenant, tenant_enabled })
                .or_default()
                .push(Item { incoming, kind });
        };
        match outcome {
            DecodeOutcome::Event(tenant, event) => put(Some(tenant), ItemKind::Event(event)),
            DecodeOutcome::Rejected(Some(tenant), reject) => {
                put(Some(tenant), ItemKind::Rejected(reject))
            }
            DecodeOutcome::Rejected(None, reject) => {
                put(None, ItemKind::Rejected(reject));
                if of_topic.is_some() {
                    put(of_topic.clone(), ItemKind::PositionOnly);
                }
            }
            DecodeOutcome::Skipped(tenant) => {
                self.skipped += 1;
                put(Some(tenant), ItemKind::PositionOnly);
            }
            DecodeOutcome::Tombstone => {
                self.tombstones += 1;
                // In a shared topic a tombstone has no owner, and the position belongs to the topic.
                if of_topic.is_some() {
                    put(of_topic.clone(), ItemKind::PositionOnly);
                }
            }
        }
    }
}

impl<'a> Item<'a> {
    pub(super) fn topic_partition(&self) -> TopicPartition {
        topic_partition(&self.incoming.record)
    }

    /// Returns whether the item is a record of this batch, and not only a position.
    pub(super) fn is_record(&self) -> bool {
        !matches!(self.kind, ItemKind::PositionOnly)
    }

    pub(super) fn event(&self) -> Option<(&'a Record, &Event)> {
        match &self.kind {
            ItemKind::Event(event) => Some((&self.incoming.record, event)),
            ItemKind::Rejected(_) | ItemKind::PositionOnly => None,
        }
    }

    pub(super) fn dead_letter(&self) -> Option<DeadLetter<'_>> {
        match &self.kind {
            ItemKind::Rejected(reject) => Some(self.dead_letter_for(reject)),
            ItemKind::Event(_) | ItemKind::PositionOnly => None,
        }
    }

    pub(super) fn dead_letter_for<'b>(&'b self, reject: &'b Reject) -> DeadLetter<'b> {
        let ConsumedRecord { record, cluster, .. } = self.incoming;
        DeadLetter { id: decode::position_key(record, cluster), record, cluster, reject }
    }

    pub(super) fn is_of_collection(&self) -> bool {
        self.incoming.topic.tenant.is_none()
    }
}

/// Returns the records of a tenant batch.
pub(super) fn records<'a>(items: &'a [Item<'_>]) -> impl Iterator<Item = &'a ConsumedRecord> {
    items.iter().map(|item| item.incoming)
}

/// Returns the new position of each partition of a tenant batch.
pub(super) fn positions<'a>(items: &'a [Item<'_>]) -> Positions<'a> {
    let mut positions = Positions::new();
    for Item { incoming: ConsumedRecord { record, topic, cluster, position, .. }, .. } in items {
        let reached = PositionUpdate {
            next_offset: record.position.offset + 1,
            last_record_at: record.timestamp,
            cluster,
            // In a shared topic, records of other tenants lie in between.
            read_from_offset: if topic.tenant.is_some() { *position } else { i64::MIN },
        };
        positions
            .entry((&*record.position.topic, record.position.partition))
            .and_modify(|known: &mut PositionUpdate<'_>| {
                let read_from = known.read_from_offset.min(reached.read_from_offset);
                if known.next_offset < reached.next_offset {
                    *known = reached;
                }
                known.read_from_offset = read_from;
            })
            .or_insert(reached);
    }
    positions
}
