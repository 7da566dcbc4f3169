//! Durable jobs: rebuilds, summary exports and tenant jobs, in one table of the module's schema
//! (docs/decisions/0025). A job may start before its tenant's schema exists, and any instance may claim the
//! job.

mod lease;
mod status;

use chrono::{DateTime, TimeDelta, Utc};
pub use lease::{Lease, LeaseState, Outcome, is_lease_lost, is_lease_valid, renew, set_status};
use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};
pub use status::Status;
use uuid::Uuid;

use super::{Error, Tx};
use crate::event::TenantId;

/// The columns of [`Job`].
macro_rules! columns {
    () => {
        "id, tenant, request, status, requested_by, requested_at, started_at, ended_at, cancel_requested, \
         progress, summary, error, messages, read_group, loans_read, fees_fines_read"
    };
}

// The macro `columns` has to precede the module that uses the macro.
pub mod claims;

/// The kind of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobKind {
    /// A rebuild of a tenant or of a patron.
    Rebuild,
    /// A summary export.
    SummaryExport,
    /// A job that enables or upgrades a tenant.
    Tenant,
}

impl JobKind {
    fn name(self) -> &'static str {
        match self {
            Self::Rebuild => "rebuild",
            Self::SummaryExport => "summary_export",
            Self::Tenant => "tenant",
        }
    }

    /// Returns the time after which an ended job is deleted.
    fn ended_retention(self) -> TimeDelta {
        match self {
            Self::Rebuild | Self::SummaryExport => TimeDelta::days(90),
            Self::Tenant => TimeDelta::days(30),
        }
    }
}

/// A job as stored.
#[derive(Debug, Clone, PartialEq, FromRow)]
pub struct Job {
    /// The id of the job.
    pub id: Uuid,
    /// The tenant.
    #[sqlx(try_from = "String")]
    pub tenant: TenantId,
    /// The request, as JSON. Each kind has its own members.
    pub request: Value,
    /// The stage of the job.
    #[sqlx(try_from = "String")]
    pub status: Status,
    /// The user who requested the job.
    pub requested_by: String,
    /// The time of the request.
    pub requested_at: DateTime<Utc>,
    /// The time of the first claim by an instance.
    pub started_at: Option<DateTime<Utc>>,
    /// The time of the end.
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether the job is to end at its next check.
    pub cancel_requested: bool,
    /// The progress as of the last report, as JSON. Each kind has its own members.
    pub progress: Value,
    /// The summary of the differences of a rebuild.
    pub summary: Option<Value>,
    /// The cause of a failure, or of unapplied differences.
    pub error: Option<String>,
    /// Messages for the requester, such as the problems during a rebuild.
    #[sqlx(json)]
    pub messages: Vec<String>,
    /// The name of the read group, common to all rebuilds that may read their topics together.
    pub read_group: Option<String>,
    /// The number of open loans that the storage modules returned to a rebuild.
    pub loans_read: i32,
    /// The number of open fees/fines that the storage modules returned to a rebuild.
    pub fees_fines_read: i32,
}

impl Job {
    /// Decodes a JSON column of the job.
    pub(super) fn decode<T: DeserializeOwned>(&self, column: &Value) -> Result<T, Error> {
        T::deserialize(column).map_err(|why| Error::Corrupt {
            table: "job",
            id: self.id,
            why: why.to_string(),
        })
    }
}

/// The request for a job.
#[derive(Debug, Clone, Copy)]
pub struct NewJob<'a> {
    /// The kind of the job.
    pub kind: JobKind,
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The request, as JSON.
    pub request: &'a Value,
    /// The user who requests the job.
    pub requested_by: &'a str,
    /// The name of the read group of a rebuild; tenants with shared topics have the same group.
    pub read_group: Option<&'a str>,
    /// The status and the lease of an instance that starts the job itself; without them any instance may
    /// claim the job.
    pub started: Option<(Status, Lease)>,
}

/// Inserts a job, and deletes jobs of the same kind that ended before the retention time.
pub async fn insert(db: impl PgExecutor<'_>, id: Uuid, job: NewJob<'_>) -> Result<Job, Error> {
    const INSERT: &str = concat!(
        "with old as (delete from mod_patron_blocks.job
                       where kind = $2 and ended_at < now() - $7 * interval '1 day')
         insert into mod_patron_blocks.job (id, kind, tenant, request, requested_by, requested_at, read_group,
                                            status, lease_holder, lease_expires_at)
         values ($1, $2, $3, $4, $5, now(), $6, $8, $9, now() + $10 * interval '1 second')
         returning ",
        columns!()
    );
    let (status, lease) = job.started.unzip();
    sqlx::query_as(INSERT)
        .bind(id)
        .bind(job.kind.name())
        .bind(job.tenant.as_str())
        .bind(job.request)
        .bind(job.requested_by)
        .bind(job.read_group)
        .bind(job.kind.ended_retention().num_days())
        .bind(status.unwrap_or(Status::Waiting).name())
        .bind(lease.map(|lease| lease.holder))
        .bind(lease.map(|lease| lease.duration.as_secs_f64()))
        .fetch_one(db)
        .await
        .map_err(Error::at("insert a job"))
}

/// Returns a job of the tenant.
pub async fn find(
    db: impl PgExecutor<'_>,
    kind: JobKind,
    tenant: &TenantId,
    id: Uuid,
) -> Result<Option<Job>, Error> {
    const FIND: &str = concat!(
        "select ",
        columns!(),
        " from mod_patron_blocks.job where id = $1 and tenant = $2 and kind = $3"
    );
    let found = sqlx::query_as(FIND).bind(id).bind(tenant.as_str()).bind(kind.name());
    found.fetch_optional(db).await.map_err(Error::at("find a job"))
}

/// Returns the existing jobs among `ids`, ordered by tenant.
pub async fn find_all(db: impl PgExecutor<'_>, ids: &[Uuid]) -> Result<Vec<Job>, Error> {
    const FIND_ALL: &str = concat!(
        "select ",
        columns!(),
        " from mod_patron_blocks.job where id = any($1) order by tenant"
    );
    let found = sqlx::query_as(FIND_ALL).bind(ids).fetch_all(db).await;
    found.map_err(Error::at("find jobs"))
}

/// Returns a page of the tenant's jobs of a kind, the newest first, and the total number of these jobs.
pub async fn list(
    db: impl PgExecutor<'_>,
    kind: JobKind,
    tenant: &TenantId,
    limit: i64,
    offset: i64,
) -> Result<(Vec<Job>, i64), Error> {
    #[derive(FromRow)]
    struct Counted {
        #[sqlx(flatten)]
        job: Job,
        total: i64,
    }
    const LIST: &str = concat!(
        "select ",
        columns!(),
        ", count(*) over () as total from mod_patron_blocks.job
          where tenant = $1 and kind = $2 order by requested_at desc, id limit $3 offset $4"
    );
    let found = sqlx::query_as(LIST).bind(tenant.as_str()).bind(kind.name());
    let found: Vec<Counted> =
        found.bind(limit).bind(offset).fetch_all(db).await.map_err(Error::at("list jobs"))?;
    let total = found.first().map_or(0, |counted| counted.total);
    Ok((found.into_iter().map(|counted| counted.job).collect(), total))
}

/// Returns the newest rebuild of one patron.
pub async fn find_newest_rebuild_of(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    user: Uuid,
) -> Result<Option<Job>, Error> {
    const FIND_NEWEST: &str = concat!(
        "select ",
        columns!(),
        " from mod_patron_blocks.job
          where tenant = $1 and kind = $2 and request ->> 'userId' = $3
          order by requested_at desc, id limit 1"
    );
    let found = sqlx::query_as(FIND_NEWEST).bind(tenant.as_str()).bind(JobKind::Rebuild.name());
    let found = found.bind(user.to_string()).fetch_optional(db).await;
    found.map_err(Error::at("find the newest rebuild of a patron"))
}

/// Returns the ids of all jobs of a kind and of a tenant.
pub async fn list_ids(tx: &mut Tx, kind: JobKind, tenant: &TenantId) -> Result<Vec<Uuid>, Error> {
    let all = "select id from mod_patron_blocks.job where tenant = $1 and kind = $2";
    let all = sqlx::query_scalar(all).bind(tenant.as_str()).bind(kind.name());
    all.fetch_all(&mut **tx).await.map_err(Error::at("list the jobs of a tenant"))
}

/// Deletes a job. Returns `false` if the tenant has no such job.
pub async fn delete(
    db: impl PgExecutor<'_>,
    kind: JobKind,
    tenant: &TenantId,
    id: Uuid,
) -> Result<bool, Error> {
    let gone = "delete from mod_patron_blocks.job where id = $1 and tenant = $2 and kind = $3";
    let gone = sqlx::query(gone).bind(id).bind(tenant.as_str()).bind(kind.name()).execute(db).await;
    Ok(gone.map_err(Error::at("delete a job"))?.rows_affected() > 0)
}

/// Deletes all jobs of a tenant with one of `kinds`, after the tenant's tables were dropped.
pub async fn delete_all(tx: &mut Tx, tenant: &TenantId, kinds: &[JobKind]) -> Result<(), Error> {
    let kinds: Vec<&str> = kinds.iter().map(|kind| kind.name()).collect();
    let gone = "delete from mod_patron_blocks.job where tenant = $1 and kind = any($2)";
    let gone = sqlx::query(gone).bind(tenant.as_str()).bind(kinds).execute(&mut **tx).await;
    gone.map(|_| ()).map_err(Error::at("delete the jobs of a tenant"))
}
