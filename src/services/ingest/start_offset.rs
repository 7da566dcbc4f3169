//! The start offset of a partition, and the detection of lost or repeated records.
//!
//! The position in the database decides, because ingest writes it with the records; the group's
//! offset only confirms it. Each contradiction between position, group offset and log becomes an
//! incident.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chrono::{DateTime, Utc};
use tracing::warn;

use super::metrics::metrics;
use crate::{
    event::{Environment, TenantId, Topic, TopicPartition},
    kafka::{
        assignment::{OffsetAndTimestamp, TopicRecreation},
        delivery::StartDecision,
        offsets::{CommitTag, CommittedOffset, Watermarks},
    },
    services::tenants::TenantRegistry,
    store::{
        self, Db, Schema, Verdict,
        ingest::{
            incidents::{self, Incident, IncidentKind},
            positions::{self, Position},
        },
        tenants,
    },
};

/// The facts about a partition at its start.
#[derive(Debug, Clone)]
pub struct PartitionFacts<'a> {
    /// The position in the database.
    pub position: Option<&'a Position>,
    /// `true` if records are stored: the tenant is enabled, or the topic belongs to a tenant
    /// collection.
    pub tenant_enabled: bool,
    /// The group's committed offset.
    pub committed: Option<CommittedOffset>,
    /// The watermarks of the log.
    pub log: Watermarks,
    /// The cluster's id.
    pub cluster_id: &'a str,
    /// `true` if the topic was found to be recreated.
    pub topic_recreated: bool,
}

/// A contradiction between position, group offset and log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAnomaly {
    /// The kind of incident to raise.
    pub kind: IncidentKind,
    /// The affected offsets, without the end.
    pub offsets: std::ops::Range<i64>,
}

/// Returns the offset at which reading starts, and the anomaly, if there is one.
pub fn start_offset(facts: &PartitionFacts<'_>) -> (i64, Option<OffsetAnomaly>) {
    let Watermarks { low: start, high: end } = facts.log;
    // An offset beyond the end is from a longer log that was deleted.
    let committed = facts.committed.filter(|committed| committed.offset <= end);
    let anomaly =
        |kind, from: i64, to: i64| Some(OffsetAnomaly { kind, offsets: from..to.max(from) });
    if !facts.tenant_enabled {
        // No records are stored, so only the group's offset is available.
        let offset = committed.map_or(start, |committed| committed.offset);
        return (if (start..=end).contains(&offset) { offset } else { start }, None);
    }
    let Some(position) = facts.position else {
        // Starts at the beginning of the log. A group offset beyond it is normal if the records were skipped.
        // If the offset was durable, the database has lost the records.
        let ahead =
            committed.filter(|group| group.tag == CommitTag::Durable && group.offset > start);
        return (
            start,
            ahead.and_then(|c| anomaly(IncidentKind::DatabaseRestored, start, c.offset)),
        );
    };
    let next = position.next_offset;
    let other_cluster = !position.cluster.is_empty() && position.cluster != facts.cluster_id;
    // With position zero, nothing was read of the old log, or the position was reset already.
    let remade = facts.topic_recreated && next > 0;
    if remade || other_cluster || next > end {
        return (start, anomaly(IncidentKind::TopicRecreated, 0, next));
    }
    if next < start {
        return (start, anomaly(IncidentKind::RecordsLost, next, start));
    }
    // If nothing was read since the position was reset, the group's offset belongs to the old log.
    match committed.filter(|_| position.last_record_at.is_some()) {
        Some(CommittedOffset { offset, tag: CommitTag::Durable }) if offset > next => {
            (next, anomaly(IncidentKind::DatabaseRestored, next, offset))
        }
        Some(CommittedOffset { offset, tag: CommitTag::Foreign }) if offset > next => {
            (next, anomaly(IncidentKind::OffsetsAdvanced, next, offset))
        }
        Some(CommittedOffset { offset, tag: CommitTag::Foreign }) if offset < next => {
            // An operator has set the group back to read these records again, which changes no state.
            let from = offset.max(start);
            (from, anomaly(IncidentKind::OffsetsReset, from, next))
        }
        _ => (next, None),
    }
}

/// A partition that needs a start offset.
#[derive(Debug, Clone)]
pub struct StartCandidate {
    /// Topic and partition.
    pub topic_partition: TopicPartition,
    /// The parsed name of the topic.
    pub topic: Arc<Topic>,
    /// The group's committed offset, read before [`StartOffsetResolver::load_positions`] was called.
    pub committed: Option<CommittedOffset>,
    /// The evidence that the topic was recreated.
    pub recreation: TopicRecreation,
}

/// The start of a partition, and the work before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartPlan {
    /// The decision to send to the poller.
    pub decision: StartDecision,
    /// The contradiction to record as an incident before the start.
    pub anomaly: Option<OffsetAnomaly>,
    /// The offset of the records to read for the incident's time range; `None` without an anomaly.
    pub probe_from: Option<i64>,
}

/// Positions and incidents in the database, loaded before the query for the watermarks.
#[derive(Debug, Default)]
pub struct StoredPositions {
    by_schema: HashMap<Option<TenantId>, HashMap<(String, i32), Position>>,
    enabled_since: HashMap<TenantId, DateTime<Utc>>,
    unavailable_tenants: HashSet<TenantId>,
    /// `true` until the registry has tried all migrations; until then shared topics wait.
    are_collections_blocked: bool,
    stopped: HashSet<(String, i32)>,
    /// Tenants with an open incident about unwritable tables.
    pub unwritable_tenants: Vec<TenantId>,
}

/// The service that decides where partitions start, and records anomalies.
pub struct StartOffsetResolver {
    db: Db,
    tenants: Arc<TenantRegistry>,
    module: Schema,
}

impl StartOffsetResolver {
    /// Creates the resolver; `db` is the writers' pool.
    pub fn new(db: Db, tenants: Arc<TenantRegistry>) -> Self {
        Self { db, tenants, module: Schema::module() }
    }

    /// Loads the stored positions. The caller has to read the group's offsets before and the
    /// watermarks after. In this order, a concurrent writer on another instance causes no false
    /// anomaly: no group offset is ahead of its position, and no log end behind it.
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

    /// Decides how a partition starts, from facts that are loaded already.
    pub fn decide(
        &self,
        candidate: &StartCandidate,
        positions: &StoredPositions,
        log: Watermarks,
        cluster: &str,
    ) -> StartPlan {
        let StartCandidate { topic_partition: (topic, partition), .. } = candidate;
        let tenant = &candidate.topic.tenant;
        let partition_key = (topic.to_string(), *partition);
        let without_anomaly = |decision| StartPlan { decision, anomaly: None, probe_from: None };
        if positions.stopped.contains(&partition_key) {
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
        let position = stored.and_then(|positions| positions.get(&partition_key));
        let (from, anomaly) = start_offset(&PartitionFacts {
            position,
            tenant_enabled: stored.is_some(),
            committed: candidate.committed,
            log,
            cluster_id: cluster,
            topic_recreated: candidate.recreation != TopicRecreation::NotDetected,
        });
        let resumed = position.filter(|position| position.next_offset == from);
        let decision = StartDecision::Read {
            from,
            log_start: log.low,
            tenant_enabled: stored.is_some(),
            before: resumed.filter(|_| from > log.low).and_then(|position| position.last_record_at),
        };
        let probe_from = anomaly.as_ref().map(|anomaly| match anomaly.kind {
            // Offsets of the old log have no meaning in the new log.
            IncidentKind::TopicRecreated => from,
            _ => anomaly.offsets.end - i64::from(position.is_none()),
        });
        StartPlan { decision, anomaly, probe_from }
    }

    /// Stores the anomaly as an incident before the partition starts. `records` are the records at
    /// [`StartPlan::probe_from`], as far as they were readable.
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
        let partition_key = (topic.to_string(), *partition);
        let stored = positions.by_schema.get(tenant);
        let position = stored.and_then(|positions| positions.get(&partition_key));
        // If records were read, the first is the last record that the group had read.
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

    /// Raises an incident about a partition that stalls although its log has more records.
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

    /// Returns the partitions with a stored position that another instance reset below `committed`,
    /// after it found that their topic was recreated. A partition without new records would show the
    /// reset at no commit.
    pub async fn reset_partitions(
        &self,
        environment: &Environment,
        committed: &[((String, i32), i64)],
    ) -> Result<HashSet<(String, i32)>, store::Error> {
        let mut found = HashSet::new();
        for topic in incidents::recently_recreated_topics(&self.db).await? {
            let committed_of_topic: Vec<_> =
                committed.iter().filter(|((name, _), _)| *name == topic).collect();
            if committed_of_topic.is_empty() {
                continue;
            }
            let Some(parsed) = environment.parse(&topic) else { continue };
            let stored = match &parsed.tenant {
                None => positions::list(&self.db, &self.module).await?,
                Some(id) => match self.tenants.find(id).await? {
                    Some(tenant) => positions::list(&self.db, &tenant.schema).await?,
                    None => continue,
                },
            };
            let is_reset = |(key, next): &&&((String, i32), i64)| {
                stored.get(key).is_some_and(|position| position.next_offset < *next)
            };
            let reset = committed_of_topic.iter().filter(is_reset);
            found.extend(reset.map(|(key, _)| key.clone()));
        }
        Ok(found)
    }

    /// Raises an incident and resets the positions that it invalidates. With `is_of_topic`, the
    /// transaction also resets the other partitions of a recreated topic.
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

/// Returns whether the record that the group read last is older than the tenant's enabling. In this
/// case a purge deleted the position, and no backup was restored.
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
            "retention deleted records before the service read them; reading continues at the start of the \
             log; rebuild the tenant from its storage modules"
        }
        IncidentKind::TopicRecreated => {
            "the topic was recreated, or moved to another cluster; the service reads the topic from the \
             beginning"
        }
        IncidentKind::DatabaseRestored => {
            "the committed offset of the group is ahead of the stored position, as after the restore of an \
             older backup; the service reads the records again"
        }
        IncidentKind::OffsetsAdvanced => {
            "the committed offset of the group was moved ahead of the stored position; the service also \
             reads the records in between"
        }
        IncidentKind::OffsetsReset => {
            "the committed offset of the group was moved back; the service reads the records again"
        }
        IncidentKind::PartitionStalled => {
            "reading of the partition stalled before the end of the log; the service reassigns the \
             partition and then, if reading stays stalled, all partitions of this instance"
        }
        IncidentKind::PartitionStopped
        | IncidentKind::TenantUnusable
        | IncidentKind::SnapshotNotApplied
        | IncidentKind::RepairIncomplete => "the service's log has the details",
    }
}
