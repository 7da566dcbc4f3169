//! Ending all loans of a tenant, as storage says that it deleted them: in steps, for no statement can end all of
//! them in time.

use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{
    ingest::Ingest,
    ledger::{Beside, Entry, Ledger, Opening},
};
use crate::{
    event::{Event, Fact, TenantId, stamp::Horizon},
    patron::Said,
    store::{self, LockWait},
    telemetry::Chain,
};

/// Loans that one step ends at most.
const LOANS_OF_STEP: usize = 5_000;

/// What is left of a step after a time-out.
const SHRINK: usize = 16;

/// How it went.
pub(super) enum Ended {
    /// No such loan is open any more, and none will be.
    All,
    /// The tenant isn't enabled.
    NotEnabled,
    /// The service stops.
    Stopped,
}

impl<L: Ledger> Ingest<L> {
    /// Ends all loans that were opened before, where events say that there are none. Each step is durable before
    /// the next. The events themselves are applied afterwards: a process that dies in between begins anew, and
    /// nothing is different.
    pub(super) async fn end_loans<'e>(
        &self,
        tenant: &TenantId,
        events: impl Iterator<Item = &'e Event>,
        mut wait: LockWait,
        stop: &CancellationToken,
    ) -> Result<Ended, store::Error> {
        let Some(before) = no_loans_before(events) else { return Ok(Ended::All) };
        let (mut next, mut most) = (Some(Uuid::nil()), LOANS_OF_STEP);
        while let Some(from) = next {
            if stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            let step = store::within(self.patience, async {
                let mut entry = match self.ledger.open(Some(tenant), Beside::Nobody, wait).await? {
                    Opening::NotEnabled => return Ok(None),
                    Opening::Open(entry) | Opening::Renewed(entry) => entry,
                };
                let next = entry.end_loans(before, from, most).await?;
                entry.commit().await?;
                Ok::<_, store::Error>(Some(next))
            });
            match step.await {
                Ok(Some(then)) => (next, most) = (then, (most * 2).min(LOANS_OF_STEP)),
                Ok(None) => return Ok(Ended::NotEnabled),
                Err(error) if error.is_timeout() && most > 1 => {
                    warn!(%tenant, loans = most, error = %Chain(&error),
                        "ingest: closing all loans of a tenant timed out; retrying with fewer loans per step");
                    (most, wait) = ((most / SHRINK).max(1), LockWait::Brief);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Ended::All)
    }
}

/// Before when all loans were deleted, if events say so.
fn no_loans_before<'e>(events: impl Iterator<Item = &'e Event>) -> Option<Horizon> {
    let of_all = |event: &&Event| matches!(event.fact, Fact::AllLoansDeleted);
    Said::by(events.filter(of_all)).no_loans_before
}
