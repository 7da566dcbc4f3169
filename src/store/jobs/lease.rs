//! The lease of a job: its renewal, its checks, and the writes that need it.

use std::time::Duration;

use serde_json::Value;
use sqlx::{PgExecutor, types::Json};
use uuid::Uuid;

use super::Status;
use crate::store::{Error, Tx};

/// The claim of one instance to jobs. The database clock measures leases, because the clocks of instances
/// differ. Each claim has a new holder id, so an instance that lost the lease can write nothing for the job.
#[derive(Debug, Clone, Copy)]
pub struct Lease {
    /// The id of the claim.
    pub holder: Uuid,
    /// The time during which no other instance may claim the job.
    pub duration: Duration,
}

impl Lease {
    /// Creates the lease of a new claim.
    pub fn new(duration: Duration) -> Self {
        Self { holder: Uuid::new_v4(), duration }
    }
}

/// The result of a lease renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseState {
    /// The lease is renewed.
    Active {
        /// Whether a cancellation was requested.
        cancel_requested: bool,
    },
    /// Another instance has the lease, or the job has ended.
    TakenOver,
    /// The job no longer exists, because a client deleted the job or its tenant was purged.
    Deleted,
}

impl LeaseState {
    /// Returns whether the instance still has the lease.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Active { .. })
    }
}

/// Renews the lease of a job, and stores the progress, if any.
pub async fn renew(
    db: impl PgExecutor<'_>,
    id: Uuid,
    lease: Lease,
    progress: Option<&Value>,
) -> Result<LeaseState, Error> {
    let row: Option<(bool, bool)> = sqlx::query_as(
        "with renewed as (
           update mod_patron_blocks.job
              set lease_expires_at = now() + $3 * interval '1 second', progress = coalesce($4, progress)
            where id = $1 and lease_holder = $2 and ended_at is null returning id)
         select cancel_requested, exists (select from renewed) from mod_patron_blocks.job where id = $1",
    )
    .bind(id)
    .bind(lease.holder)
    .bind(lease.duration.as_secs_f64())
    .bind(progress)
    .fetch_optional(db)
    .await
    .map_err(Error::at("renew the lease of a job"))?;
    Ok(match row {
        Some((cancel_requested, true)) => LeaseState::Active { cancel_requested },
        Some((_, false)) => LeaseState::TakenOver,
        None => LeaseState::Deleted,
    })
}

/// The part of a job's result that goes with its status.
#[derive(Debug, Clone, Copy, Default)]
pub struct Outcome<'a> {
    /// The summary of the differences; `None` leaves the stored summary.
    pub summary: Option<&'a Value>,
    /// The cause of a failure, or of unapplied differences.
    pub error: Option<&'a str>,
    /// Further messages for the requester.
    pub messages: &'a [String],
}

/// Sets the status of a job if the instance has the lease. An ended job has no lease.
pub async fn set_status(
    db: impl PgExecutor<'_>,
    id: Uuid,
    lease: Lease,
    status: Status,
    outcome: Outcome<'_>,
) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.job
            set status = $2, summary = coalesce($3, summary), error = $4, messages = messages || $7,
                ended_at = case when $5 then now() end,
                lease_expires_at = case when $5 or $2 in ('compared', 'waiting') then null else lease_expires_at end
          where id = $1 and lease_holder = $6 and ended_at is null",
    )
    .bind(id)
    .bind(status.name())
    .bind(outcome.summary)
    .bind(outcome.error)
    .bind(status.has_ended())
    .bind(lease.holder)
    .bind(Json(outcome.messages))
    .execute(db)
    .await
    .map_err(Error::at("set the status of a job"))?;
    Ok(())
}

/// Returns whether another instance claimed the job, or the job has ended. The row lock prevents either
/// until the transaction ends. The function returns `false` for a job that no longer exists.
pub async fn is_lease_lost(tx: &mut Tx, id: Uuid, lease: Lease) -> Result<bool, Error> {
    let lease_row: Option<(Option<Uuid>, bool)> = sqlx::query_as(
        "select lease_holder, ended_at is not null from mod_patron_blocks.job where id = $1 for update",
    )
    .bind(id)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::at("check the lease of a job"))?;
    let is_lost =
        |(current, has_ended): (Option<Uuid>, bool)| has_ended || current != Some(lease.holder);
    Ok(lease_row.is_some_and(is_lost))
}

/// Returns whether the lease of the holder still exists; the row lock prevents a claim until the
/// transaction ends. Callers check the lease at the end of a long transaction, because the lock blocks the
/// holder's own heartbeat.
pub async fn is_lease_valid(tx: &mut Tx, id: Uuid, lease: Lease) -> Result<bool, Error> {
    let ours: Option<Uuid> = sqlx::query_scalar(
        "select id from mod_patron_blocks.job where id = $1 and lease_holder = $2 and ended_at is null
            for share",
    )
    .bind(id)
    .bind(lease.holder)
    .fetch_optional(&mut **tx)
    .await
    .map_err(Error::at("check the lease of a job"))?;
    Ok(ours.is_some())
}
