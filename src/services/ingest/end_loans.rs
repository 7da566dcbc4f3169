//! Closes all loans of a tenant after loan storage has deleted them. It works in steps, because one
//! statement could not close all loans in time.

use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{
    Ingest,
    ingest_store::{BeginOutcome, IngestStore, IngestTx, TenantLock},
};
use crate::{
    event::{Event, Fact, TenantId, stamp::Horizon},
    logging::ErrorChain,
    patron::StateDelta,
    store::{self, LockTimeout},
};

/// Largest number of loans that one step closes.
const STEP_LOANS_MAX: usize = 5_000;

/// Divisor of the step size after a timeout.
const SHRINK_DIVISOR: usize = 16;

/// The result of closing all loans.
pub(super) enum EndLoansOutcome {
    /// All loans before the deletion are closed, or no event deletes all loans.
    All,
    /// The tenant is disabled.
    TenantDisabled,
    /// The service stops.
    Shutdown,
}

impl<S: IngestStore> Ingest<S> {
    /// Closes all loans that were opened before an event deleted all loans. Each step is durable
    /// before the next. The caller applies the events afterwards, so a process that dies in between
    /// repeats the steps with the same result.
    pub(super) async fn end_loans<'e>(
        &self,
        tenant: &TenantId,
        events: impl Iterator<Item = &'e Event>,
        mut wait: LockTimeout,
        stop: &CancellationToken,
    ) -> Result<EndLoansOutcome, store::Error> {
        let Some(before) = no_loans_before(events) else { return Ok(EndLoansOutcome::All) };
        let (mut next, mut loans_max) = (Some(Uuid::nil()), STEP_LOANS_MAX);
        while let Some(from) = next {
            if stop.is_cancelled() {
                return Ok(EndLoansOutcome::Shutdown);
            }
            let step = store::with_timeout(self.transaction_timeout, async {
                let mut tx =
                    match self.store.begin(Some(tenant), TenantLock::Exclusive, wait).await? {
                        BeginOutcome::TenantDisabled => return Ok(None),
                        BeginOutcome::Started(tx) | BeginOutcome::TenantReenabled(tx) => tx,
                    };
                let next = tx.end_loans(before, from, loans_max).await?;
                tx.commit().await?;
                Ok::<_, store::Error>(Some(next))
            });
            match step.await {
                Ok(Some(following)) => {
                    (next, loans_max) = (following, (loans_max * 2).min(STEP_LOANS_MAX))
                }
                Ok(None) => return Ok(EndLoansOutcome::TenantDisabled),
                Err(error) if error.is_timeout() && loans_max > 1 => {
                    warn!(%tenant, loans = loans_max, error = %ErrorChain(&error),
                        "ingest: closing all loans of a tenant timed out; retrying with fewer loans per step");
                    (loans_max, wait) = ((loans_max / SHRINK_DIVISOR).max(1), LockTimeout::Short);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(EndLoansOutcome::All)
    }
}

/// Returns the time before which all loans were deleted, if an event deletes all loans.
fn no_loans_before<'e>(events: impl Iterator<Item = &'e Event>) -> Option<Horizon> {
    let of_all = |event: &&Event| matches!(event.fact, Fact::AllLoansDeleted);
    StateDelta::from_events(events.filter(of_all)).loans_deleted_before
}
