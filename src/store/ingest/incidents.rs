//! Incidents, which operators have to know: gaps in a log, stopped partitions, and tenants with
//! unwritable tables.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    event::TenantId,
    store::{Error, Tx},
};

/// The kind of an incident. The list is closed, because operators filter by kind and metrics have a label
/// per kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IncidentKind {
    /// The log begins after the position, so retention deleted records that were never read.
    RecordsLost,
    /// The topic was deleted and recreated, or belongs to another Kafka cluster now.
    TopicRecreated,
    /// The group offset is ahead of the position, because the database was restored from an older backup.
    DatabaseRestored,
    /// An operator moved the group offset ahead of the position.
    OffsetsAdvanced,
    /// An operator moved the group offset back behind the position.
    OffsetsReset,
    /// So many records are bad that an error in the code is likely.
    PartitionStopped,
    /// The tenant's tables are unwritable, so its topics wait.
    TenantUnusable,
    /// The client stopped reading a partition although the log contains more records.
    PartitionStalled,
    /// A rebuild would close too many open loans and fees/fines; an operator has to apply or cancel the
    /// rebuild.
    SnapshotNotApplied,
    /// A repair from the storage modules skipped unreadable records.
    RepairIncomplete,
}

impl IncidentKind {
    /// All kinds.
    pub const ALL: [Self; 10] = [
        Self::RecordsLost,
        Self::TopicRecreated,
        Self::DatabaseRestored,
        Self::OffsetsAdvanced,
        Self::OffsetsReset,
        Self::PartitionStopped,
        Self::TenantUnusable,
        Self::PartitionStalled,
        Self::SnapshotNotApplied,
        Self::RepairIncomplete,
    ];

    /// Returns whether the log was replaced or truncated, so that a stored position is meaningless.
    pub fn invalidates_positions(self) -> bool {
        matches!(self, Self::RecordsLost | Self::TopicRecreated)
    }

    /// Returns the stored name.
    pub fn name(self) -> &'static str {
        match self {
            Self::RecordsLost => "records_lost",
            Self::TopicRecreated => "topic_recreated",
            Self::DatabaseRestored => "database_restored",
            Self::OffsetsAdvanced => "offsets_advanced",
            Self::OffsetsReset => "offsets_reset",
            Self::PartitionStopped => "partition_stopped",
            Self::TenantUnusable => "tenant_unusable",
            Self::PartitionStalled => "partition_stalled",
            Self::SnapshotNotApplied => "snapshot_not_applied",
            Self::RepairIncomplete => "repair_incomplete",
        }
    }
}

/// An incident to raise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Incident {
    /// The kind of the incident.
    pub kind: IncidentKind,
    /// The topic's tenant; `None` for a topic of a tenant collection.
    pub tenant: Option<TenantId>,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The affected offsets, the end excluded.
    pub offsets: std::ops::Range<i64>,
    /// The time of the last record before the affected offsets, if known.
    pub from_time: Option<DateTime<Utc>>,
    /// The time of the first record after the affected offsets, if known.
    pub to_time: Option<DateTime<Utc>>,
    /// A description of the meaning and of the reaction of the service.
    pub detail: String,
}

impl Incident {
    /// Returns an id that is equal for equal findings, so every instance finds the same incident.
    pub fn id(&self) -> Uuid {
        let Self { topic, partition, offsets, .. } = self;
        let (kind, from, to) = (self.kind.name(), offsets.start, offsets.end);
        let mut name = format!("{kind}/{topic}/{partition}/{from}/{to}");
        // Several tenants share a topic of a tenant collection.
        if let (IncidentKind::TenantUnusable, Some(tenant)) = (self.kind, &self.tenant) {
            name = format!("{name}/{tenant}");
        }
        Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes())
    }
}

/// An incident as stored.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct StoredIncident {
    /// The id of the incident.
    #[sqlx(rename = "incident_id")]
    pub id: Uuid,
    /// [`IncidentKind::name`].
    pub kind: String,
    /// The rebuild that the incident is about.
    pub rebuild_id: Option<Uuid>,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first affected offset.
    pub from_offset: i64,
    /// The offset after the last affected offset.
    pub to_offset: i64,
    /// The time of the last record before the affected offsets, if known.
    pub from_time: Option<DateTime<Utc>>,
    /// The time of the first record after the affected offsets, if known.
    pub to_time: Option<DateTime<Utc>>,
    /// A description of the meaning.
    pub detail: String,
    /// The time at which the incident was raised.
    pub raised_at: DateTime<Utc>,
    /// The time at which the incident was resolved.
    pub resolved_at: Option<DateTime<Utc>>,
    /// The user or job that resolved the incident.
    pub resolved_by: Option<String>,
}

/// Raises an incident, or reopens a resolved incident. Returns `false` if the incident is already open.
/// The database clock sets the time, because a gap without `to_time` is considered to end at that time.
pub async fn raise(tx: &mut Tx, incident: &Incident) -> Result<bool, Error> {
    let done = sqlx::query(
        "insert into mod_patron_blocks.incident as t (
           incident_id, kind, tenant, topic, partition, from_offset, to_offset, from_time, to_time,
           detail, raised_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, now())
         on conflict (incident_id) do update set
           raised_at = excluded.raised_at, resolved_at = null, resolved_by = null
           where t.resolved_at is not null",
    )
    .bind(incident.id())
    .bind(incident.kind.name())
    .bind(incident.tenant.as_ref().map(TenantId::as_str))
    .bind(&incident.topic)
    .bind(incident.partition)
    .bind(incident.offsets.start)
    .bind(incident.offsets.end)
    .bind(incident.from_time)
    .bind(incident.to_time)
    .bind(&incident.detail)
    .execute(&mut **tx)
    .await
    .map_err(Error::at("raise an incident"))?;
    Ok(done.rows_affected() > 0)
}

/// Returns the stopped partitions.
pub async fn list_stopped_partitions(db: impl PgExecutor<'_>) -> Result<Vec<(String, i32)>, Error> {
    sqlx::query_as(
        "select topic, partition from mod_patron_blocks.incident
          where kind = 'partition_stopped' and resolved_at is null",
    )
    .fetch_all(db)
    .await
    .map_err(Error::at("list the stopped partitions"))
}

/// Returns the tenants with unwritable tables.
pub async fn list_unusable_tenants(db: impl PgExecutor<'_>) -> Result<Vec<TenantId>, Error> {
    let tenants: Vec<String> = sqlx::query_scalar(
        "select distinct tenant from mod_patron_blocks.incident
          where kind = 'tenant_unusable' and resolved_at is null and tenant is not null",
    )
    .fetch_all(db)
    .await
    .map_err(Error::at("list the tenants with unwritable tables"))?;
    Ok(tenants.iter().filter_map(|tenant| TenantId::parse(tenant)).collect())
}

/// Returns the numbers of open incidents by kind.
pub async fn count_open_by_kind(db: impl PgExecutor<'_>) -> Result<Vec<(String, i64)>, Error> {
    sqlx::query_as(
        "select kind, count(*) from mod_patron_blocks.incident where resolved_at is null
          group by kind order by kind",
    )
    .fetch_all(db)
    .await
    .map_err(Error::at("count open incidents"))
}

/// Returns at most `most` incidents of a tenant and of tenant collections, or of all tenants, optionally
/// only the open ones. Open incidents precede resolved incidents, and newer incidents precede older ones.
pub async fn list(
    db: impl PgExecutor<'_>,
    tenant: Option<&TenantId>,
    only_open: bool,
    most: i64,
) -> Result<Vec<StoredIncident>, Error> {
    sqlx::query_as(
        "select incident_id, kind, rebuild_id, topic, partition, from_offset, to_offset, from_time, to_time,
                detail, raised_at, resolved_at, resolved_by
           from mod_patron_blocks.incident
          where ($1::text is null or tenant is null or tenant = $1)
            and (not $3 or resolved_at is null)
          order by resolved_at is not null, raised_at desc, incident_id limit $2",
    )
    .bind(tenant.map(TenantId::as_str))
    .bind(most)
    .bind(only_open)
    .fetch_all(db)
    .await
    .map_err(Error::at("list incidents"))
}

/// Returns whether `id` is an open incident of a topic that tenants share.
pub async fn is_of_shared_topic(tx: &mut Tx, id: Uuid) -> Result<bool, Error> {
    sqlx::query_scalar(
        "select exists (select from mod_patron_blocks.incident
                         where incident_id = $1 and resolved_at is null and tenant is null)",
    )
    .bind(id)
    .fetch_one(&mut **tx)
    .await
    .map_err(Error::at("find an incident"))
}

/// Resolves an open incident of a tenant, or of any tenant. Returns `false` if no such incident is open.
/// A tenant cannot resolve an incident of a shared topic.
pub async fn resolve(
    tx: &mut Tx,
    tenant: Option<&TenantId>,
    id: Uuid,
    by: &str,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.incident set resolved_at = $4, resolved_by = $3
          where incident_id = $2 and resolved_at is null
            and ($1::text is null or tenant = $1)",
    )
    .bind(tenant.map(TenantId::as_str))
    .bind(id)
    .bind(by)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(Error::at("resolve an incident"))?;
    Ok(done.rows_affected() > 0)
}

/// Resolves the incidents about a tenant's unwritable tables, now writable. Returns whether an incident
/// was open.
pub async fn resolve_unusable_tenant(
    tx: &mut Tx,
    tenant: &TenantId,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.incident
            set resolved_at = $2, resolved_by = 'its tables can be written again'
          where tenant = $1 and kind = 'tenant_unusable' and resolved_at is null",
    )
    .bind(tenant.as_str())
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(Error::at("resolve the incidents of a tenant"))?;
    Ok(done.rows_affected() > 0)
}

/// A part of a log that is no longer readable.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Gap {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The time since when the log is complete.
    pub until: DateTime<Utc>,
}

/// Returns all gaps ever found in the topics of a tenant and in shared topics, whether resolved or not.
pub async fn list_gaps(db: impl PgExecutor<'_>, tenant: &TenantId) -> Result<Vec<Gap>, Error> {
    sqlx::query_as(
        "select topic, partition, coalesce(to_time, raised_at) as until from mod_patron_blocks.incident
          where kind in ('records_lost', 'topic_recreated') and (tenant = $1 or tenant is null)",
    )
    .bind(tenant.as_str())
    .fetch_all(db)
    .await
    .map_err(Error::at("list gaps"))
}

/// Returns the topics that an instance found to be recreated in the last five minutes, by the database
/// clock.
pub async fn recently_recreated_topics(db: impl PgExecutor<'_>) -> Result<Vec<String>, Error> {
    sqlx::query_scalar(
        "select distinct topic from mod_patron_blocks.incident
          where kind = 'topic_recreated' and raised_at > now() - interval '5 minutes'",
    )
    .fetch_all(db)
    .await
    .map_err(Error::at("list the recently recreated topics"))
}
