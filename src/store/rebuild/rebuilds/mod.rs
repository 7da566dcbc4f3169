//! The statements on jobs that only rebuilds have: refused tokens, cancellation, application and replacement.

pub mod incidents;
mod read_progress;
mod report;

use chrono::{DateTime, TimeDelta, Utc};
pub use read_progress::{count_skipped_records, record_problem, record_read, reset_read};
pub use report::{DifferenceCounts, Progress, Summary};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

pub use crate::store::jobs::{Job as Rebuild, Status};
use crate::{
    event::TenantId,
    store::{Db, Error, Tx, begin, commit, jobs::Lease, tenants},
};

/// The time that a compared rebuild waits to be applied before it is cancelled.
const COMPARED_RETENTION: TimeDelta = TimeDelta::days(7);

/// The number of refused tokens in a row after which the next refusal fails a rebuild, because others
/// wait behind it.
const TOKEN_REFUSALS_MAX: i32 = 9;

/// Releases the lease of a rebuild, and stores the problem that caused the release, if any. Another
/// instance may claim the rebuild at once. After too many releases with a problem and without progress,
/// the rebuild has failed.
pub async fn release(
    db: impl PgExecutor<'_>,
    id: Uuid,
    Lease { holder, .. }: Lease,
    problem: Option<&str>,
) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.job
            set lease_expires_at = null, lease_holder = null,
                token_refusals = token_refusals + ($3::text is not null)::int,
                messages = case when messages -> -1 is not distinct from to_jsonb($3::text) then messages
                                else messages || coalesce(to_jsonb($3::text), '[]') end,
                status = case when token_refusals >= $4 and $3 is not null then 'failed' else status end,
                error = case when token_refusals >= $4 then $3 else error end,
                ended_at = case when token_refusals >= $4 and $3 is not null then now() end
          where id = $1 and lease_holder = $2 and ended_at is null",
    )
    .bind(id)
    .bind(holder)
    .bind(problem)
    .bind(TOKEN_REFUSALS_MAX)
    .execute(db)
    .await
    .map_err(Error::at("release a rebuild"))?;
    Ok(())
}

/// Requests the application of a compared rebuild. Returns `false` if the rebuild is not in status
/// `compared`.
pub async fn request_apply(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    id: Uuid,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.job set status = 'applying', lease_expires_at = null
          where id = $1 and tenant = $2 and status = 'compared'",
    );
    let done = done.bind(id).bind(tenant.as_str()).execute(db).await;
    Ok(done.map_err(Error::at("request the application of a rebuild"))?.rows_affected() == 1)
}

/// Requests the cancellation of a rebuild. Returns `false` if the rebuild does not exist or has already
/// ended. A waiting rebuild ends at once, and an initial fill by that rebuild leaves the tenant
/// incomplete.
pub async fn cancel(db: &Db, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
    let mut tx = begin(db).await?;
    // The tenant lock prevents a deadlock with a purge, which locks the same rows in another order.
    tenants::lock_shared(&mut tx, tenant).await?;
    let done = sqlx::query_as(
        "update mod_patron_blocks.job
            set cancel_requested = true, ended_at = case when status = 'waiting' then now() end,
                status = case status when 'compared' then 'applying' when 'waiting' then 'cancelled' else status end
          where id = $1 and tenant = $2 and kind = 'rebuild' and ended_at is null
         returning ended_at is not null, requested_at",
    );
    let done = done.bind(id).bind(tenant.as_str()).fetch_optional(&mut *tx).await;
    let done: Option<(bool, DateTime<Utc>)> = done.map_err(Error::at("cancel a rebuild"))?;
    if let Some((true, asked_at)) = done {
        tenants::finish_initial_fill(&mut tx, tenant, Some(id), Some(asked_at)).await?;
    }
    commit(tx).await?;
    Ok(done.is_some())
}

/// Cancels earlier compared rebuilds of the same tenant or patron, because `of` has newer differences of
/// the same records. Dry runs remain.
pub async fn supersede(tx: &mut Tx, of: &Rebuild) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.job set cancel_requested = true, status = 'applying', lease_expires_at = null
          where tenant = $1 and id <> $2 and status = 'compared' and request -> 'dryRun' = 'false'
            and request ->> 'userId' is not distinct from $3::text and requested_at <= $4",
    )
    .bind(of.tenant.as_str())
    .bind(of.id)
    .bind(of.request.get("userId").and_then(Value::as_str))
    .bind(of.requested_at)
    .execute(&mut **tx)
    .await
    .map_err(Error::at("cancel earlier rebuilds"))?;
    Ok(())
}

/// Cancels compared rebuilds after `COMPARED_RETENTION`, because each has a copy of its tenant.
pub async fn cancel_stale(db: impl PgExecutor<'_>) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.job set cancel_requested = true, status = 'applying'
          where kind = 'rebuild' and ended_at is null and status = 'compared'
            and started_at < now() - $1 * interval '1 day'",
    )
    .bind(COMPARED_RETENTION.num_days())
    .execute(db)
    .await
    .map_err(Error::at("cancel stale rebuilds"))?;
    Ok(())
}
