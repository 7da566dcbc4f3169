//! What became of a batch: how many records of which sort, and how far each partition has come.

use std::{collections::BTreeMap, ops::Add, sync::Arc};

use super::{batch::Item, ingest::Incoming};
use crate::{
    event::{Place, TenantId},
    store::{
        incidents::{self, Incident},
        positions::{Positions, Reached},
    },
};

/// A topic's partition.
pub type At = (Arc<str>, i32);

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How many records of which sort.
    pub tally: Tally,
    /// How far each partition has come.
    pub ends: Ends,
}

/// What became of a batch's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Merged, and durable.
    pub applied: usize,
    /// Known already.
    pub repeated: usize,
    /// Parked as dead letters.
    pub parked: usize,
    /// Of a tenant that is not enabled.
    pub passed_by: usize,
    /// Without a value.
    pub tombstones: usize,
    /// Of a change that means nothing to us.
    pub skipped: usize,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            applied: self.applied + other.applied,
            repeated: self.repeated + other.repeated,
            parked: self.parked + other.parked,
            passed_by: self.passed_by + other.passed_by,
            tombstones: self.tombstones + other.tombstones,
            skipped: self.skipped + other.skipped,
        }
    }
}

/// How far a batch has come in each partition.
#[derive(Debug, Default)]
pub struct Ends(BTreeMap<At, End>);

/// How far a batch has come in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Everything before this offset is durable or none of ours.
    pub next: i64,
    /// Whether it is: records of a tenant that isn't enabled are passed by and not kept.
    pub kept: bool,
    /// Why the partition does not go on, if it doesn't.
    pub hold: Option<Hold>,
}

/// Why a partition does not go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hold {
    /// Too many bad records: until an operator resumes it.
    Stopped,
    /// Its tenant's tables can't be written: for a while.
    Unusable,
    /// Its tenant's schema is being migrated: for a moment.
    Migrating,
    /// What stands before its records has to be read first: its tenant was enabled while they were passed by,
    /// or its topic was made anew. It is begun anew, at once.
    Anew,
}

impl Ends {
    /// Each partition and its end.
    pub fn iter(&self) -> impl Iterator<Item = (&At, &End)> {
        self.0.iter()
    }

    /// The end of a partition.
    pub fn get(&self, at: &At) -> Option<End> {
        self.0.get(at).copied()
    }

    /// The batch contains this record.
    pub(super) fn reach(&mut self, Incoming { record, kept, .. }: &Incoming) {
        let next = record.place.offset + 1;
        let at = (record.place.topic.clone(), record.place.partition);
        let end = self.0.entry(at).or_insert(End { next, kept: *kept, hold: None });
        end.next = end.next.max(next);
    }

    /// The partition goes no further than this batch.
    pub(super) fn hold(&mut self, at: At, hold: Hold) {
        if let Some(end) = self.0.get_mut(&at) {
            end.hold = Some(hold);
        }
    }

    /// These records' tenant isn't enabled: its own topics are passed by.
    pub(super) fn pass_by(&mut self, items: &[Item<'_>]) {
        for item in items.iter().filter(|item| item.incoming.topic.tenant.is_some()) {
            if let Some(end) = self.0.get_mut(&item.at()) {
                end.kept = false;
            }
        }
    }

    /// These records can't be kept yet: their tenant's own topics are held where they stood.
    pub(super) fn hold_own(&mut self, items: &[Item<'_>], hold: Hold) {
        self.pause(items.iter().filter(|item| item.incoming.topic.tenant.is_some()), hold);
    }

    /// These records wait: all their partitions pause before the first of them. What comes after it and was
    /// applied already is read again, and known as a repeat.
    pub(super) fn pause<'a, 'b: 'a>(
        &mut self,
        items: impl IntoIterator<Item = &'a Item<'b>>,
        hold: Hold,
    ) {
        for item in items {
            if let Some(end) = self.0.get_mut(&item.at()) {
                // Where it was read up to before: there may be a gap in the log before the record.
                end.next =
                    end.next.min(item.incoming.position.min(item.incoming.record.place.offset));
                // What an operator has to resume stays so.
                end.hold = end.hold.filter(|known| *known == Hold::Stopped).or(Some(hold));
            }
        }
    }

    /// Topics of tenant collections whose position was set back since: they are begun anew from there.
    pub(super) fn hold_collections(&mut self, positions: &Positions<'_>) {
        for ((topic, partition), reached) in positions {
            if let Some(end) = self.0.get_mut(&(Arc::from(*topic), *partition)) {
                end.next = end.next.min(reached.read_from);
                end.hold = end.hold.or(Some(Hold::Anew));
            }
        }
    }

    /// Positions of topics that belong to no single tenant.
    pub(super) fn of_collections<'a>(&self, batch: &[&'a Incoming]) -> Positions<'a> {
        let of_collection = |incoming: &&&Incoming| incoming.topic.tenant.is_none();
        let mut positions = Positions::new();
        let mut read_from = BTreeMap::new();
        for Incoming { record, cluster, position, .. } in batch.iter().filter(of_collection) {
            let next_offset = record.place.offset + 1;
            let at = (&*record.place.topic, record.place.partition);
            let read_from = *read_from.entry(at).or_insert(*position);
            let end = self.get(&(record.place.topic.clone(), record.place.partition));
            if end.is_some_and(|end| end.next == next_offset) {
                let last_record_at = record.timestamp;
                let reached = Reached { next_offset, last_record_at, cluster, read_from };
                positions.insert(at, reached);
            }
        }
        positions
    }

    /// What operators must know of partitions that are held.
    pub(super) fn incidents(&self, batch: &[&Incoming]) -> Vec<Incident> {
        let tenants: BTreeMap<_, _> =
            batch.iter().map(|i| (&*i.record.place.topic, i.topic.tenant.clone())).collect();
        let held = self.0.iter().filter_map(|(at, end)| Some((at, end, end.hold?.incident()?)));
        held.map(|((topic, partition), end, (kind, detail))| Incident {
            kind,
            tenant: tenants.get(&**topic).cloned().flatten(),
            topic: topic.to_string(),
            partition: *partition,
            offsets: end.next..end.next,
            from_time: None,
            to_time: None,
            detail: detail.to_owned(),
        })
        .collect()
    }
}

const TENANT_UNUSABLE: &str = "the tenant's tables can't be written; records of its own topics wait in the log, those of tenant \
     collections are parked, and both are retried by the service every few seconds";

/// What operators must know of a tenant that can't be written, found at a record of a tenant collection.
/// The same tenant and topic are the same incident.
pub(super) fn tenant_unusable(tenant: &TenantId, place: &Place) -> Incident {
    Incident {
        kind: incidents::Kind::TenantUnusable,
        tenant: Some(tenant.clone()),
        topic: place.topic.to_string(),
        partition: place.partition,
        offsets: 0..0,
        from_time: None,
        to_time: None,
        detail: TENANT_UNUSABLE.to_owned(),
    }
}

impl Hold {
    /// What operators must know of it, if anything.
    fn incident(self) -> Option<(incidents::Kind, &'static str)> {
        match self {
            Self::Stopped => Some((
                incidents::Kind::PartitionStopped,
                "too many records in a row, or too large a share, can't be understood or stored: the \
                 dead letters tell why; nothing more is read until this incident is resolved",
            )),
            Self::Unusable => Some((incidents::Kind::TenantUnusable, TENANT_UNUSABLE)),
            Self::Migrating | Self::Anew => None,
        }
    }
}
