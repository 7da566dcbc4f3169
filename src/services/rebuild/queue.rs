//! Which rebuild an instance takes next, and how many it takes at most.

use std::sync::Arc;

use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    context::HEARTBEAT_INTERVAL,
    shared_topics,
    worker::{ClaimedRebuilds, GROUP_CLAIMS_MAX, Rebuilds},
};
use crate::{
    logging::ErrorChain,
    okapi::Caller,
    store::{
        self,
        rebuilds::{self, Lease, Rebuild, Status},
    },
};

/// Rebuilds that one instance has taken at most, also those that wait. It is the same number for those with a token.
const CLAIMS_MAX: usize = 100;

/// How many rebuilds may be taken, and worked on at once.
struct Slots {
    /// Taken, whether they are worked on or wait.
    claimed: Arc<Semaphore>,
    /// Worked on.
    running: Arc<Semaphore>,
    /// Taken with a token, whether they are worked on or wait.
    claimed_with_token: Arc<Semaphore>,
    /// Worked on with a token.
    running_with_token: Arc<Semaphore>,
}

impl Rebuilds {
    /// Works on rebuilds that nobody else works on, until `stop`.
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
            // The timer doesn't wait behind what takes hours.
            running_with_token: Arc::new(Semaphore::new(self.config.concurrency.min(1))),
        };
        let without_token = async {
            while !stop.is_cancelled() {
                // Not broken off: what is claimed and dropped then has a lease that no instance renews.
                match self.claim_next(&slots).await {
                    Some(taken) => self.spawn_claimed(&tasks, taken, &stop),
                    None => Self::wait_for_work(&self.tenants.rebuild_requested, &stop).await,
                }
            }
        };
        let with_token = async {
            while !stop.is_cancelled() {
                match self.claim_next_with_token(&slots, &stop).await {
                    Some(taken) => self.spawn_claimed(&tasks, taken, &stop),
                    None => Self::wait_for_work(&self.tokens.available, &stop).await,
                }
            }
        };
        tokio::join!(without_token, with_token);
        tasks.close();
        tasks.wait().await;
    }

    fn spawn_claimed(
        self: &Arc<Self>,
        tasks: &TaskTracker,
        claimed: ClaimedRebuilds,
        stop: &CancellationToken,
    ) {
        let (rebuilds, stop) = (self.clone(), stop.clone());
        tasks.spawn(async move {
            rebuilds.run_claimed(claimed, &stop).await;
            rebuilds.wake_workers();
        });
    }

    /// Waits until there may be more to do.
    async fn wait_for_work(notify: &Notify, stop: &CancellationToken) {
        let _ = stop.run_until_cancelled(timeout(HEARTBEAT_INTERVAL, notify.notified())).await;
    }

    /// The next rebuild from the storage modules. A token runs out, so a rebuild is taken with one only when its turn
    /// has come; until then newer tokens take the place of older ones.
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
        // Not broken off either.
        let lease = Self::new_lease();
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

    /// The next rebuild that needs no token, where there is room.
    async fn claim_next(&self, slots: &Slots) -> Option<ClaimedRebuilds> {
        let claim = async {
            let lease = Self::new_lease();
            let Ok(claim_permit) = slots.claimed.clone().try_acquire_owned() else {
                return Ok(None);
            };
            let Ok(first_permit) = slots.running.clone().try_acquire_owned() else {
                return Ok(None);
            };
            let Some(rebuild) = rebuilds::claim(&self.db, None, lease).await? else {
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

    /// Takes those that go together with a rebuild that was taken, where there is something to share. Otherwise
    /// they are better off with other instances.
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
                rebuilds::claim_read_group(&self.db, &read_group, GROUP_CLAIMS_MAX, lease).await?,
            );
        }
        Ok(all)
    }

    /// A rebuild for which there is a token.
    async fn claim_with_token(
        &self,
        lease: Lease,
    ) -> Result<Option<(Rebuild, Option<Caller>)>, store::Error> {
        for key in self.tokens.keys() {
            let (tenant, id) = &key;
            if let Some(rebuild) = rebuilds::claim_with_token(&self.db, tenant, *id, lease).await? {
                return Ok(Some((rebuild, self.tokens.take(&key))));
            }
            // It waits for one of the same tenant that is worked on.
            if !rebuilds::waits_for_token(&self.db, tenant, *id).await? {
                self.tokens.take(&key);
            }
        }
        Ok(None)
    }
}
