//! Which rebuild an instance takes next, and how many it takes at most.

use std::sync::Arc;

use tokio::{
    sync::{Notify, Semaphore},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    jobs::{Rebuilds, TOGETHER, Taken},
    together,
    work::WORD,
};
use crate::{
    okapi::Caller,
    store::{
        self,
        rebuilds::{self, Hold, Rebuild, Status},
    },
    telemetry::Chain,
};

/// Rebuilds that one instance has taken at most, also those that wait. It is the same number for those with a token.
const TAKEN: usize = 100;

/// How many rebuilds may be taken, and worked on at once.
struct Room {
    /// Taken, whether they are worked on or wait.
    taken: Arc<Semaphore>,
    /// Worked on.
    any: Arc<Semaphore>,
    /// Taken with a token, whether they are worked on or wait.
    asking: Arc<Semaphore>,
    /// Worked on with a token.
    storage: Arc<Semaphore>,
}

impl Rebuilds {
    /// Works on rebuilds that nobody else works on, until `stop`.
    pub async fn work(self: Arc<Self>, stop: CancellationToken) {
        self.tenants.ready().await;
        let tasks = TaskTracker::new();
        let room = Room {
            taken: Arc::new(Semaphore::new(TAKEN)),
            any: Arc::new(Semaphore::new(self.setting.at_once)),
            asking: Arc::new(Semaphore::new(if self.setting.at_once == 0 { 0 } else { TAKEN })),
            // The timer doesn't wait behind what takes hours.
            storage: Arc::new(Semaphore::new(self.setting.at_once.min(1))),
        };
        let without_token = async {
            while !stop.is_cancelled() {
                // Not broken off: what is claimed and dropped then has a lease that no instance renews.
                match self.next(&room).await {
                    Some(taken) => self.spawn(&tasks, taken, &stop),
                    None => Self::wait(&self.tenants.rebuild_asked, &stop).await,
                }
            }
        };
        let with_token = async {
            while !stop.is_cancelled() {
                match self.next_with_token(&room, &stop).await {
                    Some(taken) => self.spawn(&tasks, taken, &stop),
                    None => Self::wait(&self.tokens.more, &stop).await,
                }
            }
        };
        tokio::join!(without_token, with_token);
        tasks.close();
        tasks.wait().await;
    }

    fn spawn(self: &Arc<Self>, tasks: &TaskTracker, taken: Taken, stop: &CancellationToken) {
        let (rebuilds, stop) = (self.clone(), stop.clone());
        tasks.spawn(async move {
            rebuilds.run_all(taken, &stop).await;
            rebuilds.look();
        });
    }

    /// Waits until there may be more to do.
    async fn wait(more: &Notify, stop: &CancellationToken) {
        let _ = stop.run_until_cancelled(timeout(WORD, more.notified())).await;
    }

    /// The next rebuild from the storage modules. A token runs out, so a rebuild is taken with one only when its turn
    /// has come; until then newer tokens take the place of older ones.
    async fn next_with_token(&self, room: &Room, stop: &CancellationToken) -> Option<Taken> {
        if self.tokens.is_empty() {
            return None;
        }
        let place = room.asking.clone().acquire_owned();
        let place = stop.run_until_cancelled(place).await?.ok()?;
        let turn = room.storage.clone().acquire_owned();
        let turn = stop.run_until_cancelled(turn).await?.ok()?;
        // Not broken off either.
        let hold = Self::hold();
        let taken = self.take_with_token(hold).await.unwrap_or_else(|error| {
            warn!(error = %Chain(&error), "rebuild: could not claim a waiting rebuild; retrying");
            None
        });
        let (rebuild, caller) = taken?;
        let (rebuilds, turns, first) = (vec![rebuild], room.storage.clone(), Some(turn));
        Some(Taken { rebuilds, hold, caller, turns, first, place: Some(place) })
    }

    /// The next rebuild that needs no token, where there is room.
    async fn next(&self, room: &Room) -> Option<Taken> {
        let taken = async {
            let hold = Self::hold();
            let Ok(place) = room.taken.clone().try_acquire_owned() else { return Ok(None) };
            let Ok(first) = room.any.clone().try_acquire_owned() else { return Ok(None) };
            let Some(rebuild) = rebuilds::take(&self.db, None, hold).await? else {
                return Ok(None);
            };
            let rebuilds = self.take_others(rebuild, hold).await?;
            let (turns, first, place) = (room.any.clone(), Some(first), Some(place));
            Ok(Some(Taken { rebuilds, hold, caller: None, turns, first, place }))
        };
        taken.await.unwrap_or_else(|error: store::Error| {
            warn!(error = %Chain(&error), "rebuild: could not claim a waiting rebuild; retrying");
            None
        })
    }

    /// Takes those that go together with a rebuild that was taken, where there is something to share. Otherwise
    /// they are better off with other instances.
    async fn take_others(
        &self,
        rebuild: Rebuild,
        hold: Hold,
    ) -> Result<Vec<Rebuild>, store::Error> {
        let together = rebuild.together.clone().filter(|_| rebuild.status == Status::Waiting);
        let mut all = vec![rebuild];
        if let Some(together) = together
            && together::is_worth_it(&self.broker, &self.kafka).await
        {
            all.extend(rebuilds::take_together(&self.db, &together, TOGETHER, hold).await?);
        }
        Ok(all)
    }

    /// A rebuild for which there is a token.
    async fn take_with_token(
        &self,
        hold: Hold,
    ) -> Result<Option<(Rebuild, Option<Caller>)>, store::Error> {
        for key in self.tokens.keys() {
            let (tenant, id) = &key;
            if let Some(rebuild) = rebuilds::take_with_token(&self.db, tenant, *id, hold).await? {
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
