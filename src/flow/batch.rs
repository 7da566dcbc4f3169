//! A batch once it is read: what each record turned out to be, and whose it is.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use super::{
    ingest::Incoming,
    outcome::{At, Ends, Hold},
    stop_rule::{StopRule, Watch},
};
use crate::{
    event::{Event, Reading, Record, Reject, TenantId, decode},
    store::{
        dead_letters::DeadLetter,
        positions::{Positions, Reached},
    },
};

/// A record and what it turned out to be.
pub(super) struct Item<'a> {
    pub(super) incoming: &'a Incoming,
    pub(super) what: What,
}

/// What a record is to the tenant whose share it is in.
pub(super) enum What {
    Event(Box<Event>),
    Dead(Reject),
    /// No value, no meaning, or parked for nobody already: only the position moves past it.
    Nothing,
}

/// What one tenant has in a batch, in the order in which it came.
pub(super) type Share<'a> = Vec<Item<'a>>;

/// Whose a share is. What belongs to nobody comes first: a tenant's position may lie behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Whose {
    pub(super) tenant: Option<TenantId>,
    /// Whether it comes from partitions whose records were kept up to here. Where they were passed by,
    /// because the tenant wasn't enabled, what was passed by has to be read first.
    pub(super) kept: bool,
}

/// A batch, by tenant, and how far it reaches in each partition.
pub(super) struct Batch<'a> {
    pub(super) shares: BTreeMap<Whose, Share<'a>>,
    pub(super) ends: Ends,
    pub(super) tombstones: usize,
    pub(super) skipped: usize,
}

/// Records that are read, and not put to their shares yet.
pub(super) struct Read<'a>(Vec<(&'a Incoming, Reading)>);

impl<'a> Read<'a> {
    /// Reads the records.
    pub(super) fn of(batch: &[&'a Incoming]) -> Self {
        let read = |incoming: &&'a Incoming| {
            let Incoming { record, topic, cluster, .. } = incoming;
            (*incoming, decode::read(record, topic, cluster))
        };
        Self(batch.iter().map(read).collect())
    }

    /// Tenants that bad records are of, or name.
    pub(super) fn suspects(&self) -> BTreeSet<TenantId> {
        let of = |(incoming, reading): &(&Incoming, Reading)| match reading {
            Reading::Dead(Some(tenant), _) => BTreeSet::from([tenant.clone()]),
            Reading::Dead(None, _) => decode::named(&incoming.record, &incoming.topic).tenants,
            _ => BTreeSet::new(),
        };
        self.0.iter().flat_map(of).collect()
    }

    /// Puts them to the shares of their tenants. Where a partition's bad records break the rule, it stops
    /// behind the one that broke it, and what comes later is left in the log. Bad records of tenants that are
    /// not `enabled` concern nobody here, and stop nothing (docs/decisions/0012).
    pub(super) fn share(
        self,
        watches: &mut HashMap<At, Watch>,
        rule: StopRule,
        enabled: &BTreeSet<TenantId>,
    ) -> Batch<'a> {
        let (shares, ends) = (BTreeMap::new(), Ends::default());
        let mut batch = Batch { shares, ends, tombstones: 0, skipped: 0 };
        let mut stopped = HashSet::new();
        for (incoming, reading) in self.0 {
            let at = at(&incoming.record);
            if stopped.contains(&at) {
                continue;
            }
            batch.ends.reach(incoming);
            let counts = counts(incoming, &reading, enabled);
            batch.add(incoming, reading);
            let Some(bad) = counts else { continue };
            if watches.entry(at.clone()).or_default().note(bad, rule) {
                batch.ends.hold(at.clone(), Hold::Stopped);
                stopped.insert(at);
            }
        }
        batch
    }
}

/// What a record counts as towards the rule: a bad one, a good one, or nothing. A bad record that names nobody
/// counts: if it is not the data that is wrong but the code, all records look like it.
fn counts(incoming: &Incoming, reading: &Reading, enabled: &BTreeSet<TenantId>) -> Option<bool> {
    match reading {
        Reading::Dead(Some(tenant), _) => enabled.contains(tenant).then_some(true),
        Reading::Dead(None, _) => {
            let named = decode::named(&incoming.record, &incoming.topic);
            (named.nobody || !named.tenants.is_disjoint(enabled)).then_some(true)
        }
        _ => Some(false),
    }
}

impl<'a> Batch<'a> {
    /// Adds a record to its tenant's share.
    fn add(&mut self, incoming: &'a Incoming, reading: Reading) {
        let of_topic = &incoming.topic.tenant;
        let shares = &mut self.shares;
        let mut put = |tenant: Option<TenantId>, what| {
            let kept = incoming.kept || tenant.is_none();
            shares.entry(Whose { tenant, kept }).or_default().push(Item { incoming, what });
        };
        match reading {
            Reading::Event(tenant, event) => put(Some(tenant), What::Event(event)),
            Reading::Dead(Some(tenant), reject) => put(Some(tenant), What::Dead(reject)),
            Reading::Dead(None, reject) => {
                put(None, What::Dead(reject));
                if of_topic.is_some() {
                    put(of_topic.clone(), What::Nothing);
                }
            }
            Reading::Skipped(tenant) => {
                self.skipped += 1;
                put(Some(tenant), What::Nothing);
            }
            Reading::Tombstone => {
                self.tombstones += 1;
                // In a topic of a tenant collection it is nobody's, and its position is the topic's.
                if of_topic.is_some() {
                    put(of_topic.clone(), What::Nothing);
                }
            }
        }
    }
}

impl<'a> Item<'a> {
    pub(super) fn at(&self) -> At {
        at(&self.incoming.record)
    }

    pub(super) fn event(&self) -> Option<(&'a Record, &Event)> {
        match &self.what {
            What::Event(event) => Some((&self.incoming.record, event)),
            What::Dead(_) | What::Nothing => None,
        }
    }

    pub(super) fn letter(&self) -> Option<DeadLetter<'_>> {
        match &self.what {
            What::Dead(reject) => Some(self.parked_for(reject)),
            What::Event(_) | What::Nothing => None,
        }
    }

    pub(super) fn parked_for<'b>(&'b self, reject: &'b Reject) -> DeadLetter<'b> {
        let Incoming { record, cluster, .. } = self.incoming;
        DeadLetter { id: decode::place_key(record, cluster), record, cluster, reject }
    }

    pub(super) fn is_of_a_collection(&self) -> bool {
        self.incoming.topic.tenant.is_none()
    }
}

fn at(record: &Record) -> At {
    (Arc::clone(&record.place.topic), record.place.partition)
}

/// How far a share has come in each partition.
pub(super) fn positions<'a>(items: &'a [Item<'_>]) -> Positions<'a> {
    let mut positions = Positions::new();
    for Item { incoming: Incoming { record, topic, cluster, position, .. }, .. } in items {
        let reached = Reached {
            next_offset: record.place.offset + 1,
            last_record_at: record.timestamp,
            cluster,
            // In a topic of a tenant collection records of others stand in between.
            read_from: if topic.tenant.is_some() { *position } else { i64::MIN },
        };
        positions
            .entry((&*record.place.topic, record.place.partition))
            .and_modify(|known: &mut Reached<'_>| {
                let read_from = known.read_from.min(reached.read_from);
                if known.next_offset < reached.next_offset {
                    *known = reached;
                }
                known.read_from = read_from;
            })
            .or_insert(reached);
    }
    positions
}
