//! Events over HTTP: what waits goes into one transaction a tenant, so that a burst of callers does not
//! cost a commit each. A caller hears of success when its event is durable, and not before.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tracing::warn;

use super::{ingest::Ingest, ledger::Ledger, single_events::Received};
use crate::{
    event::{TenantId, callback::Call},
    store::{self, Verdict},
    telemetry::Chain,
};

/// Events that wait at most; who comes when it is full is sent away at once.
const WAITING_MOST: usize = 2_000;

/// Events that one transaction takes at most.
const BATCH_MOST: usize = 500;

/// Transactions at once: each takes one of the writers' connections.
const AT_ONCE: u32 = 2;

/// How long a caller is kept waiting.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why an event was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Refusal {
    /// Too many wait, or the database is away or slow: the same call may do better later.
    #[error("the event can't be stored at the moment")]
    Later,
    /// Its tenant isn't enabled.
    #[error("the tenant is not enabled")]
    NotEnabled,
    /// The database does not take it, whatever is tried.
    #[error("the event can't be stored")]
    Never(#[source] Arc<store::Error>),
}

struct Waiting {
    tenant: TenantId,
    received: Received,
    answer: oneshot::Sender<Result<(), Refusal>>,
}

/// Where callers hand in their events.
pub struct Callbacks(mpsc::Sender<Waiting>);

impl Callbacks {
    /// Begins to take events. The task ends when this is dropped and what waits was answered.
    pub fn start<L: Ledger + 'static>(ingest: Arc<Ingest<L>>) -> (Self, JoinHandle<()>) {
        let (sender, calls) = mpsc::channel(WAITING_MOST);
        (Self(sender), tokio::spawn(work(calls, ingest)))
    }

    /// Makes an event durable.
    pub async fn take(&self, tenant: TenantId, call: Call) -> Result<(), Refusal> {
        let (answer, answered) = oneshot::channel();
        let received = Received { call, at: Instant::now() };
        let waiting = Waiting { tenant, received, answer };
        self.0.try_send(waiting).map_err(|_| Refusal::Later)?;
        match timeout(PATIENCE, answered).await {
            Ok(Ok(done)) => done,
            _ => Err(Refusal::Later),
        }
    }
}

async fn work<L: Ledger + 'static>(mut calls: mpsc::Receiver<Waiting>, ingest: Arc<Ingest<L>>) {
    let permits = Arc::new(Semaphore::new(AT_ONCE as usize));
    let mut batch = Vec::with_capacity(BATCH_MOST);
    while calls.recv_many(&mut batch, BATCH_MOST).await > 0 {
        let mut shares = BTreeMap::<TenantId, Vec<Waiting>>::new();
        // Nobody waits any more for what its caller has given up; it will call again.
        for call in batch.drain(..).filter(|call| !call.answer.is_closed()) {
            shares.entry(call.tenant.clone()).or_default().push(call);
        }
        for (tenant, share) in shares {
            // One tenant's trouble keeps no other waiting for longer than a caller would.
            let permit = permits.clone().acquire_owned().await;
            let ingest = ingest.clone();
            tokio::spawn(async move {
                settle(&ingest, &tenant, share).await;
                drop(permit);
            });
        }
    }
    // The last ones have ended when all permits are back.
    let _ = permits.acquire_many(AT_ONCE).await;
}

/// One transaction for all; where the database refuses that for what one of them says, one for each.
async fn settle<L: Ledger>(ingest: &Ingest<L>, tenant: &TenantId, calls: Vec<Waiting>) {
    let mut outcome = take(ingest, tenant, &calls).await;
    if calls.len() > 1 && matches!(outcome, Err(Refusal::Never(_))) {
        for call in calls {
            outcome = take(ingest, tenant, std::slice::from_ref(&call)).await;
            let _ = call.answer.send(outcome);
        }
        return;
    }
    for call in calls {
        // Whoever has gone away needs no answer.
        let _ = call.answer.send(outcome.clone());
    }
}

async fn take<L: Ledger>(
    ingest: &Ingest<L>,
    tenant: &TenantId,
    calls: &[Waiting],
) -> Result<(), Refusal> {
    let received: Vec<&Received> = calls.iter().map(|call| &call.received).collect();
    match timeout(PATIENCE, ingest.take(tenant, &received)).await {
        Ok(Ok(Some(_))) => Ok(()),
        Ok(Ok(None)) => Err(Refusal::NotEnabled),
        Ok(Err(error)) => {
            warn!(%tenant, events = received.len(), error = %Chain(&error), "http events: could not store events; the sender is asked to retry");
            match error.verdict() {
                Verdict::Refused => Err(Refusal::Never(Arc::new(error))),
                _ => Err(Refusal::Later),
            }
        }
        Err(_) => Err(Refusal::Later),
    }
}
