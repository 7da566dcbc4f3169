//! Rebuilds as they are asked for, worked on and kept.

pub mod incidents;
mod read_progress;
mod status;

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;
use sqlx::{FromRow, PgExecutor};
use uuid::Uuid;

pub use read_progress::{count_skipped_records, record_problem, record_read, reset_read};
pub use status::Status;

use super::{Db, Error, Tx, begin, commit, tenants};
use crate::event::TenantId;

/// How long what has ended is kept.
const ENDED_RETENTION: TimeDelta = TimeDelta::days(90);

/// What a rebuild is read by.
macro_rules! columns {
    () => {
        "id, tenant, request, status, requested_by, requested_at, started_at, ended_at, cancel_requested, \
         progress, summary, error, loans_read, fees_fines_read, problems, read_group"
    };
}

/// Takes the oldest rebuild of these that nobody works on. One whose end is just being stored is somebody's.
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

// After the macro `columns`, which the queries use.
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

/// Those that go together with one that was taken, as far as nobody has begun with them.
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

/// How long differences wait to be applied.
const COMPARED_RETENTION: TimeDelta = TimeDelta::days(7);

/// Whoever takes a rebuild holds this meanwhile: "one at a time" is not to be told by looking.
const CLAIM_LOCK_KEY: i64 = 0x7062_7265;

/// So often in a row another token may be refused before a rebuild has failed: others wait behind it.
const TOKEN_REFUSALS_MAX: i32 = 9;

/// A rebuild as stored.
#[derive(Debug, Clone, FromRow)]
pub struct Rebuild {
    /// Its id.
    pub id: Uuid,
    /// The tenant.
    #[sqlx(try_from = "String")]
    pub tenant: TenantId,
    /// What was asked for.
    pub request: Value,
    /// How far it is.
    #[sqlx(try_from = "String")]
    pub status: Status,
    /// Who asked.
    pub requested_by: String,
    /// When.
    pub requested_at: DateTime<Utc>,
    /// When an instance first worked on it.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
    /// Whether it is to end where it stands.
    pub cancel_requested: bool,
    /// How much is done of how much, as last told.
    pub progress: Value,
    /// What was found to be different.
    pub summary: Option<Value>,
    /// Why it failed, or was not applied.
    pub error: Option<String>,
    /// Open loans that the storage modules told of.
    pub loans_read: i32,
    /// Open fees/fines that they told of.
    pub fees_fines_read: i32,
    /// What was odd on the way.
    #[sqlx(json)]
    pub problems: Vec<String>,
    /// What it has in common with those that may be worked on with it.
    pub read_group: Option<String>,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct NewRebuild<'a> {
    /// The tenant.
    pub tenant: &'a TenantId,
    /// What it asks for.
    pub request: &'a Value,
    /// Who asks.
    pub requested_by: &'a str,
    /// What it has in common with those that may be worked on with it: tenants share topics.
    pub read_group: Option<&'a str>,
}

/// Enters a rebuild for any instance to work on. Old ones that have ended go.
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
    .map_err(Error::at("enter a rebuild"))?;
    Ok(())
}

/// Who takes a rebuild, and for how long. The database's clock counts: those of instances may differ.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// Whose it is.
    pub holder: Uuid,
    /// So long nobody else may take it.
    pub duration: Duration,
}

impl Lease {
    fn seconds(&self) -> f64 {
        self.duration.as_secs_f64()
    }
}

/// Takes a rebuild that nobody works on, the oldest first, or this one alone; each goes to one who asks.
/// What has the storage modules still to ask is taken by whoever has a token, by [`claim_with_token`].
pub async fn claim(db: &Db, id: Option<Uuid>, lease: Lease) -> Result<Option<Rebuild>, Error> {
    claim_any(db, CLAIM, None, id, lease).await
}

/// Takes a rebuild of a tenant that has the storage modules still to ask, the oldest first, or this one
/// alone, unless another is being worked on.
pub async fn claim_with_token(
    db: &Db,
    tenant: &TenantId,
    id: Option<Uuid>,
    lease: Lease,
) -> Result<Option<Rebuild>, Error> {
    claim_any(db, CLAIM_WITH_TOKEN, Some(tenant), id, lease).await
}

/// Whether a rebuild of the tenant, or this one, has the storage modules still to ask. Where an instance works on it,
/// the token may be of use once the lease of that instance ends.
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
    .map_err(Error::at("look whether a token is wanted"))
}

async fn claim_any(
    db: &Db,
    sql: &'static str,
    tenant: Option<&TenantId>,
    id: Option<Uuid>,
    lease: Lease,
) -> Result<Option<Rebuild>, Error> {
    let failed = || Error::at("take a rebuild");
    let mut tx = begin(db).await?;
    let alone = sqlx::query("select pg_advisory_xact_lock($1)").bind(CLAIM_LOCK_KEY);
    alone.execute(&mut *tx).await.map_err(failed())?;
    let taken = sqlx::query_as(sql);
    let taken = taken.bind(lease.seconds()).bind(lease.holder);
    let taken = taken.bind(tenant.map(TenantId::as_str)).bind(id);
    let taken = taken.fetch_optional(&mut *tx).await.map_err(failed())?;
    commit(tx).await?;
    Ok(taken)
}

/// Takes the others that go together with one, the oldest first and no more than so many.
pub async fn claim_read_group(
    db: &Db,
    read_group: &str,
    most: i64,
    lease: Lease,
) -> Result<Vec<Rebuild>, Error> {
    let failed = || Error::at("take rebuilds that go together");
    let mut tx = begin(db).await?;
    let alone = sqlx::query("select pg_advisory_xact_lock($1)").bind(CLAIM_LOCK_KEY);
    alone.execute(&mut *tx).await.map_err(failed())?;
    let taken = sqlx::query_as(CLAIM_READ_GROUP).bind(lease.seconds()).bind(lease.holder);
    let taken = taken.bind(read_group).bind(most).fetch_all(&mut *tx).await.map_err(failed())?;
    commit(tx).await?;
    Ok(taken)
}

/// What whoever holds a rebuild hears when it says that it still does.
pub enum LeaseState {
    /// So it is. Tells whether the rebuild is to end.
    Active {
        /// Whether somebody wants it to end where it stands.
        cancel_requested: bool,
    },
    /// Another instance has taken it.
    TakenOver,
    /// There is no such rebuild any more: its tenant was purged.
    Deleted,
}

/// Says that a rebuild is still worked on, and how far it is.
pub async fn renew(
    db: impl PgExecutor<'_>,
    id: Uuid,
    lease: Lease,
    progress: &Value,
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
    .bind(progress)
    .fetch_optional(db)
    .await
    .map_err(Error::at("hold a rebuild"))?;
    Ok(match row {
        Some((cancel, true)) => LeaseState::Active { cancel_requested: cancel },
        Some((_, false)) => LeaseState::TakenOver,
        None => LeaseState::Deleted,
    })
}

/// Sets how far a rebuild is, for whoever holds it; what has ended is held by nobody.
pub async fn set_status(
    db: impl PgExecutor<'_>,
    id: Uuid,
    Lease { holder, .. }: Lease,
    status: Status,
    summary: Option<&Value>,
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
    .bind(summary)
    .bind(error)
    .bind(status.has_ended())
    .bind(holder)
    .execute(db)
    .await
    .map_err(Error::at("set a rebuild's status"))?;
    Ok(())
}

/// Lets go of a rebuild, which another instance may go on with at once, and says why, if there is anything to
/// say. One that was let go of for the same reason too often without coming any further has failed.
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

/// Whether another instance has taken a rebuild since, or has ended it; until the transaction ends none can.
pub async fn is_lease_lost(
    tx: &mut Tx,
    id: Uuid,
    Lease { holder, .. }: Lease,
) -> Result<bool, Error> {
    let now: Option<(Option<Uuid>, bool)> = sqlx::query_as(
        "select lease_holder, ended_at is not null from mod_patron_blocks.rebuild where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::at("check the lease of a rebuild"))?;
    Ok(now.is_some_and(|(now, has_ended)| has_ended || now != Some(holder)))
}

/// Whether a rebuild is still its holder's; until the transaction ends nobody can take it. Asked at the end of a
/// transaction, for the word of its holder waits meanwhile.
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

/// Has a rebuild whose differences are known applied. Tells whether that is so.
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
    Ok(done.map_err(Error::at("have a rebuild applied"))?.rows_affected() == 1)
}

/// Has a rebuild end where it stands. Tells whether there was one that hadn't ended. One that nobody has begun with
/// has ended by that, and what it was to fill is not.
pub async fn cancel(db: &Db, tenant: &TenantId, id: Uuid) -> Result<bool, Error> {
    let mut tx = begin(db).await?;
    // A purge takes the same rows in another order.
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

/// Has earlier rebuilds end that wait for an operator as this one does: it has newer differences of the same. Those
/// that were only to tell what differs stay.
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
    .map_err(Error::at("end earlier rebuilds"))?;
    Ok(())
}

/// Has those end whose differences were never applied for so long: each keeps a copy of its tenant.
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

/// Forgets all rebuilds of a tenant, whose schema is gone.
pub async fn delete_all(tx: &mut Tx, tenant: &TenantId) -> Result<(), Error> {
    let gone = sqlx::query("delete from mod_patron_blocks.rebuild where tenant = $1");
    let gone = gone.bind(tenant.as_str()).execute(&mut **tx).await;
    gone.map(|_| ()).map_err(Error::at("delete rebuilds"))
}
