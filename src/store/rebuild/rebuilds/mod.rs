//! The jobs of rebuilds: requests, leases, status and results, in a table of the module's schema.

pub mod incidents;
mod read_progress;
mod report;
mod status;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
pub use read_progress::{count_skipped_records, record_problem, record_read, reset_read};
pub use report::{DifferenceCounts, Progress, Summary};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor, types::Json};
pub use status::Status;
use uuid::Uuid;

use crate::{
    event::TenantId,
    store::{Db, Error, Tx, begin, commit, tenants},
};

/// The time after which an ended rebuild is deleted.
const ENDED_RETENTION: TimeDelta = TimeDelta::days(90);

/// The columns of [`Rebuild`].
macro_rules! columns {
    () => {
        "id, tenant, request, status, requested_by, requested_at, started_at, ended_at, cancel_requested, \
         progress, summary, error, loans_read, fees_fines_read, problems, read_group"
    };
}

/// Claims the oldest matching rebuild without a valid lease. If a transaction has locked a rebuild to
/// store its end, `skip locked` skips the rebuild.
macro_rules! claim {
    ($which:literal) => {
        concat!(
            "update mod_patron_blocks.rebuild
                set lease_expires_at = now() + $1 * interval '1 second', lease_holder = $2,
                    started_at = coalesce(started_at, now())
              where id = (select r.id from mod_patron_blocks.rebuild r
                           where r.status in ('waiting', 'reading', 'comparing', 'applying')
                             and (r.lease_expires_at is null or r.lease_expires_at < now())
                             and ($3::text is null or r.tenant = $3) and ($4::uuid is null or r.id = $4)
                             and (", $which, ")
                           order by r.requested_at limit 1 for update skip locked)
             returning ", columns!()
        )
    };
}

// The macro `columns` has to precede the module that uses the macro.
mod queries;

pub use queries::{find, find_all, list, list_ids};

const CLAIM: &str = claim!(
    "r.request ->> 'source' <> 'storage' or r.status in ('comparing', 'applying') or r.cancel_requested"
);

const CLAIM_WITH_TOKEN: &str = claim!(
    "r.request ->> 'source' = 'storage' and r.status in ('waiting', 'reading')
       and not exists (select from mod_patron_blocks.rebuild o
                        where o.tenant = r.tenant and o.request ->> 'source' = 'storage'
                          and o.ended_at is null and o.lease_expires_at >= now())"
);

/// Claims the waiting rebuilds of a read group.
const CLAIM_READ_GROUP: &str = concat!(
    "update mod_patron_blocks.rebuild
        set lease_expires_at = now() + $1 * interval '1 second', lease_holder = $2,
            started_at = coalesce(started_at, now())
      where id in (select id from mod_patron_blocks.rebuild
                    where read_group = $3 and status = 'waiting' and not cancel_requested
                      and (lease_expires_at is null or lease_expires_at < now())
                    order by requested_at limit $4 for update skip locked)
     returning ",
    columns!()
);

/// The time that a compared rebuild waits to be applied before it is cancelled.
const COMPARED_RETENTION: TimeDelta = TimeDelta::days(7);

/// The key of the advisory lock for claims. The lock serializes claims, because a query alone cannot
/// guarantee one active rebuild at a time.
const CLAIM_LOCK_KEY: i64 = 0x7062_7265;

/// The number of refused tokens in a row after which the next refusal fails a rebuild, because others
/// wait behind it.
const TOKEN_REFUSALS_MAX: i32 = 9;

/// A rebuild as stored.
#[derive(Debug, Clone, FromRow)]
pub struct Rebuild {
    /// The id of the rebuild.
    pub id: Uuid,
    /// The tenant.
    #[sqlx(try_from = "String")]
    pub tenant: TenantId,
    /// The request, as JSON.
    pub request: Value,
    /// The stage of the rebuild.
    #[sqlx(try_from = "String")]
    pub status: Status,
    /// The user who requested the rebuild.
    pub requested_by: String,
    /// The time of the request.
    pub requested_at: DateTime<Utc>,
    /// The time of the first claim by an instance.
    pub started_at: Option<DateTime<Utc>>,
    /// The time of the end.
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether the rebuild is to end at its next check.
    pub cancel_requested: bool,
    /// The progress, as of the last heartbeat.
    #[sqlx(json)]
    pub progress: Progress,
    /// The summary of the differences.
    #[sqlx(json(nullable))]
    pub summary: Option<Summary>,
    /// The cause of a failure, or of unapplied differences.
    pub error: Option<String>,
    /// The number of open loans that the storage modules returned.
    pub loans_read: i32,
    /// The number of open fees/fines that the storage modules returned.
    pub fees_fines_read: i32,
    /// The problems during the rebuild.
    #[sqlx(json)]
    pub problems: Vec<String>,
    /// The name of the read group, common to all rebuilds that may read their topics together.
    pub read_group: Option<String>,
}

/// The request for a rebuild.
#[derive(Debug, Clone, Copy)]
pub struct NewRebuild<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// The request, as JSON.
    pub request: &'a Value,
    /// The user who requests the rebuild.
    pub requested_by: &'a str,
    /// The name of the read group; tenants with shared topics have the same group.
    pub read_group: Option<&'a str>,
}

/// Inserts a rebuild that any instance may claim, and deletes rebuilds that ended before the retention
/// time.
pub async fn insert(
    db: impl PgExecutor<'_>,
    id: Uuid,
    rebuild: NewRebuild<'_>,
) -> Result<(), Error> {
    sqlx::query(
        "with old as (delete from mod_patron_blocks.rebuild where ended_at < now() - $5 * interval '1 day')
         insert into mod_patron_blocks.rebuild (id, tenant, request, status, requested_by, requested_at, read_group)
         values ($1, $2, $3, 'waiting', $4, now(), $6)",
    )
    .bind(id)
    .bind(rebuild.tenant.as_str())
    .bind(rebuild.request)
    .bind(rebuild.requested_by)
    .bind(ENDED_RETENTION.num_days())
    .bind(rebuild.read_group)
    .execute(db)
    .await
    .map_err(Error::at("insert a rebuild"))?;
    Ok(())
}

/// The claim of one instance to a rebuild. The database clock measures leases, because the clocks of
/// instances differ.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// The id of the claiming instance.
    pub holder: Uuid,
    /// The time during which no other instance may claim the rebuild.
    pub duration: Duration,
}

impl Lease {
    fn seconds(&self) -> f64 {
        self.duration.as_secs_f64()
    }
}

/// Claims the oldest rebuild without a valid lease, or the rebuild `id`. A rebuild that still has to call
/// the storage modules needs a token, so [`claim_with_token`] claims that rebuild.
pub async fn claim(db: &Db, id: Option<Uuid>, lease: Lease) -> Result<Option<Rebuild>, Error> {
    claim_any(db, CLAIM, None, id, lease).await
}

/// Claims the oldest rebuild of a tenant that still has to call the storage modules, or the rebuild `id`.
/// If an instance already works on a storage rebuild of the tenant, the function returns `None`.
pub async fn claim_with_token(
    db: &Db,
    tenant: &TenantId,
    id: Option<Uuid>,
    lease: Lease,
) -> Result<Option<Rebuild>, Error> {
    claim_any(db, CLAIM_WITH_TOKEN, Some(tenant), id, lease).await
}

/// Returns whether a rebuild of the tenant, or the rebuild `id`, still has to call the storage modules.
/// If an instance works on the rebuild, the token may become useful after that instance's lease expires.
pub async fn waits_for_token(db: &Db, tenant: &TenantId, id: Option<Uuid>) -> Result<bool, Error> {
    sqlx::query_scalar(
        "select exists (
           select from mod_patron_blocks.rebuild
            where tenant = $1 and ($2::uuid is null or id = $2) and request ->> 'source' = 'storage'
              and status in ('waiting', 'reading') and not cancel_requested)",
    )
    .bind(tenant.as_str())
    .bind(id)
    .fetch_one(db)
    .await
    .map_err(Error::at("check the need for a token"))
}

async fn claim_any(
    db: &Db,
    sql: &'static str,
    tenant: Option<&TenantId>,
    id: Option<Uuid>,
    lease: Lease,
) -> Result<Option<Rebuild>, Error> {
    let failed = || Error::at("claim a rebuild");
    let mut tx = begin(db).await?;
    let claim_lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(CLAIM_LOCK_KEY);
    claim_lock.execute(&mut *tx).await.map_err(failed())?;
    let claim = sqlx::query_as(sql)
        .bind(lease.seconds())
        .bind(lease.holder)
        .bind(tenant.map(TenantId::as_str))
        .bind(id);
    let claimed = claim.fetch_optional(&mut *tx).await.map_err(failed())?;
    commit(tx).await?;
    Ok(claimed)
}

/// Claims the other waiting rebuilds of a read group, the oldest first and at most `most`.
pub async fn claim_read_group(
    db: &Db,
    read_group: &str,
    most: i64,
    lease: Lease,
) -> Result<Vec<Rebuild>, Error> {
    let failed = || Error::at("claim the rebuilds of a read group");
    let mut tx = begin(db).await?;
    let claim_lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(CLAIM_LOCK_KEY);
    claim_lock.execute(&mut *tx).await.map_err(failed())?;
    let claim = sqlx::query_as(CLAIM_READ_GROUP)
        .bind(lease.seconds())
        .bind(lease.holder)
        .bind(read_group)
        .bind(most);
    let claimed = claim.fetch_all(&mut *tx).await.map_err(failed())?;
    commit(tx).await?;
    Ok(claimed)
}

/// The result of a lease renewal.
pub enum LeaseState {
    /// The lease is renewed.
    Active {
        /// Whether a cancellation was requested.
        cancel_requested: bool,
    },
    /// Another instance has the lease, or the rebuild has ended.
    TakenOver,
    /// The rebuild no longer exists, because its tenant was purged.
    Deleted,
}

/// Renews the lease of a rebuild and stores the progress.
pub async fn renew(
    db: impl PgExecutor<'_>,
    id: Uuid,
    lease: Lease,
    progress: &Progress,
) -> Result<LeaseState, Error> {
    let row: Option<(bool, bool)> = sqlx::query_as(
        "with renewed as (
           update mod_patron_blocks.rebuild set lease_expires_at = now() + $3 * interval '1 second', progress = $4
            where id = $1 and lease_holder = $2 and ended_at is null returning id)
         select cancel_requested, exists (select from renewed) from mod_patron_blocks.rebuild where id = $1",
    )
    .bind(id)
    .bind(lease.holder)
    .bind(lease.seconds())
    .bind(Json(progress))
    .fetch_optional(db)
    .await
    .map_err(Error::at("renew the lease of a rebuild"))?;
    Ok(match row {
        Some((cancel, true)) => LeaseState::Active { cancel_requested: cancel },
        Some((_, false)) => LeaseState::TakenOver,
        None => LeaseState::Deleted,
    })
}

/// Sets the status of a rebuild if the instance has the lease. An ended rebuild has no lease.
pub async fn set_status(
    db: impl PgExecutor<'_>,
    id: Uuid,
    Lease { holder, .. }: Lease,
    status: Status,
    summary: Option<&Summary>,
    error: Option<&str>,
) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.rebuild set status = $2, summary = coalesce($3, summary), error = $4,
                ended_at = case when $5 then now() end,
                lease_expires_at = case when $5 or $2 in ('compared', 'waiting') then null else lease_expires_at end
          where id = $1 and lease_holder = $6 and ended_at is null",
    )
    .bind(id)
    .bind(status.name())
    .bind(summary.map(Json))
    .bind(error)
    .bind(status.has_ended())
    .bind(holder)
    .execute(db)
    .await
    .map_err(Error::at("set the status of a rebuild"))?;
    Ok(())
}

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
        "update mod_patron_blocks.rebuild
            set lease_expires_at = null, lease_holder = null,
                token_refusals = token_refusals + ($3::text is not null)::int,
                problems = case when problems -> -1 is not distinct from to_jsonb($3::text) then problems
                                else problems || coalesce(to_jsonb($3::text), '[]') end,
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

/// Returns whether another instance claimed the rebuild, or the rebuild has ended. The row lock prevents
/// either until the transaction ends.
pub async fn is_lease_lost(
    tx: &mut Tx,
    id: Uuid,
    Lease { holder, .. }: Lease,
) -> Result<bool, Error> {
    let lease_row: Option<(Option<Uuid>, bool)> = sqlx::query_as(
        "select lease_holder, ended_at is not null from mod_patron_blocks.rebuild where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::at("check the lease of a rebuild"))?;
    let is_lost = |(current, has_ended): (Option<Uuid>, bool)| has_ended || current != Some(holder);
    Ok(lease_row.is_some_and(is_lost))
}

/// Returns whether the lease of the holder still exists; the row lock prevents a claim until the
/// transaction ends. Callers check the lease at the end of a transaction, because the lock blocks the
/// holder's own heartbeat.
pub async fn is_lease_valid(
    tx: &mut Tx,
    id: Uuid,
    Lease { holder, .. }: Lease,
) -> Result<bool, Error> {
    let ours: Option<Uuid> = sqlx::query_scalar(
        "select id from mod_patron_blocks.rebuild where id = $1 and lease_holder = $2 and ended_at is null
            for share",
    )
    .bind(id)
    .bind(holder)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::at("check the lease of a rebuild"))?;
    Ok(ours.is_some())
}

/// Requests the application of a compared rebuild. Returns `false` if the rebuild is not in status
/// `compared`.
pub async fn request_apply(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
    id: Uuid,
) -> Result<bool, Error> {
    let done = sqlx::query(
        "update mod_patron_blocks.rebuild set status = 'applying', lease_expires_at = null
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
        "update mod_patron_blocks.rebuild
            set cancel_requested = true, ended_at = case when status = 'waiting' then now() end,
                status = case status when 'compared' then 'applying' when 'waiting' then 'cancelled' else status end
          where id = $1 and tenant = $2 and ended_at is null
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
        "update mod_patron_blocks.rebuild set cancel_requested = true, status = 'applying', lease_expires_at = null
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
        "update mod_patron_blocks.rebuild set cancel_requested = true, status = 'applying'
          where status = 'compared' and started_at < now() - $1 * interval '1 day'",
    )
    .bind(COMPARED_RETENTION.num_days())
    .execute(db)
    .await
    .map_err(Error::at("cancel stale rebuilds"))?;
    Ok(())
}

/// Deletes all rebuilds of a tenant, after the tenant's schema was dropped.
pub async fn delete_all(tx: &mut Tx, tenant: &TenantId) -> Result<(), Error> {
    let gone = sqlx::query("delete from mod_patron_blocks.rebuild where tenant = $1");
    let gone = gone.bind(tenant.as_str()).execute(&mut **tx).await;
    gone.map(|_| ()).map_err(Error::at("delete rebuilds"))
}
