//! The order in which an instance claims rebuilds, and the limit of its claims.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    lease::{HEARTBEAT_INTERVAL, LEASE_DURATION},
    read::shared_topics,
    worker::{ClaimedRebuilds, GROUP_CLAIMS_MAX, Rebuilds},
};
use crate::{
    logging::ErrorChain,
    okapi::Caller,
    services::jobs::poll,
    store::{
        self,
        jobs::{Lease, claims},
        rebuild::rebuilds::{Rebuild, Status},
    },
};

/// Maximum number of claimed rebuilds per instance, running or waiting. A second limit of the same size
/// applies to rebuilds with a token.
const CLAIMS_MAX: usize = 100;

/// Permits to claim rebuilds, and to run them.
struct Slots {
    /// Claimed rebuilds without a token, running or waiting.
    claimed: Arc<Semaphore>,
    /// Running rebuilds without a token.
    running: Arc<Semaphore>,
    /// Claimed rebuilds with a token, running or waiting.
    claimed_with_token: Arc<Semaphore>,
    /// Running rebuilds with a token.
    running_with_token: Arc<Semaphore>,
}

impl Rebuilds {
    /// Claims and runs rebuilds until `stop`.
    pub async fn run_workers(self: Arc<Self>, stop: CancellationToken) {
        self.tenants.ready().await;
        let tasks = TaskTracker::new();
        let slots = Slots {
            claimed: Arc::new(Semaphore::new(CLAIMS_MAX)),
            running: Arc::new(Semaphore::new(self.config.concurrency)),
            claimed_with_token: Arc::new(Semaphore::new(if self.config.concurrency == 0 {
                0
            } else {
                CLAIMS_MAX
            })),
            // A separate slot lets rebuilds of the timer start while other rebuilds run for hours.
            running_with_token: Arc::new(Semaphore::new(self.config.concurrency.min(1))),
        };
        let requested = &self.tenants.rebuild_requested;
        let without_token = poll(&stop, requested, HEARTBEAT_INTERVAL, || async {
            let claimed = self.claim_next(&slots).await;
            self.spawn_claimed(&tasks, claimed, &stop)
        });
        let with_token = poll(&stop, &self.tokens.available, HEARTBEAT_INTERVAL, || async {
            let claimed = self.claim_next_with_token(&slots, &stop).await;
            self.spawn_claimed(&tasks, claimed, &stop)
        });
        tokio::join!(without_token, with_token);
        tasks.close();
        tasks.wait().await;
    }

    /// Starts the claimed rebuilds. Returns `false` if there are none.
    fn spawn_claimed(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        claimed: Option<ClaimedRebuilds>,
        stop: &CancellationToken,
    ) -> bool {
        let Some(claimed) = claimed else { return false };
        let (rebuilds, stop) = (self.clone(), stop.clone());
        tasks.spawn(async move {
            rebuilds.run_claimed(claimed, &stop).await;
            rebuilds.wake_workers();
        });
        true
    }

    /// Claims the next rebuild from the storage modules. A token expires, so the claim waits for a free slot
    /// first. During the wait, newer tokens replace older tokens.
    async fn claim_next_with_token(
        &self,
        slots: &Slots,
        stop: &CancellationToken,
    ) -> Option<ClaimedRebuilds> {
        if self.tokens.is_empty() {
            return None;
        }
        let acquire_claim = slots.claimed_with_token.clone().acquire_owned();
        let claim_permit = stop.run_until_cancelled(acquire_claim).await?.ok()?;
        let acquire_slot = slots.running_with_token.clone().acquire_owned();
        let first_permit = stop.run_until_cancelled(acquire_slot).await?.ok()?;
        // `stop` must not interrupt this claim either.
        let lease = Lease::new(LEASE_DURATION);
        let claim = self.claim_with_token(lease).await.unwrap_or_else(|error| {
            warn!(error = %ErrorChain(&error), "rebuild: could not claim a waiting rebuild; retrying");
            None
        });
        let (rebuild, caller) = claim?;
        let (rebuilds, run_slots, first_permit) =
            (vec![rebuild], slots.running_with_token.clone(), Some(first_permit));
        Some(ClaimedRebuilds {
            rebuilds,
            lease,
            caller,
            run_slots,
            first_permit,
            claim_permit: Some(claim_permit),
        })
    }

    /// Claims the next rebuild without a token, if a slot is free.
    async fn claim_next(&self, slots: &Slots) -> Option<ClaimedRebuilds> {
        let claim = async {
            let lease = Lease::new(LEASE_DURATION);
            let Ok(claim_permit) = slots.claimed.clone().try_acquire_owned() else {
                return Ok(None);
            };
            let Ok(first_permit) = slots.running.clone().try_acquire_owned() else {
                return Ok(None);
            };
            let Some(rebuild) = claims::claim_rebuild(&self.db, None, lease).await? else {
                return Ok(None);
            };
            let rebuilds = self.claim_read_group(rebuild, lease).await?;
            let (run_slots, first_permit, claim_permit) =
                (slots.running.clone(), Some(first_permit), Some(claim_permit));
            Ok(Some(ClaimedRebuilds {
                rebuilds,
                lease,
                caller: None,
                run_slots,
                first_permit,
                claim_permit,
            }))
        };
        claim.await.unwrap_or_else(|error: store::Error| {
            warn!(error = %ErrorChain(&error), "rebuild: could not claim a waiting rebuild; retrying");
            None
        })
    }

    /// Claims the other rebuilds of the read group, if the broker has shared topics. Without shared topics,
    /// the other rebuilds are left to other instances.
    async fn claim_read_group(
        &self,
        rebuild: Rebuild,
        lease: Lease,
    ) -> Result<Vec<Rebuild>, store::Error> {
        let read_group = rebuild.read_group.clone().filter(|_| rebuild.status == Status::Waiting);
        let mut all = vec![rebuild];
        if let Some(read_group) = read_group
            && shared_topics::has_shared_topics(&self.broker, &self.kafka).await
        {
            all.extend(
                claims::claim_read_group(&self.db, &read_group, GROUP_CLAIMS_MAX, lease).await?,
            );
        }
        Ok(all)
    }

    /// Claims a rebuild that has a token.
    async fn claim_with_token(
        &self,
        lease: Lease,
    ) -> Result<Option<(Rebuild, Option<Caller>)>, store::Error> {
        for key in self.tokens.keys() {
            let (tenant, id) = &key;
            if let Some(rebuild) =
                claims::claim_rebuild_with_token(&self.db, tenant, *id, lease).await?
            {
                return Ok(Some((rebuild, self.tokens.take(&key))));
            }
            // The token stays if a rebuild waits for a token, for example behind a running rebuild of the
            // tenant.
            if !claims::waits_for_token(&self.db, tenant, *id).await? {
                self.tokens.take(&key);
            }
        }
        Ok(None)
    }
}
