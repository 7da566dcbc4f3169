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

use super::{outcome::TopicPartition, tenants::TenantRegistry};
use crate::{
    event::{Environment, TenantId, Topic},
    kafka::assignment::{OffsetAndTimestamp, TopicRecreation},
    metrics::metrics,
    store::{
        self, Db, Schema, Verdict,
        incidents::{self, Incident, IncidentKind},
        positions::{self, Position},
        tenants,
    },
};

/// What a log holds: the first offset, and the offset after the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watermarks {
    /// First offset that can be read.
    pub low: i64,
    /// The offset that the next record will get.
    pub high: i64,
}

/// The group's offset of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The offset.
    pub offset: i64,
    /// What stands beside it.
    pub tag: CommitTag,
}

/// What stands beside an offset of the group: by it our own commits are told from those of somebody
/// who moved the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CommitTag {
    /// We committed it, and everything before it is in the database.
    Durable,
    /// We committed it, and the records before it were passed by: their tenant wasn't enabled.
    TenantDisabled,
    /// Somebody else did.
    Foreign,
}

impl CommitTag {
    /// As stored with the offset.
    pub fn metadata(self) -> &'static str {
        match self {
            Self::Durable => "patron-blocks durable",
            Self::TenantDisabled => "patron-blocks tenant-disabled",
            Self::Foreign => "",
        }
    }

    /// Reads what [`Mark::text`] wrote, or somebody else.
    pub fn from_metadata(text: &str) -> Self {
        let matches_text = |tag: &Self| tag.metadata() == text;
        [Self::Durable, Self::TenantDisabled]
            .into_iter()
            .find(matches_text)
            .unwrap_or(Self::Foreign)
    }
}

/// All that is known of a partition when it is taken over.
#[derive(Debug, Clone)]
pub struct PartitionFacts<'a> {
    /// The position in the database.
    pub position: Option<&'a Position>,
    /// Whether its records are kept: its tenant is enabled, or it belongs to no single one.
    pub tenant_enabled: bool,
    /// The group's offset.
    pub committed: Option<CommittedOffset>,
    /// What the log holds.
    pub log: Watermarks,
    /// The cluster's id.
    pub cluster_id: &'a str,
    /// Whether its topic turned out to have been made anew.
    pub topic_recreated: bool,
}

/// Something that does not fit: which incident it is, and which offsets it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAnomaly {
    /// Which.
    pub kind: IncidentKind,
    /// The offsets, the last excluded.
    pub offsets: std::ops::Range<i64>,
}

/// Where reading begins, and what does not fit.
pub fn start_offset(facts: &PartitionFacts<'_>) -> (i64, Option<OffsetAnomaly>) {
    let Watermarks { low: start, high: end } = facts.log;
    // Beyond the end it is of the log before, which was longer: the client never commits less than it did.
    let committed = facts.committed.filter(|committed| committed.offset <= end);
    let anomaly =
        |kind, from: i64, to: i64| Some(OffsetAnomaly { kind, offsets: from..to.max(from) });
    if !facts.tenant_enabled {
        // Nothing of it is kept, so the group's offset is all there is.
        let offset = committed.map_or(start, |committed| committed.offset);
        return (if (start..=end).contains(&offset) { offset } else { start }, None);
    }
    let Some(position) = facts.position else {
        // Read from the beginning of what there is. That the group was further is right where the
        // records were passed by, and else says that the database has forgotten them.
        let ahead =
            committed.filter(|group| group.tag == CommitTag::Durable && group.offset > start);
        return (
            start,
            ahead.and_then(|c| anomaly(IncidentKind::DatabaseRestored, start, c.offset)),
        );
    };
    let next = position.next_offset;
    let other_cluster = !position.cluster.is_empty() && position.cluster != facts.cluster_id;
    // Where the position is zero nothing was read of the log before, or it was set back already.
    let remade = facts.topic_recreated && next > 0;
    if remade || other_cluster || next > end {
        return (start, anomaly(IncidentKind::TopicRecreated, 0, next));
    }
    if next < start {
        return (start, anomaly(IncidentKind::RecordsLost, next, start));
    }
    // Where nothing was read since the position was reset, the group's offset is from the log before.
    match committed.filter(|_| position.last_record_at.is_some()) {
        Some(CommittedOffset { offset, tag: CommitTag::Durable }) if offset > next => {
            (next, anomaly(IncidentKind::DatabaseRestored, next, offset))
        }
        Some(CommittedOffset { offset, tag: CommitTag::Foreign }) if offset > next => {
            (next, anomaly(IncidentKind::OffsetsAdvanced, next, offset))
        }
        Some(CommittedOffset { offset, tag: CommitTag::Foreign }) if offset < next => {
            // Somebody wants these records read again. It changes nothing, and it is done.
            let from = offset.max(start);
            (from, anomaly(IncidentKind::OffsetsReset, from, next))
        }
        _ => (next, None),
    }
}

/// A partition to take over.
#[derive(Debug, Clone)]
pub struct StartCandidate {
    /// Which.
    pub topic_partition: TopicPartition,
    /// What its name says.
    pub topic: Arc<Topic>,
    /// The group's offset, read before [`Takeover::positions`] was.
    pub committed: Option<CommittedOffset>,
    /// Whether its topic turned out to have been made anew.
    pub recreation: TopicRecreation,
}

/// How a partition is begun, and what has to be done before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPlan {
    /// How.
    pub decision: StartDecision,
    /// What does not fit.
    pub anomaly: Option<OffsetAnomaly>,
    /// The offset from which on records are to be looked at, to tell when what does not fit was written.
    pub probe_from: Option<i64>,
}

/// How a partition is begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StartDecision {
    /// Read from this offset.
    Read {
        /// The first offset to be settled.
        from: i64,
        /// Where the log begins.
        log_start: i64,
        /// Whether records are kept.
        tenant_enabled: bool,
        /// The timestamp of the record before `from`, if it is known: it must be that record still.
        before: Option<DateTime<Utc>>,
    },
    /// Not read, until an operator resumes it.
    Stopped,
    /// Not read for now: its tenant's tables can't be read.
    TenantUnavailable,
}

/// What the database says about partitions, before the log is asked.
#[derive(Debug, Default)]
pub struct StoredPositions {
    by_schema: HashMap<Option<TenantId>, HashMap<(String, i32), Position>>,
    enabled_since: HashMap<TenantId, DateTime<Utc>>,
    unavailable_tenants: HashSet<TenantId>,
    /// Tenants are being migrated: topics of tenant collections wait.
    are_collections_blocked: bool,
    stopped: HashSet<(String, i32)>,
    /// Tenants of whom an incident says that they could not be written: it ends when they can.
    pub unwritable_tenants: Vec<TenantId>,
}

/// Takes partitions over.
pub struct StartOffsetResolver {
    db: Db,
    tenants: Arc<TenantRegistry>,
    module: Schema,
}

impl StartOffsetResolver {
    /// `db` is the writers' pool.
    pub fn new(db: Db, tenants: Arc<TenantRegistry>) -> Self {
        Self { db, tenants, module: Schema::module() }
    }

    /// Reads positions. To be called after the group's offsets were read and before the log is asked:
    /// so the one can't be ahead of a position, nor the other behind it, merely because another
    /// instance was still writing.
    pub async fn load_positions(
        &self,
        candidates: impl Iterator<Item = &StartCandidate> + Send,
    ) -> Result<StoredPositions, store::Error> {
        self.tenants.ready().await;
        let tenants: BTreeSet<_> =
            candidates.map(|candidate| candidate.topic.tenant.clone()).collect();
        let mut stored = StoredPositions {
            stopped: incidents::list_stopped_partitions(&self.db).await?.into_iter().collect(),
            unwritable_tenants: incidents::list_unusable_tenants(&self.db).await?,
            are_collections_blocked: !self.tenants.is_caught_up(),
            ..StoredPositions::default()
        };
        for tenant in tenants {
            let Some(id) = &tenant else {
                let positions = positions::list(&self.db, &self.module).await?;
                stored.by_schema.insert(None, positions);
                continue;
            };
            let enabled = match self.tenants.find(id).await {
                Ok(Some(enabled)) => enabled,
                Ok(None) => continue,
                Err(error) if error.is_schema_outdated() => {
                    stored.unavailable_tenants.insert(id.clone());
                    continue;
                }
                Err(error) => return Err(error),
            };
            match positions::list(&self.db, &enabled.schema).await {
                Ok(positions) => {
                    stored.by_schema.insert(Some(id.clone()), positions);
                    stored.enabled_since.insert(id.clone(), enabled.enabled_at);
                }
                Err(error) if error.verdict() == Verdict::Unusable => {
                    warn!(tenant = %id, error = %crate::logging::ErrorChain(&error),
                        "partition start: could not read the positions of a tenant; its partitions wait");
                    stored.unavailable_tenants.insert(id.clone());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(stored)
    }

    /// Decides how a partition is begun, by what is known of it already.
    pub fn decide(
        &self,
        candidate: &StartCandidate,
        positions: &StoredPositions,
        log: Watermarks,
        cluster: &str,
    ) -> StartPlan {
        let StartCandidate { topic_partition: (topic, partition), .. } = candidate;
        let tenant = &candidate.topic.tenant;
        let place = (topic.to_string(), *partition);
        let without_anomaly = |decision| StartPlan { decision, anomaly: None, probe_from: None };
        if positions.stopped.contains(&place) {
            return without_anomaly(StartDecision::Stopped);
        }
        let is_blocked = match tenant {
            Some(id) => positions.unavailable_tenants.contains(id),
            None => positions.are_collections_blocked,
        };
        if is_blocked {
            return without_anomaly(StartDecision::TenantUnavailable);
        }
        let stored = positions.by_schema.get(tenant);
        let position = stored.and_then(|positions| positions.get(&place));
        let (from, anomaly) = start_offset(&PartitionFacts {
            position,
            tenant_enabled: stored.is_some(),
            committed: candidate.committed,
            log,
            cluster_id: cluster,
            topic_recreated: candidate.recreation != TopicRecreation::NotDetected,
        });
        let untouched = position.filter(|position| position.next_offset == from);
        let decision = StartDecision::Read {
            from,
            log_start: log.low,
            tenant_enabled: stored.is_some(),
            before: untouched
                .filter(|_| from > log.low)
                .and_then(|position| position.last_record_at),
        };
        let probe_from = anomaly.as_ref().map(|anomaly| match anomaly.kind {
            // Offsets of a log before this one mean nothing in it.
            IncidentKind::TopicRecreated => from,
            _ => anomaly.offsets.end - i64::from(position.is_none()),
        });
        StartPlan { decision, anomaly, probe_from }
    }

    /// Makes what does not fit durable as an incident, before the partition is begun. `records` are those that
    /// stand at [`Decided::look`], as far as they could be read.
    pub async fn record_anomaly(
        &self,
        candidate: &StartCandidate,
        positions: &StoredPositions,
        plan: &StartPlan,
        cluster: &str,
        records: &[OffsetAndTimestamp],
    ) -> Result<(), store::Error> {
        let (Some(anomaly), StartDecision::Read { from, .. }) = (&plan.anomaly, &plan.decision)
        else {
            return Ok(());
        };
        let StartCandidate { topic_partition: (topic, partition), .. } = candidate;
        let tenant = &candidate.topic.tenant;
        let place = (topic.to_string(), *partition);
        let stored = positions.by_schema.get(tenant);
        let position = stored.and_then(|positions| positions.get(&place));
        // What the group had read last comes first, where it was looked at.
        if position.is_none() && predates_enabling(tenant, positions, records.first()) {
            return Ok(());
        }
        let is_after = |record: &&OffsetAndTimestamp| {
            anomaly.kind == IncidentKind::TopicRecreated || record.offset >= anomaly.offsets.end
        };
        let next = records.iter().find(is_after);
        let incident = incident(candidate, position, anomaly, next.map(|next| next.timestamp));
        let is_of_topic = candidate.recreation != TopicRecreation::OnOtherPartition;
        self.raise(&incident, (*from, cluster), is_of_topic).await
    }

    /// A partition that is read stands still with records before it.
    pub async fn record_stall(
        &self,
        topic: &Topic,
        (name, partition): (&str, i32),
        offsets: std::ops::Range<i64>,
    ) -> Result<(), store::Error> {
        let incident = Incident {
            kind: IncidentKind::PartitionStalled,
            tenant: topic.tenant.clone(),
            topic: name.to_owned(),
            partition,
            offsets,
            from_time: None,
            to_time: None,
            detail: detail(IncidentKind::PartitionStalled).to_owned(),
        };
        let mut tx = store::begin(&self.db).await?;
        let is_new = incidents::raise(&mut tx, &incident).await?;
        store::commit(tx).await?;
        if is_new {
            log_incident(&incident);
        }
        Ok(())
    }

    /// Returns the partitions whose stored position another instance reset below `committed`, after it found that
    /// their topic was recreated. A partition without new records would show the reset at no commit.
    pub async fn reset_partitions(
        &self,
        environment: &Environment,
        committed: &[((String, i32), i64)],
    ) -> Result<HashSet<(String, i32)>, store::Error> {
        let mut found = HashSet::new();
        for topic in incidents::recently_recreated_topics(&self.db).await? {
            let here = || committed.iter().filter(|((of, _), _)| *of == topic);
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
            let is_reset = |(place, next): &&((String, i32), i64)| {
                stored.get(place).is_some_and(|position| position.next_offset < *next)
            };
            found.extend(here().filter(is_reset).map(|(place, _)| place.clone()));
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
            tenants::lock_shared(&mut tx, id).await?;
        }
        if kind.invalidates_positions() {
            let schema = tenant.as_ref().map(Schema::of);
            let schema = schema.as_ref().unwrap_or(&self.module);
            if *kind == IncidentKind::TopicRecreated && is_of_topic {
                positions::reset_other_partitions(&mut tx, schema, (topic, *partition), cluster)
                    .await?;
            }
            positions::reset(&mut tx, schema, (topic, *partition), from, cluster).await?;
        }
        let is_new = incidents::raise(&mut tx, incident).await?;
        store::commit(tx).await?;
        if is_new {
            log_incident(incident);
        }
        Ok(())
    }
}

fn log_incident(incident: &Incident) {
    let Incident { kind, topic, partition, offsets, from_time, to_time, .. } = incident;
    metrics().record_incident(*kind);
    warn!(incident.id = %incident.id(), incident.kind = kind.name(), kafka.topic = %topic,
        kafka.partition = partition, ?offsets, ?from_time, ?to_time, "{}", incident.detail);
}

/// Whether what the group had read further is of a time before the tenant was enabled: then it was purged
/// in between, and no backup was restored.
fn predates_enabling(
    tenant: &Option<TenantId>,
    positions: &StoredPositions,
    record: Option<&OffsetAndTimestamp>,
) -> bool {
    let enabled_at = tenant.as_ref().and_then(|id| positions.enabled_since.get(id));
    enabled_at.zip(record).is_some_and(|(enabled_at, record)| record.timestamp < *enabled_at)
}

fn incident(
    candidate: &StartCandidate,
    position: Option<&Position>,
    anomaly: &OffsetAnomaly,
    to_time: Option<DateTime<Utc>>,
) -> Incident {
    let (topic, partition) = &candidate.topic_partition;
    Incident {
        kind: anomaly.kind,
        tenant: candidate.topic.tenant.clone(),
        topic: topic.to_string(),
        partition: *partition,
        offsets: anomaly.offsets.clone(),
        from_time: position.and_then(|position| position.last_record_at),
        to_time,
        detail: detail(anomaly.kind).to_owned(),
    }
}

fn detail(kind: IncidentKind) -> &'static str {
    match kind {
        IncidentKind::RecordsLost => {
            "retention has taken records that were never read; reading goes on where the log begins; \
             rebuild the tenant from its storage modules"
        }
        IncidentKind::TopicRecreated => {
            "the topic was made anew, or moved to another cluster; it is read from its beginning"
        }
        IncidentKind::DatabaseRestored => {
            "the group had read further than the database knows, as after restoring an older backup; \
             the records are read again"
        }
        IncidentKind::OffsetsAdvanced => {
            "somebody moved the group ahead of what was read; the records in between are read all the \
             same"
        }
        IncidentKind::OffsetsReset => "somebody set the group back; the records are read again",
        IncidentKind::PartitionStalled => {
            "the partition was read no further although it holds more; it is assigned afresh, and if that \
             does not help all partitions of this instance are"
        }
        IncidentKind::PartitionStopped
        | IncidentKind::TenantUnusable
        | IncidentKind::SnapshotNotApplied
        | IncidentKind::RepairIncomplete => "see the service's log",
    }
}
