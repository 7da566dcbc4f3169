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

use super::{ingest::Ingest, ledger::IngestStore, single_events::ReceivedCall};
use crate::{
    event::{TenantId, http_body::HttpEvent},
    logging::ErrorChain,
    store::{self, Verdict},
};

/// Events that wait at most; who comes when it is full is sent away at once.
const QUEUE_EVENTS_MAX: usize = 2_000;

/// Events that one transaction takes at most.
const BATCH_EVENTS_MAX: usize = 500;

/// Transactions at once: each takes one of the writers' connections.
const CONCURRENT_TRANSACTIONS_MAX: u32 = 2;

/// How long a caller is kept waiting.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why an event was not taken.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// Too many wait, or the database is away or slow: the same call may do better later.
    #[error("the event can't be stored at the moment")]
    Unavailable,
    /// Its tenant isn't enabled.
    #[error("the tenant is not enabled")]
    TenantDisabled,
    /// The database does not take it, whatever is tried.
    #[error("the event can't be stored")]
    Refused(#[source] Arc<store::Error>),
}

struct PendingEvent {
    tenant: TenantId,
    received: ReceivedCall,
    reply: oneshot::Sender<Result<(), SubmitError>>,
}

/// Where callers hand in their events.
pub struct HttpEvents(mpsc::Sender<PendingEvent>);

impl HttpEvents {
    /// Begins to take events. The task ends when this is dropped and what waits was answered.
    pub fn start<S: IngestStore + 'static>(ingest: Arc<Ingest<S>>) -> (Self, JoinHandle<()>) {
        let (sender, queue) = mpsc::channel(QUEUE_EVENTS_MAX);
        (Self(sender), tokio::spawn(run(queue, ingest)))
    }

    /// Makes an event durable.
    pub async fn submit(&self, tenant: TenantId, call: HttpEvent) -> Result<(), SubmitError> {
        let (reply, response) = oneshot::channel();
        let received = ReceivedCall { call, at: Instant::now() };
        let pending = PendingEvent { tenant, received, reply };
        self.0.try_send(pending).map_err(|_| SubmitError::Unavailable)?;
        match timeout(SUBMIT_TIMEOUT, response).await {
            Ok(Ok(result)) => result,
            _ => Err(SubmitError::Unavailable),
        }
    }
}

async fn run<S: IngestStore + 'static>(
    mut queue: mpsc::Receiver<PendingEvent>,
    ingest: Arc<Ingest<S>>,
) {
    let permits = Arc::new(Semaphore::new(CONCURRENT_TRANSACTIONS_MAX as usize));
    let mut batch = Vec::with_capacity(BATCH_EVENTS_MAX);
    while queue.recv_many(&mut batch, BATCH_EVENTS_MAX).await > 0 {
        let mut tenant_batches = BTreeMap::<TenantId, Vec<PendingEvent>>::new();
        // Nobody waits any more for what its caller has given up; it will call again.
        for event in batch.drain(..).filter(|event| !event.reply.is_closed()) {
            tenant_batches.entry(event.tenant.clone()).or_default().push(event);
        }
        for (tenant, events) in tenant_batches {
            // One tenant's trouble keeps no other waiting for longer than a caller would.
            let permit = permits.clone().acquire_owned().await;
            let ingest = ingest.clone();
            tokio::spawn(async move {
                commit_all(&ingest, &tenant, events).await;
                drop(permit);
            });
        }
    }
    // The last ones have ended when all permits are back.
    let _ = permits.acquire_many(CONCURRENT_TRANSACTIONS_MAX).await;
}

/// One transaction for all; where the database refuses that for what one of them says, one for each.
async fn commit_all<S: IngestStore>(
    ingest: &Ingest<S>,
    tenant: &TenantId,
    events: Vec<PendingEvent>,
) {
    let mut outcome = commit(ingest, tenant, &events).await;
    if events.len() > 1 && matches!(outcome, Err(SubmitError::Refused(_))) {
        for event in events {
            outcome = commit(ingest, tenant, std::slice::from_ref(&event)).await;
            let _ = event.reply.send(outcome);
        }
        return;
    }
    for event in events {
        // Whoever has gone away needs no answer.
        let _ = event.reply.send(outcome.clone());
    }
}

async fn commit<S: IngestStore>(
    ingest: &Ingest<S>,
    tenant: &TenantId,
    events: &[PendingEvent],
) -> Result<(), SubmitError> {
    let calls: Vec<&ReceivedCall> = events.iter().map(|event| &event.received).collect();
    match timeout(SUBMIT_TIMEOUT, ingest.apply_calls(tenant, &calls)).await {
        Ok(Ok(Some(_))) => Ok(()),
        Ok(Ok(None)) => Err(SubmitError::TenantDisabled),
        Ok(Err(error)) => {
            warn!(%tenant, events = calls.len(), error = %ErrorChain(&error), "http events: could not store events; the sender is asked to retry");
            match error.verdict() {
                Verdict::Refused => Err(SubmitError::Refused(Arc::new(error))),
                _ => Err(SubmitError::Unavailable),
            }
        }
        Err(_) => Err(SubmitError::Unavailable),
    }
}
