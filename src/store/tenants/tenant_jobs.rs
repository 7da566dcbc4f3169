//! Tenant jobs, which any instance may report and claim. The module's schema stores the jobs, because a
//! job starts before its tenant's schema exists.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    event::TenantId,
    store::{Error, Tx},
};

/// The time after which a completed job is deleted if no client deleted it.
const COMPLETED_RETENTION: TimeDelta = TimeDelta::days(30);

/// A tenant job as stored.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct TenantJob {
    /// The id of the job.
    pub id: Uuid,
    /// The tenant.
    #[sqlx(try_from = "String")]
    pub tenant: TenantId,
    /// The body of the request.
    pub tenant_attributes: Value,
    /// Whether the job has ended.
    pub complete: bool,
    /// The cause of a failure.
    pub error: Option<String>,
    /// Further messages for the client.
    pub messages: Vec<String>,
}

/// The lease on a job. Each claim has a new holder id, so an instance that lost the lease can write
/// nothing for the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLease {
    /// The id of the job.
    pub job: Uuid,
    /// The id of the holder.
    pub holder: Uuid,
}

/// Inserts a job with a lease of `time` for its instance, and deletes completed jobs after the retention
/// time. The database clock sets all times, because the clocks of instances differ.
pub async fn insert(
    db: impl PgExecutor<'_>,
    JobLease { job, holder }: JobLease,
    tenant: &TenantId,
    attributes: &Value,
    time: Duration,
) -> Result<(), Error> {
    sqlx::query(
        "with old as (delete from mod_patron_blocks.tenant_job
                       where complete and created_at < now() - $5 * interval '1 day')
         insert into mod_patron_blocks.tenant_job (
           id, tenant, tenant_attributes, created_at, lease_expires_at, lease_holder)
         values ($1, $2, $3, now(), now() + $4 * interval '1 second', $6)",
    )
    .bind(job)
    .bind(tenant.as_str())
    .bind(attributes)
    .bind(time.as_secs_f64())
    .bind(COMPLETED_RETENTION.num_days())
    .bind(holder)
    .execute(db)
    .await
    .map_err(Error::at("insert a tenant job"))?;
    Ok(())
}

/// Renews the lease on a job. Returns `false` if the job is complete or another holder has the lease.
pub async fn renew(
    db: impl PgExecutor<'_>,
    JobLease { job, holder }: JobLease,
    time: Duration,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.tenant_job set lease_expires_at = now() + $3 * interval '1 second'
          where id = $1 and lease_holder = $2 and not complete",
    )
    .bind(job)
    .bind(holder)
    .bind(time.as_secs_f64())
    .execute(db)
    .await
    .map_err(Error::at("renew the lease of a tenant job"))?;
    Ok(done.rows_affected() == 1)
}

/// Fails unless the job is open and the lease exists. The row lock prevents a claim until the transaction
/// ends.
pub async fn require_lease(tx: &mut Tx, JobLease { job, holder }: JobLease) -> Result<(), Error> {
    let ours: Option<Uuid> = sqlx::query_scalar(
        "select id from mod_patron_blocks.tenant_job where id = $1 and lease_holder = $2 and not complete
            for share",
    )
    .bind(job)
    .bind(holder)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::at("check the lease of a tenant job"))?;
    ours.map(|_| ()).ok_or(Error::LeaseLost)
}

/// Claims the oldest open job with an expired lease. Concurrent callers claim different jobs.
pub async fn claim_abandoned(
    db: impl PgExecutor<'_>,
    holder: Uuid,
    time: Duration,
) -> Result<Option<TenantJob>, Error> {
    sqlx::query_as(
        "update mod_patron_blocks.tenant_job
            set lease_expires_at = now() + $2 * interval '1 second', lease_holder = $1
          where id = (select id from mod_patron_blocks.tenant_job
                       where not complete and lease_expires_at < now()
                       order by created_at limit 1 for update skip locked)
         returning id, tenant, tenant_attributes, complete, error, messages",
    )
    .bind(holder)
    .bind(time.as_secs_f64())
    .fetch_optional(db)
    .await
    .map_err(Error::at("claim an abandoned tenant job"))
}

/// Completes a job if the holder still has the lease.
pub async fn finish(
    db: impl PgExecutor<'_>,
    JobLease { job, holder }: JobLease,
    error: Option<&str>,
    messages: &[String],
) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.tenant_job set complete = true, error = $2, messages = $3
          where id = $1 and lease_holder = $4 and not complete",
    )
    .bind(job)
    .bind(error)
    .bind(messages)
    .bind(holder)
    .execute(db)
    .await
    .map_err(Error::at("complete a tenant job"))?;
    Ok(())
}

/// Returns the tenant's job, if known.
pub async fn find(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    id: Uuid,
) -> Result<Option<TenantJob>, Error> {
    sqlx::query_as(
        "select id, tenant, tenant_attributes, complete, error, messages
           from mod_patron_blocks.tenant_job where id = $1 and tenant = $2",
    )
    .bind(id)
    .bind(tenant.as_str())
    .fetch_optional(db)
    .await
    .map_err(Error::at("find a tenant job"))
}

/// Deletes a job, or all jobs of the tenant. Returns `false` if no job was deleted.
pub async fn delete(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    id: Option<Uuid>,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "delete from mod_patron_blocks.tenant_job where tenant = $1 and ($2::uuid is null or id = $2)",
    )
    .bind(tenant.as_str())
    .bind(id)
    .execute(db)
    .await
    .map_err(Error::at("delete a tenant job"))?;
    Ok(done.rows_affected() > 0)
}
