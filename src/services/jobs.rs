//! The work of an instance on durable jobs: polling for jobs, and the renewal of a lease during a run.

use std::{future::Future, time::Duration};

use tokio::{
    select,
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::store::{
    self, Db,
    jobs::{self, Lease},
};

/// Calls `claim` until `stop`. If `claim` found no job, waits for `wakeup`, but at most for `interval`.
/// `stop` does not interrupt `claim`: no instance would renew the lease of the claimed job.
pub(super) async fn poll<F: Future<Output = bool>>(
    stop: &CancellationToken,
    wakeup: &Notify,
    interval: Duration,
    claim: impl Fn() -> F,
) {
    while !stop.is_cancelled() {
        if !claim().await {
            stop.run_until_cancelled(timeout(interval, wakeup.notified())).await;
        }
    }
}

/// Runs `work` on a job and renews the lease at each `interval`. Returns `None` if the lease is lost before
/// the work ends. A renewal may wait for a connection that the work uses, so both run concurrently. `warn`
/// logs a failed renewal.
///
/// Rebuilds have a renewal of their own, which also stores progress and finds cancellations.
pub(super) async fn run_with_lease<T>(
    db: &Db,
    (id, lease): (Uuid, Lease),
    interval: Duration,
    warn: impl Fn(&store::Error),
    work: impl Future<Output = T>,
) -> Option<T> {
    let renewals = async {
        loop {
            sleep(interval).await;
            let renewal = jobs::renew(db, id, lease, None);
            match store::with_timeout(lease.duration, renewal).await {
                Ok(state) if state.is_active() => {}
                Ok(_) => return,
                Err(error) => warn(&error),
            }
        }
    };
    select! {
        done = work => Some(done),
        () = renewals => None,
    }
}
