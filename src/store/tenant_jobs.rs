//! Install and upgrade jobs, for any instance to answer for and to take over. They are the module's: a
//! job begins before its tenant's schema is there.

use std::time::Duration;

use chrono::TimeDelta;
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Error, Tx};
use crate::event::TenantId;

/// How long a job is kept that ended and that no client has deleted.
const COMPLETED_RETENTION: TimeDelta = TimeDelta::days(30);

/// A job as stored.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct TenantJob {
    /// Its id.
    pub id: Uuid,
    /// The tenant.
    #[sqlx(try_from = "String")]
    pub tenant: TenantId,
    /// The request's body.
    pub tenant_attributes: Value,
    /// Whether it has ended.
    pub complete: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What else there is to say.
    pub messages: Vec<String>,
}

/// Who works on a job: made for each taking. Whoever has lost it writes nothing for it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JobLease {
    /// The job.
    pub job: Uuid,
    /// Whose it is.
    pub holder: Uuid,
}

/// Enters a job that its instance works on for so long, unless it says more. All times are the database's: those of
/// instances may differ. Old ones that nobody has deleted go.
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
    .map_err(Error::at("enter a tenant job"))?;
    Ok(())
}

/// Says that a job is still worked on. Tells whether it is open and still its holder's.
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
    .map_err(Error::at("hold a tenant job"))?;
    Ok(done.rows_affected() == 1)
}

/// Fails unless a job is open and still its holder's; until the transaction ends nobody can take it.
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

/// Takes over a job whose instance has not been heard of; each goes to one who asks.
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
    .map_err(Error::at("take over a tenant job"))
}

/// Ends a job, unless another instance works on it by now.
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
    .map_err(Error::at("end a tenant job"))?;
    Ok(())
}

/// The tenant's job, if it is known.
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

/// Forgets a job, or all of the tenant; tells whether there was one.
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
    .map_err(Error::at("forget a tenant job"))?;
    Ok(done.rows_affected() > 0)
}
