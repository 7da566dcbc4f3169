//! Events that arrive over HTTP. One transaction per tenant commits all waiting events, so a burst of
//! requests needs few commits. A caller gets a success response only after its event is durable.

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

use super::{Ingest, ingest_store::IngestStore, single_events::ReceivedCall};
use crate::{
    event::{TenantId, decode::http_body::HttpEvent},
    logging::ErrorChain,
    store::{self, Verdict},
};

/// Largest number of waiting events; beyond it, new events are rejected at once.
const QUEUE_EVENTS_MAX: usize = 2_000;

/// Largest number of events in one transaction.
const BATCH_EVENTS_MAX: usize = 500;

/// Largest number of concurrent transactions; each uses a connection of the writers' pool.
const CONCURRENT_TRANSACTIONS_MAX: u32 = 2;

/// Longest time that a caller waits for its event.
const SUBMIT_TIMEOUT: Duration = Duration::from_secs(5);

/// The reason why an event was not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full, or the database is slow or unavailable. A retry may succeed.
    #[error("the event cannot be stored now")]
    Unavailable,
    /// The event's tenant is disabled.
    #[error("the tenant is not enabled")]
    TenantDisabled,
    /// The database refuses the event at every attempt.
    #[error("the database refuses the event")]
    Refused(#[source] Arc<store::Error>),
}

struct PendingEvent {
    tenant: TenantId,
    received: ReceivedCall,
    reply: oneshot::Sender<Result<(), SubmitError>>,
}

/// The queue of events from callers.
pub struct HttpEvents(mpsc::Sender<PendingEvent>);

impl HttpEvents {
    /// Starts the task that commits events. The task ends after this value is dropped and every
    /// waiting event has a result.
    pub fn start<S: IngestStore + 'static>(ingest: Arc<Ingest<S>>) -> (Self, JoinHandle<()>) {
        let (sender, queue) = mpsc::channel(QUEUE_EVENTS_MAX);
        (Self(sender), tokio::spawn(run(queue, ingest)))
    }

    /// Commits an event and waits until it is durable.
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
        // Skips events without a waiting caller, because a caller that gave up sends its event again.
        for event in batch.drain(..).filter(|event| !event.reply.is_closed()) {
            tenant_batches.entry(event.tenant.clone()).or_default().push(event);
        }
        for (tenant, events) in tenant_batches {
            // A slow tenant delays the other tenants no longer than a caller's timeout.
            let permit = permits.clone().acquire_owned().await;
            let ingest = ingest.clone();
            tokio::spawn(async move {
                commit_all(&ingest, &tenant, events).await;
                drop(permit);
            });
        }
    }
    // When all permits are free, the last transactions have ended.
    let _ = permits.acquire_many(CONCURRENT_TRANSACTIONS_MAX).await;
}

/// Commits all events in one transaction. If the database refuses the content of an event, commits
/// each event on its own.
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
        // A caller that disconnected needs no result.
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
