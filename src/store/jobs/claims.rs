//! The claims of jobs: which jobs an instance may claim, and in which order.

use sqlx::{PgExecutor, Postgres, postgres::PgArguments, query::QueryAs};
use uuid::Uuid;

use super::{Job, Lease};
use crate::{
    event::TenantId,
    store::{Db, Error, begin, commit},
};

/// Claims matching jobs without a valid lease. If a transaction has locked a job to store its end, `skip
/// locked` skips the job. The array lets PostgreSQL run the inner query exactly once.
macro_rules! claim {
    (set status = $status:literal, where $which:expr, order by $order:literal) => {
        concat!(
            "update mod_patron_blocks.job
                set lease_expires_at = now() + $1 * interval '1 second', lease_holder = $2,
                    started_at = coalesce(started_at, now()), status = ", $status, "
              where id = any (array(
                      select j.id from mod_patron_blocks.job j
                       where j.ended_at is null and (j.lease_expires_at is null or j.lease_expires_at < now())
                         and ", $which, "
                       order by ", $order, " for update skip locked))
             returning ", columns!()
        )
    };
}

/// Claims the oldest matching rebuild. A compared rebuild waits for an operator, so no instance claims it.
macro_rules! claim_rebuild {
    ($which:literal) => {
        claim!(
            set status = "status",
            where concat!(
                "j.kind = 'rebuild' and j.status in ('waiting', 'reading', 'comparing', 'applying')
                 and ($3::text is null or j.tenant = $3) and ($4::uuid is null or j.id = $4)
                 and (", $which, ")"
            ),
            order by "j.requested_at limit 1"
        )
    };
}

const CLAIM_REBUILD: &str = claim_rebuild!(
    "j.request ->> 'source' <> 'storage' or j.status in ('comparing', 'applying') or j.cancel_requested"
);

const CLAIM_REBUILD_WITH_TOKEN: &str = claim_rebuild!(
    "j.request ->> 'source' = 'storage' and j.status in ('waiting', 'reading')
       and not exists (select from mod_patron_blocks.job o
                        where o.kind = 'rebuild' and o.tenant = j.tenant and o.request ->> 'source' = 'storage'
                          and o.ended_at is null and o.lease_expires_at >= now())"
);

/// Claims the waiting rebuilds of a read group.
const CLAIM_READ_GROUP: &str = claim!(
    set status = "status",
    where "j.kind = 'rebuild' and j.read_group = $3 and j.status = 'waiting' and not j.cancel_requested",
    order by "j.requested_at limit $4"
);

/// Claims the oldest summary export; a summary export with an earlier claim is ordered by the end of its
/// lease.
const CLAIM_SUMMARY_EXPORT: &str = claim!(
    set status = "'publishing'",
    where "j.kind = 'summary_export'",
    order by "coalesce(j.lease_expires_at, j.requested_at) limit 1"
);

const CLAIM_TENANT_JOB: &str = claim!(
    set status = "'enabling'",
    where "j.kind = 'tenant'",
    order by "j.requested_at limit 1"
);

/// The key of the advisory lock for claims of rebuilds. The lock serializes claims, because a query alone
/// cannot guarantee one active rebuild at a time.
const CLAIM_LOCK_KEY: i64 = 0x7062_7265;

/// Claims the oldest rebuild without a valid lease, or the rebuild `id`. A rebuild that still has to call
/// the storage modules needs a token, so [`claim_rebuild_with_token`] claims that rebuild.
pub async fn claim_rebuild(db: &Db, id: Option<Uuid>, lease: Lease) -> Result<Option<Job>, Error> {
    claim_any_rebuild(db, CLAIM_REBUILD, None, id, lease).await
}

/// Claims the oldest rebuild of a tenant that still has to call the storage modules, or the rebuild `id`.
/// If an instance already works on a storage rebuild of the tenant, the function returns `None`.
pub async fn claim_rebuild_with_token(
    db: &Db,
    tenant: &TenantId,
    id: Option<Uuid>,
    lease: Lease,
) -> Result<Option<Job>, Error> {
    claim_any_rebuild(db, CLAIM_REBUILD_WITH_TOKEN, Some(tenant), id, lease).await
}

/// Returns whether a rebuild of the tenant, or the rebuild `id`, still has to call the storage modules.
/// If an instance works on the rebuild, the token may become useful after that instance's lease expires.
pub async fn waits_for_token(db: &Db, tenant: &TenantId, id: Option<Uuid>) -> Result<bool, Error> {
    sqlx::query_scalar(
        "select exists (
           select from mod_patron_blocks.job
            where kind = 'rebuild' and tenant = $1 and ($2::uuid is null or id = $2)
              and request ->> 'source' = 'storage' and status in ('waiting', 'reading') and not cancel_requested)",
    )
    .bind(tenant.as_str())
    .bind(id)
    .fetch_one(db)
    .await
    .map_err(Error::at("check the need for a token"))
}

async fn claim_any_rebuild(
    db: &Db,
    sql: &'static str,
    tenant: Option<&TenantId>,
    id: Option<Uuid>,
    lease: Lease,
) -> Result<Option<Job>, Error> {
    let claim = start_claim(sql, lease).bind(tenant.map(TenantId::as_str)).bind(id);
    Ok(run_alone(db, claim).await?.pop())
}

/// Claims the other waiting rebuilds of a read group, the oldest first and at most `most`.
pub async fn claim_read_group(
    db: &Db,
    read_group: &str,
    most: i64,
    lease: Lease,
) -> Result<Vec<Job>, Error> {
    run_alone(db, start_claim(CLAIM_READ_GROUP, lease).bind(read_group).bind(most)).await
}

/// Claims the next summary export without a valid lease. Concurrent callers claim different jobs.
pub async fn claim_summary_export(
    db: impl PgExecutor<'_>,
    lease: Lease,
) -> Result<Option<Job>, Error> {
    let claimed = start_claim(CLAIM_SUMMARY_EXPORT, lease).fetch_optional(db).await;
    claimed.map_err(Error::at("claim a summary export"))
}

/// Claims the oldest tenant job with an expired lease. Concurrent callers claim different jobs.
pub async fn claim_tenant_job(db: impl PgExecutor<'_>, lease: Lease) -> Result<Option<Job>, Error> {
    let claimed = start_claim(CLAIM_TENANT_JOB, lease).fetch_optional(db).await;
    claimed.map_err(Error::at("claim an abandoned tenant job"))
}

type Claim<'q> = QueryAs<'q, Postgres, Job, PgArguments>;

/// Returns the claim with its first two parameters.
fn start_claim(sql: &'static str, lease: Lease) -> Claim<'static> {
    sqlx::query_as(sql).bind(lease.duration.as_secs_f64()).bind(lease.holder)
}

/// Runs a claim of rebuilds while no other instance claims rebuilds.
async fn run_alone(db: &Db, claim: Claim<'_>) -> Result<Vec<Job>, Error> {
    let failed = || Error::at("claim rebuilds");
    let mut tx = begin(db).await?;
    let claim_lock = sqlx::query("select pg_advisory_xact_lock($1)").bind(CLAIM_LOCK_KEY);
    claim_lock.execute(&mut *tx).await.map_err(failed())?;
    let claimed = claim.fetch_all(&mut *tx).await.map_err(failed())?;
    commit(tx).await?;
    Ok(claimed)
}
