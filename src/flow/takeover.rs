//! Taking over a partition: where reading begins, and what was lost, if anything.
//!
//! The position in the database, written with what was read, decides; the group's offset is a witness.
//! Whatever does not fit is an incident, and nothing is passed over in silence.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use tracing::warn;

use super::{outcome::At, tenants::Tenants};
use crate::{
    event::{Environment, TenantId, Topic},
    figures::figures,
    kafka::assignment::{Landmark, Remade},
    store::{
        self, Db, Schema, Verdict,
        incidents::{self, Incident, Kind},
        positions::{self, Position},
        tenants,
    },
};

/// What a log holds: the first offset, and the offset after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First offset that can be read.
    pub start: i64,
    /// The offset that the next record will get.
    pub end: i64,
}

/// The group's offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The offset.
    pub offset: i64,
    /// What stands beside it.
    pub mark: Mark,
}

/// What stands beside an offset of the group: by it our own commits are told from those of somebody
/// who moved the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// We committed it, and everything before it is in the database.
    Kept,
    /// We committed it, and the records before it were passed by: their tenant wasn't enabled.
    PassedBy,
    /// Somebody else did.
    Foreign,
}

impl Mark {
    /// As stored with the offset.
    pub fn text(self) -> &'static str {
        match self {
            Self::Kept => "patron-blocks kept",
            Self::PassedBy => "patron-blocks passed by",
            Self::Foreign => "",
        }
    }

    /// Reads what [`Mark::text`] wrote, or somebody else.
    pub fn read(text: &str) -> Self {
        let of_ours = |mark: &Self| mark.text() == text;
        [Self::Kept, Self::PassedBy].into_iter().find(of_ours).unwrap_or(Self::Foreign)
    }
}

/// All that is known of a partition when it is taken over.
#[derive(Debug, Clone)]
pub struct Known<'a> {
    /// The position in the database.
    pub position: Option<&'a Position>,
    /// Whether its records are kept: its tenant is enabled, or it belongs to no single one.
    pub kept: bool,
    /// The group's offset.
    pub committed: Option<Committed>,
    /// What the log holds.
    pub log: Span,
    /// The cluster's id.
    pub cluster: &'a str,
    /// Whether its topic turned out to have been made anew.
    pub remade: bool,
}

/// Something that does not fit: which incident it is, and which offsets it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Which.
    pub kind: Kind,
    /// The offsets, the last excluded.
    pub offsets: std::ops::Range<i64>,
}

/// Where reading begins, and what does not fit.
pub fn start_at(known: &Known<'_>) -> (i64, Option<Misfit>) {
    let Span { start, end } = known.log;
    // Beyond the end it is of the log before, which was longer: the client never commits less than it did.
    let committed = known.committed.filter(|committed| committed.offset <= end);
    let misfit = |kind, from: i64, to: i64| Some(Misfit { kind, offsets: from..to.max(from) });
    if !known.kept {
        // Nothing of it is kept, so the group's offset is all there is.
        let offset = committed.map_or(start, |committed| committed.offset);
        return (if (start..=end).contains(&offset) { offset } else { start }, None);
    }
    let Some(position) = known.position else {
        // Read from the beginning of what there is. That the group was further is right where the
        // records were passed by, and else says that the database has forgotten them.
        let ahead = committed.filter(|c| c.mark == Mark::Kept && c.offset > start);
        return (start, ahead.and_then(|c| misfit(Kind::DatabaseRestored, start, c.offset)));
    };
    let next = position.next_offset;
    let other_cluster = !position.cluster.is_empty() && position.cluster != known.cluster;
    // Where the position is zero nothing was read of the log before, or it was set back already.
    let remade = known.remade && next > 0;
    if remade || other_cluster || next > end {
        return (start, misfit(Kind::TopicMadeAnew, 0, next));
    }
    if next < start {
        return (start, misfit(Kind::RecordsLost, next, start));
    }
    // Where nothing was read since the position was reset, the group's offset is from the log before.
    match committed.filter(|_| position.last_record_at.is_some()) {
        Some(Committed { offset, mark: Mark::Kept }) if offset > next => {
            (next, misfit(Kind::DatabaseRestored, next, offset))
        }
        Some(Committed { offset, mark: Mark::Foreign }) if offset > next => {
            (next, misfit(Kind::GroupMovedAhead, next, offset))
        }
        Some(Committed { offset, mark: Mark::Foreign }) if offset < next => {
            // Somebody wants these records read again. It changes nothing, and it is done.
            let from = offset.max(start);
            (from, misfit(Kind::GroupSetBack, from, next))
        }
        _ => (next, None),
    }
}

/// A partition to take over.
#[derive(Debug, Clone)]
pub struct Candidate {
    /// Which.
    pub at: At,
    /// What its name says.
    pub topic: Arc<Topic>,
    /// The group's offset, read before [`Takeover::positions`] was.
    pub committed: Option<Committed>,
    /// Whether its topic turned out to have been made anew.
    pub remade: Remade,
}

/// How a partition is begun, and what has to be done before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// How.
    pub begin: Begin,
    /// What does not fit.
    pub misfit: Option<Misfit>,
    /// The offset from which on records are to be looked at, to tell when what does not fit was written.
    pub look: Option<i64>,
}

/// How a partition is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begin {
    /// Read from this offset.
    Read {
        /// The first offset to be settled.
        from: i64,
        /// Where the log begins.
        log_start: i64,
        /// Whether records are kept.
        kept: bool,
        /// The timestamp of the record before `from`, if it is known: it must be that record still.
        before: Option<DateTime<Utc>>,
    },
    /// Not read, until an operator resumes it.
    Stopped,
    /// Not read for now: its tenant's tables can't be read.
    Unusable,
}

/// What the database says about partitions, before the log is asked.
#[derive(Debug, Default)]
pub struct Positions {
    by_schema: HashMap<Option<TenantId>, HashMap<(String, i32), Position>>,
    enabled_since: HashMap<TenantId, DateTime<Utc>>,
    unusable: HashSet<TenantId>,
    /// Tenants are being migrated: topics of tenant collections wait.
    collections_wait: bool,
    stopped: HashSet<(String, i32)>,
    /// Tenants of whom an incident says that they could not be written: it ends when they can.
    pub in_doubt: Vec<TenantId>,
}

/// Takes partitions over.
pub struct Takeover {
    db: Db,
    tenants: Arc<Tenants>,
    module: Schema,
}

impl Takeover {
    /// `db` is the writers' pool.
    pub fn new(db: Db, tenants: Arc<Tenants>) -> Self {
        Self { db, tenants, module: Schema::module() }
    }

    /// Reads positions. To be called after the group's offsets were read and before the log is asked:
    /// so the one can't be ahead of a position, nor the other behind it, merely because another
    /// instance was still writing.
    pub async fn positions(
        &self,
        of: impl Iterator<Item = &Candidate> + Send,
    ) -> Result<Positions, store::Error> {
        self.tenants.ready().await;
        let tenants: BTreeSet<_> = of.map(|partition| partition.topic.tenant.clone()).collect();
        let mut found = Positions {
            stopped: incidents::stopped(&self.db).await?.into_iter().collect(),
            in_doubt: incidents::unusable(&self.db).await?,
            collections_wait: !self.tenants.is_caught_up(),
            ..Positions::default()
        };
        for tenant in tenants {
            let Some(id) = &tenant else {
                let positions = positions::list(&self.db, &self.module).await?;
                found.by_schema.insert(None, positions);
                continue;
            };
            let enabled = match self.tenants.find(id).await {
                Ok(Some(enabled)) => enabled,
                Ok(None) => continue,
                Err(error) if error.is_of_a_version_behind() => {
                    found.unusable.insert(id.clone());
                    continue;
                }
                Err(error) => return Err(error),
            };
            match positions::list(&self.db, &enabled.schema).await {
                Ok(positions) => {
                    found.by_schema.insert(Some(id.clone()), positions);
                    found.enabled_since.insert(id.clone(), enabled.since);
                }
                Err(error) if error.verdict() == Verdict::Unusable => {
                    warn!(tenant = %id, error = %crate::telemetry::Chain(&error),
                        "a tenant's tables can't be read; its topics wait");
                    found.unusable.insert(id.clone());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// Decides how a partition is begun, by what is known of it already.
    pub fn decide(
        &self,
        candidate: &Candidate,
        positions: &Positions,
        log: Span,
        cluster: &str,
    ) -> Decided {
        let Candidate { at: (topic, partition), .. } = candidate;
        let tenant = &candidate.topic.tenant;
        let place = (topic.to_string(), *partition);
        let settled = |begin| Decided { begin, misfit: None, look: None };
        if positions.stopped.contains(&place) {
            return settled(Begin::Stopped);
        }
        let waits = match tenant {
            Some(id) => positions.unusable.contains(id),
            None => positions.collections_wait,
        };
        if waits {
            return settled(Begin::Unusable);
        }
        let stored = positions.by_schema.get(tenant);
        let position = stored.and_then(|positions| positions.get(&place));
        let (from, misfit) = start_at(&Known {
            position,
            kept: stored.is_some(),
            committed: candidate.committed,
            log,
            cluster,
            remade: candidate.remade != Remade::No,
        });
        let untouched = position.filter(|position| position.next_offset == from);
        let begin = Begin::Read {
            from,
            log_start: log.start,
            kept: stored.is_some(),
            before: untouched
                .filter(|_| from > log.start)
                .and_then(|position| position.last_record_at),
        };
        let look = misfit.as_ref().map(|misfit| match misfit.kind {
            // Offsets of a log before this one mean nothing in it.
            Kind::TopicMadeAnew => from,
            _ => misfit.offsets.end - i64::from(position.is_none()),
        });
        Decided { begin, misfit, look }
    }

    /// Makes what does not fit durable as an incident, before the partition is begun. `records` are those that
    /// stand at [`Decided::look`], as far as they could be read.
    pub async fn conclude(
        &self,
        candidate: &Candidate,
        positions: &Positions,
        decided: &Decided,
        cluster: &str,
        records: &[Landmark],
    ) -> Result<(), store::Error> {
        let (Some(misfit), Begin::Read { from, .. }) = (&decided.misfit, &decided.begin) else {
            return Ok(());
        };
        let Candidate { at: (topic, partition), .. } = candidate;
        let tenant = &candidate.topic.tenant;
        let place = (topic.to_string(), *partition);
        let stored = positions.by_schema.get(tenant);
        let position = stored.and_then(|positions| positions.get(&place));
        // What the group had read last comes first, where it was looked at.
        if position.is_none() && is_of_before(tenant, positions, records.first()) {
            return Ok(());
        }
        let is_behind = |record: &&Landmark| {
            misfit.kind == Kind::TopicMadeAnew || record.offset >= misfit.offsets.end
        };
        let next = records.iter().find(is_behind);
        let incident = incident(candidate, position, misfit, next.map(|next| next.at));
        let is_of_topic = candidate.remade != Remade::Elsewhere;
        self.raise(&incident, (*from, cluster), is_of_topic).await
    }

    /// A partition that is read stands still with records before it.
    pub async fn note_stall(
        &self,
        topic: &Topic,
        (name, partition): (&str, i32),
        offsets: std::ops::Range<i64>,
    ) -> Result<(), store::Error> {
        let incident = Incident {
            kind: Kind::PartitionStalled,
            tenant: topic.tenant.clone(),
            topic: name.to_owned(),
            partition,
            offsets,
            from_time: None,
            to_time: None,
            detail: detail(Kind::PartitionStalled).to_owned(),
        };
        let mut tx = store::begin(&self.db).await?;
        let is_news = incidents::raise(&mut tx, &incident).await?;
        store::commit(tx).await?;
        if is_news {
            announce(&incident);
        }
        Ok(())
    }

    /// Of these partitions, which are settled up to an offset here, those that another instance has set back since:
    /// it found that their topic was made anew. A partition without new records would show it at no commit.
    pub async fn set_back(
        &self,
        environment: &Environment,
        settled: &[((String, i32), i64)],
    ) -> Result<HashSet<(String, i32)>, store::Error> {
        let mut found = HashSet::new();
        for topic in incidents::made_anew_lately(&self.db).await? {
            let here = || settled.iter().filter(|((of, _), _)| *of == topic);
            let Some(parsed) = environment.parse(&topic).filter(|_| here().next().is_some()) else {
                continue;
            };
            let stored = match &parsed.tenant {
                None => positions::list(&self.db, &self.module).await?,
                Some(id) => match self.tenants.find(id).await? {
                    Some(tenant) => positions::list(&self.db, &tenant.schema).await?,
                    None => continue,
                },
            };
            let is_set_back = |(place, next): &&((String, i32), i64)| {
                stored.get(place).is_some_and(|position| position.next_offset < *next)
            };
            found.extend(here().filter(is_set_back).map(|(place, _)| place.clone()));
        }
        Ok(found)
    }

    /// `is_of_topic`: whether the other partitions of a topic that was made anew are still to be set back.
    async fn raise(
        &self,
        incident: &Incident,
        (from, cluster): (i64, &str),
        is_of_topic: bool,
    ) -> Result<(), store::Error> {
        let Incident { kind, tenant, topic, partition, .. } = incident;
        let mut tx = store::begin(&self.db).await?;
        if let Some(id) = tenant {
            tenants::enter(&mut tx, id).await?;
        }
        if kind.is_of_log() {
            let schema = tenant.as_ref().map(Schema::of);
            let schema = schema.as_ref().unwrap_or(&self.module);
            if *kind == Kind::TopicMadeAnew && is_of_topic {
                positions::reset_others(&mut tx, schema, (topic, *partition), cluster).await?;
            }
            positions::reset(&mut tx, schema, (topic, *partition), from, cluster).await?;
        }
        let is_news = incidents::raise(&mut tx, incident).await?;
        store::commit(tx).await?;
        if is_news {
            announce(incident);
        }
        Ok(())
    }
}

fn announce(incident: &Incident) {
    let Incident { kind, topic, partition, offsets, from_time, to_time, .. } = incident;
    figures().incident(*kind);
    warn!(incident.id = %incident.id(), incident.kind = kind.name(), kafka.topic = %topic,
        kafka.partition = partition, ?offsets, ?from_time, ?to_time, "{}", incident.detail);
}

/// Whether what the group had read further is of a time before the tenant was enabled: then it was purged
/// in between, and no backup was restored.
fn is_of_before(tenant: &Option<TenantId>, positions: &Positions, read: Option<&Landmark>) -> bool {
    let since = tenant.as_ref().and_then(|id| positions.enabled_since.get(id));
    since.zip(read).is_some_and(|(since, read)| read.at < *since)
}

fn incident(
    candidate: &Candidate,
    position: Option<&Position>,
    misfit: &Misfit,
    to_time: Option<DateTime<Utc>>,
) -> Incident {
    let (topic, partition) = &candidate.at;
    Incident {
        kind: misfit.kind,
        tenant: candidate.topic.tenant.clone(),
        topic: topic.to_string(),
        partition: *partition,
        offsets: misfit.offsets.clone(),
        from_time: position.and_then(|position| position.last_record_at),
        to_time,
        detail: detail(misfit.kind).to_owned(),
    }
}

fn detail(kind: Kind) -> &'static str {
    match kind {
        Kind::RecordsLost => {
            "retention has taken records that were never read; reading goes on where the log begins; \
             rebuild the tenant from its storage modules"
        }
        Kind::TopicMadeAnew => {
            "the topic was made anew, or moved to another cluster; it is read from its beginning"
        }
        Kind::DatabaseRestored => {
            "the group had read further than the database knows, as after restoring an older backup; \
             the records are read again"
        }
        Kind::GroupMovedAhead => {
            "somebody moved the group ahead of what was read; the records in between are read all the \
             same"
        }
        Kind::GroupSetBack => "somebody set the group back; the records are read again",
        Kind::PartitionStalled => {
            "the partition was read no further although it holds more; it is assigned afresh, and if that \
             does not help all partitions of this instance are"
        }
        Kind::PartitionStopped
        | Kind::TenantUnusable
        | Kind::SnapshotNotApplied
        | Kind::RepairIncomplete => "see the service's log",
    }
}
