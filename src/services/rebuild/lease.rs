//! The lease of a rebuild: its renewal, and the reasons for its end.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;
use tracing::warn;

use super::context::RebuildContext;
use crate::{
    logging::ErrorChain,
    store::jobs::{self, LeaseState},
};

/// Lifetime of a lease without renewal.
pub(super) const LEASE_DURATION: Duration = Duration::from_secs(10);

/// Interval between renewals of a lease, and between looks for rebuilds to claim.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// The reason for which an instance stops its work on a rebuild.
pub(super) enum StopReason {
    Cancelled,
    /// A purge of the tenant deleted the rebuild.
    TenantPurged,
    /// The lease expired without renewal, or another instance claimed the rebuild.
    LeaseLost,
    Shutdown,
}

impl RebuildContext {
    /// Renews the lease until there is a reason to stop, and returns the reason.
    pub(super) async fn renew_lease(&self) -> StopReason {
        let mut renewed_at = Instant::now();
        loop {
            let progress = json!(self.progress.report());
            // The lease counts from the start of the request; the response may arrive late.
            let now = Instant::now();
            let remaining = LEASE_DURATION.saturating_sub(renewed_at.elapsed());
            match timeout(
                remaining.min(LEASE_DURATION / 2),
                jobs::renew(&self.connections.leases, self.id, self.lease, Some(&progress)),
            )
            .await
            {
                Ok(Ok(LeaseState::Active { cancel_requested: true })) => {
                    return StopReason::Cancelled;
                }
                Ok(Ok(LeaseState::Active { cancel_requested: false })) => renewed_at = now,
                Ok(Ok(LeaseState::TakenOver)) => return StopReason::LeaseLost,
                Ok(Ok(LeaseState::Deleted)) => return StopReason::TenantPurged,
                Ok(Err(error)) => {
                    warn!(rebuild.id = %self.id, error = %ErrorChain(&error), "rebuild: could not renew the lease");
                }
                Err(_) => warn!(rebuild.id = %self.id, "rebuild: renewing the lease timed out"),
            }
            // After this time another instance may have claimed the rebuild.
            if renewed_at.elapsed() >= LEASE_DURATION {
                return StopReason::LeaseLost;
            }
            // A new stage triggers a renewal at once, so that short stages are visible too.
            let next = self.progress.stage_started(HEARTBEAT_INTERVAL);
            if self.stop.run_until_cancelled(next).await.is_none() {
                return StopReason::Shutdown;
            }
        }
    }
}
