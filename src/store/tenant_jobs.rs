//! Install and upgrade jobs, for any instance to answer for and to take over. They are the module's: a
//! job begins before its tenant's schema is there.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::Error;
use crate::event::TenantId;

/// How long a job is kept that ended and that no client has deleted.
const KEPT: TimeDelta = TimeDelta::days(30);

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

/// Enters a job that its instance works on until `held_until`, unless it says more. Old ones that
/// nobody has deleted go.
pub async fn add(
    db: impl PgExecutor<'_>,
    id: Uuid,
    tenant: &TenantId,
    attributes: &Value,
    (now, held_until): (DateTime<Utc>, DateTime<Utc>),
) -> Result<(), Error> {
    sqlx::query(
        "with old as (delete from mod_patron_blocks.tenant_job where complete and created_at < $5)
         insert into mod_patron_blocks.tenant_job (id, tenant, tenant_attributes, created_at, held_until)
         values ($1, $2, $3, $4, $6)",
    )
    .bind(id)
    .bind(tenant.as_str())
    .bind(attributes)
    .bind(now)
    .bind(now - KEPT)
    .bind(held_until)
    .execute(db)
    .await
    .map_err(Error::at("enter a tenant job"))?;
    Ok(())
}

/// Says that a job is still worked on. Tells whether it is there and open.
pub async fn hold(db: impl PgExecutor<'_>, id: Uuid, until: DateTime<Utc>) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.tenant_job set held_until = $2 where id = $1 and not complete",
    )
    .bind(id)
    .bind(until)
    .execute(db)
    .await
    .map_err(Error::at("hold a tenant job"))?;
    Ok(done.rows_affected() == 1)
}

/// Takes over a job whose instance has not been heard of; each goes to one who asks.
pub async fn take_over(
    db: impl PgExecutor<'_>,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
) -> Result<Option<TenantJob>, Error> {
    sqlx::query_as(
        "update mod_patron_blocks.tenant_job set held_until = $2
          where id = (select id from mod_patron_blocks.tenant_job
                       where not complete and held_until < $1
                       order by created_at limit 1 for update skip locked)
         returning id, tenant, tenant_attributes, complete, error, messages",
    )
    .bind(now)
    .bind(until)
    .fetch_optional(db)
    .await
    .map_err(Error::at("take over a tenant job"))
}

/// Ends a job.
pub async fn end(
    db: impl PgExecutor<'_>,
    id: Uuid,
    error: Option<&str>,
    messages: &[String],
) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.tenant_job set complete = true, error = $2, messages = $3
          where id = $1",
    )
    .bind(id)
    .bind(error)
    .bind(messages)
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
pub async fn remove(
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
