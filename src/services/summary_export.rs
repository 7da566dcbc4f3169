//! Summary exports, which FOLIO calls iterations. An export publishes each patron's summary and
//! blocks once to a topic that the request names. A consumer loads the export and continues with
//! block events. Of two messages about a patron, the later message has the greater sequence
//! (docs/decisions/0019).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    block_events::{PatronFindings, envelope, evaluate, headers},
    evaluation::policy::Policy,
    jobs::{poll, run_with_lease},
    tenants::{Tenant, TenantRegistry},
    throttle::Throttle,
};
use crate::{
    blocks::{AutomatedBlocks, Cause},
    event::TenantId,
    kafka::{self, BrokerClient, MessageProducer, OutgoingMessage},
    logging::ErrorChain,
    services::metrics::metrics,
    store::{
        self, Db,
        jobs::{self, Lease, Outcome, Status},
        messages::{
            exports::{self, ExportProgress, ExportRequest, SummaryExport},
            outbox,
            pending_patrons::{self, WorkerLock},
        },
        state::patrons,
        tenants,
    },
};

/// Duration of a lease; without renewal another instance claims the export.
const LEASE_DURATION: Duration = Duration::from_secs(15);

/// Interval between renewals of a lease.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(3);

/// Interval between two searches for waiting exports.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Delay of an export after a temporary failure; other exports use its slot meanwhile.
const RETRY_DELAY: Duration = Duration::from_secs(3);

/// Largest number of lookups of a requested topic; `TOPIC_LOOKUP_INTERVAL` is the pause between
/// lookups.
const TOPIC_LOOKUPS_MAX: u32 = 5;
const TOPIC_LOOKUP_INTERVAL: Duration = Duration::from_millis(200);

/// Exports that one instance runs at once.
const CONCURRENT_EXPORTS_MAX: usize = 4;

/// Largest number of summaries per page.
const PAGE_PATRONS_MAX: i64 = 500;

/// Time limit of a query; afterwards the connection counts as dead.
const QUERY_TIMEOUT: Duration = Duration::from_secs(60);

/// Share of time, in percent, that all exports together may use the database.
const DB_SHARE_PERCENT: u8 = 50;

/// The queue of summary exports, and the worker that runs them.
pub struct SummaryExports {
    queue_db: Db,
    read_db: Db,
    tenants: Arc<TenantRegistry>,
    broker: Arc<BrokerClient>,
    producer: Arc<MessageProducer>,
    /// `true` if block events are published.
    publishes_block_events: bool,
    throttle: Throttle,
    requested: Notify,
}

/// The reason why an export stopped.
#[derive(Debug, thiserror::Error)]
enum ExportError {
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker failed.
    #[error("could not publish a summary")]
    Kafka(#[source] kafka::Error),
    /// The message exceeds the size limit of the broker.
    #[error("the summary of patron {0} exceeds the maximum size of a message")]
    TooLarge(Uuid),
    /// The lease is lost, or the export was cancelled.
    #[error("the export has ended, or another instance has the lease")]
    LeaseLost,
    /// The tenant was disabled, or enabled again.
    #[error("the tenant is not enabled")]
    TenantDisabled,
}

/// The result of a run without an error.
enum RunResult {
    Finished,
    Released,
}

impl SummaryExports {
    /// Creates the service. The first pool serves the queue of exports, the second serves only reads
    /// of summaries.
    pub fn new(
        (queue_db, read_db): (Db, Db),
        tenants: Arc<TenantRegistry>,
        broker: Arc<BrokerClient>,
        producer: Arc<MessageProducer>,
        publishes_block_events: bool,
    ) -> Self {
        let (throttle, requested) = (Throttle::from_percent(DB_SHARE_PERCENT), Notify::new());
        Self {
            queue_db,
            read_db,
            tenants,
            broker,
            producer,
            publishes_block_events,
            throttle,
            requested,
        }
    }

    /// Inserts an export, which this instance or another will run.
    pub async fn request(
        &self,
        db: &Db,
        tenant: &TenantId,
        request: &ExportRequest,
        requested_by: &str,
    ) -> Result<SummaryExport, store::Error> {
        let export = exports::insert(db, tenant, request, requested_by).await?;
        info!(%tenant, iteration.id = %export.job.id, kafka.topic = request.topic,
            "summary export: requested");
        self.requested.notify_one();
        Ok(export)
    }

    /// Returns whether a topic exists; `None` if no broker answers. The lookup repeats for about a
    /// second, because brokers report a new topic with a delay.
    pub async fn topic_exists(&self, name: &str) -> Option<bool> {
        for _ in 0..TOPIC_LOOKUPS_MAX {
            let (broker, name) = (self.broker.clone(), name.to_owned());
            let lookup = move || broker.topic_names().map(|names| names.contains(&name));
            if tokio::task::spawn_blocking(lookup).await.ok()?.ok()? {
                return Some(true);
            }
            sleep(TOPIC_LOOKUP_INTERVAL).await;
        }
        Some(false)
    }

    /// Claims and runs waiting exports until `stop`.
    pub async fn run_worker(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.tenants.ready()).await;
        let (tasks, slots) = (TaskTracker::new(), Arc::new(Semaphore::new(CONCURRENT_EXPORTS_MAX)));
        poll(&stop, &self.requested, POLL_INTERVAL, || async {
            let slot = stop.run_until_cancelled(slots.clone().acquire_owned()).await;
            let Some(Ok(slot)) = slot else { return false };
            let lease = Lease::new(LEASE_DURATION);
            let claim = exports::claim(&self.queue_db, lease);
            match store::with_timeout(LEASE_DURATION, claim).await {
                Ok(Some(export)) => {
                    let (exports, stop) = (self.clone(), stop.clone());
                    tasks.spawn(async move {
                        exports.run_export(&export, lease, &stop).await;
                        drop(slot);
                    });
                    true
                }
                Ok(None) => false,
                Err(error) => {
                    warn!(error = %ErrorChain(&error), "summary export: could not claim a waiting export; retrying");
                    false
                }
            }
        })
        .await;
        tasks.close();
        tasks.wait().await;
    }

    /// Runs an export until it ends, fails, or `stop`.
    async fn run_export(&self, export: &SummaryExport, lease: Lease, stop: &CancellationToken) {
        let (db, id, tenant) = (&self.queue_db, export.job.id, &export.job.tenant);
        let warn = |error: &store::Error| {
            warn!(iteration.id = %id, error = %ErrorChain(error), "summary export: could not renew the lease");
        };
        let work = self.publish(export, lease, stop);
        let result = run_with_lease(db, (id, lease), HEARTBEAT_INTERVAL, warn, work).await;
        let stored = match result.unwrap_or(Err(ExportError::LeaseLost)) {
            Ok(RunResult::Released) => exports::release(db, id, lease, Duration::ZERO).await,
            Ok(RunResult::Finished) => {
                info!(%tenant, iteration.id = %id, "summary export: finished");
                jobs::set_status(db, id, lease, Status::Done, Outcome::default()).await
            }
            Err(ExportError::LeaseLost) => {
                info!(%tenant, iteration.id = %id, "summary export: stopped, because the lease was lost or the export was cancelled");
                return;
            }
            Err(failure @ (ExportError::TooLarge(_) | ExportError::TenantDisabled)) => {
                let message = ErrorChain(&failure).to_string();
                warn!(%tenant, iteration.id = %id, error = message, "summary export: failed");
                let outcome = Outcome { error: Some(&message), ..Outcome::default() };
                jobs::set_status(db, id, lease, Status::Failed, outcome).await
            }
            Err(failure) => {
                warn!(%tenant, iteration.id = %id, error = %ErrorChain(&failure), "summary export: interrupted by an error; retrying");
                exports::release(db, id, lease, RETRY_DELAY).await
            }
        };
        if let Err(error) = stored {
            // After the lease has expired, an instance resumes the export.
            warn!(%tenant, iteration.id = %id, error = %ErrorChain(&error), "summary export: could not store the final status");
        }
    }

    async fn publish(
        &self,
        export: &SummaryExport,
        lease: Lease,
        stop: &CancellationToken,
    ) -> Result<RunResult, ExportError> {
        let tenant = self.tenants.find(&export.job.tenant).await?;
        let tenant = tenant.ok_or(ExportError::TenantDisabled)?;
        let group = export.request.patron_group.as_deref();
        let mut tx = store::begin(&self.read_db).await?;
        let changed = match export.request.changed_since {
            Some(time) => {
                Some(exports::list_changed_patrons(&mut tx, &tenant.schema, group, time).await?)
            }
            None => None,
        };
        let total = match &changed {
            Some(users) => users.len() as i64,
            None => exports::count_summaries(&mut *tx, &tenant.schema, group).await?,
        };
        drop(tx);
        let progress = &mut ExportProgress { total: Some(total), ..export.progress };
        loop {
            if !self.record_progress(export, lease, progress).await? {
                return Err(ExportError::LeaseLost);
            }
            if stop.is_cancelled() {
                return Ok(RunResult::Released);
            }
            let started = Instant::now();
            let after = progress.last_user;
            let page = self.page((export, lease), &tenant, changed.as_deref(), after);
            let page = store::with_timeout(QUERY_TIMEOUT, page).await?;
            if page.is_empty() {
                return Ok(RunResult::Finished);
            }
            self.throttle.rest_after(started).await;
            let sent = self.send(export, &page, progress).await;
            if sent.is_err() {
                self.record_progress(export, lease, progress).await?;
            }
            sent?;
        }
    }

    /// Records the progress of an export and renews the lease. Returns `false` if the lease is lost.
    async fn record_progress(
        &self,
        export: &SummaryExport,
        lease: Lease,
        progress: &ExportProgress,
    ) -> Result<bool, store::Error> {
        let progress = Some(&json!(progress));
        Ok(jobs::renew(&self.queue_db, export.job.id, lease, progress).await?.is_active())
    }

    /// Returns the next page of messages.
    async fn page(
        &self,
        (export, lease): (&SummaryExport, Lease),
        tenant: &Tenant,
        changed: Option<&[Uuid]>,
        after: Option<Uuid>,
    ) -> Result<Vec<SummaryMessage>, ExportError> {
        let schema = &tenant.schema;
        let mut tx = store::begin(&self.read_db).await?;
        if tenants::enabled_since(&mut *tx, &tenant.id).await? != Some(tenant.enabled_at) {
            return Err(ExportError::TenantDisabled);
        }
        // Under this lock, every block event so far has a smaller sequence, and every later one a
        // greater sequence.
        pending_patrons::lock_worker(&mut tx, &tenant.id, WorkerLock::Detect).await?;
        let number = outbox::next_sequences(&mut *tx, schema, 1).await?;
        let number = number.first().copied().unwrap_or_default();
        // All instances evaluate with the database clock.
        let now = store::now(&mut *tx).await?;
        let after = after.unwrap_or(Uuid::nil());
        let summaries = match changed {
            None => {
                let group = export.request.patron_group.as_deref();
                exports::summaries_page(&mut *tx, schema, group, after, PAGE_PATRONS_MAX).await?
            }
            Some(users) => {
                let begin = users.partition_point(|user| *user <= after);
                let end = users.len().min(begin + PAGE_PATRONS_MAX as usize);
                exports::summaries_of_patrons(&mut *tx, schema, &users[begin..end]).await?
            }
        };
        let users: Vec<Uuid> = summaries.iter().map(|(user, _)| *user).collect();
        let states = patrons::load_states(&mut *tx, schema, &users, now).await?;
        let policy = Policy::load(&mut tx, schema).await?;
        let mut published_blocks =
            pending_patrons::load_last_published(&mut tx, schema, &users).await?;
        if !jobs::is_lease_valid(&mut tx, export.job.id, lease).await? {
            return Err(ExportError::LeaseLost);
        }
        // Committed rather than dropped, so that the sequence stays allocated even after a crash of
        // the database.
        store::commit(tx).await?;
        let context = MessageContext { export, tenant: &tenant.id, number, now };
        let message = |(user, summary): (Uuid, Option<String>)| {
            let last = published_blocks.remove(&user).and_then(|last| last.blocked);
            let findings = evaluate(states.get(&user).map(|(state, _)| state), &policy);
            context.message(user, summary, self.blocks(user, findings, last))
        };
        Ok(summaries.into_iter().map(message).collect())
    }

    /// Returns the member with the patron's blocks. If block events are published, the message repeats the
    /// last block event, and later changes follow with a greater sequence. If the patron group is unknown,
    /// the message contains at most the blocks that were published last.
    fn blocks(
        &self,
        user: Uuid,
        findings: PatronFindings<'_>,
        last: Option<AutomatedBlocks>,
    ) -> Option<Value> {
        match findings {
            PatronFindings::Findings(_) if self.publishes_block_events => Some(json!(last)),
            PatronFindings::Findings(findings) => {
                Some(json!(AutomatedBlocks::from_findings(user, &findings, Cause::Iteration)))
            }
            PatronFindings::GroupUnknown => last.map(|last| json!(last)),
        }
    }

    async fn send(
        &self,
        export: &SummaryExport,
        page: &[SummaryMessage],
        progress: &mut ExportProgress,
    ) -> Result<(), ExportError> {
        let messages = page.iter().map(|message| OutgoingMessage {
            topic: &export.request.topic,
            key: message.user.to_string(),
            headers: headers(&export.job.tenant, message.id),
            payload: &message.payload,
        });
        let messages: Vec<_> = messages.collect();
        let (acknowledged, outcome) = self.producer.send(&messages).await;
        if let Some(last) = page[..acknowledged].last() {
            progress.last_user = Some(last.user);
            progress.published += acknowledged as i64;
            metrics().published_summaries.increment(acknowledged as u64);
        }
        outcome.map_err(|error| match page.get(acknowledged) {
            Some(next) if kafka::is_too_large(&error) => ExportError::TooLarge(next.user),
            _ => ExportError::Kafka(error),
        })
    }
}

/// The members that all messages of a page have in common.
struct MessageContext<'a> {
    export: &'a SummaryExport,
    tenant: &'a TenantId,
    number: i64,
    now: DateTime<Utc>,
}

impl MessageContext<'_> {
    /// Returns the message of a patron with the summary as the REST API returns it; `None` if nothing is
    /// open. If the message is published again, the message has the same id.
    fn message(
        &self,
        user: Uuid,
        summary: Option<String>,
        blocks: Option<Value>,
    ) -> SummaryMessage {
        let Self { export, tenant, number, now } = *self;
        let summary = summary.and_then(|text| serde_json::from_str(&text).ok());
        let mut members =
            vec![("jobId", json!(export.job.id)), ("summary", summary.unwrap_or(Value::Null))];
        members.extend(blocks.map(|blocks| ("automatedPatronBlocks", blocks)));
        let id = Uuid::new_v5(&export.job.id, user.as_bytes());
        let payload = envelope(id, &export.request.event_type, tenant, number, now, members);
        SummaryMessage { user, id, payload }
    }
}

/// A message with the summary of one patron.
struct SummaryMessage {
    user: Uuid,
    id: Uuid,
    payload: String,
}
