//! The progress reports of the instances. Each instance reports the partitions that it owns, and reads the
//! reports of all instances.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgExecutor, types::Json};
use uuid::Uuid;

use crate::store::{Error, Tx};

/// The numbers of owned partitions with a known position, by topic.
pub type OwnedPartitions = BTreeMap<String, Vec<i32>>;

/// A partition with records that are not applied, or a stopped partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BehindPartition {
    /// Full name of the topic.
    pub topic: String,
    /// Number of the partition.
    pub partition: i32,
    /// Number of records that are not applied.
    pub lag: i64,
    /// The instant up to which the records of the partition are applied, if it is known.
    pub as_of: Option<DateTime<Utc>>,
    /// Whether the partition waits for an operator.
    pub is_stopped: bool,
}

/// The report of this instance, with times of the database clock.
#[derive(Debug)]
pub struct NewReport<'a> {
    /// Id of the instance.
    pub instance: Uuid,
    /// When the instance last compared its positions with the ends of the log; `None` before the first time.
    pub compared_at: Option<DateTime<Utc>>,
    /// Number of changes of [`Self::owned`].
    pub owned_version: i64,
    /// The owned partitions.
    pub owned: &'a OwnedPartitions,
    /// Partitions that are behind, or stopped.
    pub behind: &'a [BehindPartition],
    /// When the last event arrived over HTTP, by tenant.
    pub callbacks: &'a HashMap<String, DateTime<Utc>>,
}

/// A report as read from the database.
#[derive(Debug, Clone, PartialEq)]
pub struct InstanceReport {
    /// Id of the instance.
    pub instance: Uuid,
    /// When the instance last reported.
    pub reported_at: DateTime<Utc>,
    /// When the instance last compared its positions with the ends of the log.
    pub compared_at: Option<DateTime<Utc>>,
    /// Number of changes of [`Self::owned`].
    pub owned_version: i64,
    /// The owned partitions; `None` if the reader knows this version.
    pub owned: Option<OwnedPartitions>,
    /// Partitions that are behind, or stopped.
    pub behind: Vec<BehindPartition>,
    /// When the last event arrived over HTTP, by tenant.
    pub callbacks: HashMap<String, DateTime<Utc>>,
}

/// Stores the report of this instance, and deletes reports that are an hour old.
pub async fn write(tx: &mut Tx, report: &NewReport<'_>) -> Result<(), Error> {
    sqlx::query(
        "with old as (
           delete from mod_patron_blocks.ingest_instance where reported_at < now() - interval '1 hour')
         insert into mod_patron_blocks.ingest_instance as t
           (instance, reported_at, compared_at, owned_version, owned, behind, callbacks)
         values ($1, now(), $2, $3, $4, $5, $6)
         on conflict (instance) do update set
           reported_at = excluded.reported_at, compared_at = excluded.compared_at,
           behind = excluded.behind, callbacks = excluded.callbacks,
           owned = case when t.owned_version = excluded.owned_version then t.owned else excluded.owned end,
           owned_version = excluded.owned_version",
    )
    .bind(report.instance)
    .bind(report.compared_at)
    .bind(report.owned_version)
    .bind(Json(report.owned))
    .bind(Json(report.behind))
    .bind(Json(report.callbacks))
    .execute(&mut **tx)
    .await
    .map_err(Error::at("store the progress report of this instance"))?;
    Ok(())
}

/// Deletes the report of an instance that stops.
pub async fn delete(db: impl PgExecutor<'_>, instance: Uuid) -> Result<(), Error> {
    let delete = "delete from mod_patron_blocks.ingest_instance where instance = $1";
    let done = sqlx::query(delete).bind(instance).execute(db).await;
    done.map(|_| ()).map_err(Error::at("delete the progress report of this instance"))
}

/// Reads the reports of all instances. `known` has the version of the owned partitions that the reader knows,
/// by instance.
pub async fn read(tx: &mut Tx, known: &BTreeMap<Uuid, i64>) -> Result<Vec<InstanceReport>, Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        instance: Uuid,
        reported_at: DateTime<Utc>,
        compared_at: Option<DateTime<Utc>>,
        owned_version: i64,
        owned: Option<Json<OwnedPartitions>>,
        behind: Json<Vec<BehindPartition>>,
        callbacks: Json<HashMap<String, DateTime<Utc>>>,
    }
    let rows: Vec<Row> = sqlx::query_as(
        "select i.instance, i.reported_at, i.compared_at, i.owned_version,
                case when k.owned_version is distinct from i.owned_version then i.owned end as owned,
                i.behind, i.callbacks
           from mod_patron_blocks.ingest_instance i
           left join unnest($1::uuid[], $2::int8[]) as k (instance, owned_version) using (instance)",
    )
    .bind(known.keys().copied().collect::<Vec<_>>())
    .bind(known.values().copied().collect::<Vec<_>>())
    .fetch_all(&mut **tx)
    .await
    .map_err(Error::at("read the progress reports of the instances"))?;
    let report = |row: Row| InstanceReport {
        instance: row.instance,
        reported_at: row.reported_at,
        compared_at: row.compared_at,
        owned_version: row.owned_version,
        owned: row.owned.map(|owned| owned.0),
        behind: row.behind.0,
        callbacks: row.callbacks.0,
    };
    Ok(rows.into_iter().map(report).collect())
}
