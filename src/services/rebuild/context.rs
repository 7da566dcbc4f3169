//! Context, progress and lease renewal of one rebuild, and the sequence of its stages.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{
    apply,
    approval::{self, ApprovalThreshold},
    compare,
    connections::Connections,
    finish::RebuildOutcome,
    read,
    request::{ReadFrom, RebuildRequest, Source},
    run_slot::RunSlot,
    shared_topics::GroupMember,
};
use crate::{
    clock::Clock,
    config::KafkaConfig,
    kafka::{self, BrokerClient, replay::ReplayError},
    logging::ErrorChain,
    okapi::{Caller, Storage},
    patron::Scope,
    services::{pace::Throttle, tenants::Tenant},
    store::{
        self, Db, Schema, Tx, Verdict, differences,
        inbox::{self, InboxExtent},
        prune,
        rebuilds::{self, Lease, LeaseState, Status},
        tenants,
    },
};

/// Lifetime of a lease without renewal.
pub(super) const LEASE_DURATION: Duration = Duration::from_secs(10);

/// Interval between renewals of a lease, and between looks for rebuilds to claim.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Settings that limit the load and the changes of rebuilds.
#[derive(Debug, Clone, Copy)]
pub struct RebuildConfig {
    /// Maximum share of time in which a rebuild uses its connection, in percent.
    pub db_share_percent: u8,
    /// Memory for entries that are read and not yet loaded into a shadow, in bytes.
    pub buffer_bytes: usize,
    /// Maximum number of rebuilds that use the database or the processor of one instance at the same time. If
    /// the value is 0, the workers claim no rebuild.
    pub concurrency: usize,
    /// Maximum time for one page of a storage module, including retries.
    pub page_timeout: Duration,
    /// Limit of the changes that a rebuild applies without an operator.
    pub approval_threshold: ApprovalThreshold,
}

/// An error that interrupts or ends a rebuild.
#[derive(Debug, thiserror::Error)]
pub(super) enum RebuildError {
    /// A database statement failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The replay of topics failed.
    #[error(transparent)]
    Read(#[from] ReplayError),
    /// A request to the broker failed.
    #[error("could not query the broker")]
    Broker(#[from] kafka::Error),
    /// A broker or a thread is unavailable; a retry may succeed.
    #[error("{0}")]
    Unavailable(&'static str),
    /// A retry cannot succeed.
    #[error("{0}")]
    Fatal(String),
    /// The rebuild has no token, or a storage module rejected the token. The rebuild resumes with the next
    /// token.
    #[error("{0}; the rebuild resumes at the next call of the timer")]
    TokenRejected(String),
    /// Another instance claimed the rebuild, so this instance rolls its transaction back.
    #[error("another instance has the lease on the rebuild, or the rebuild has ended")]
    LeaseLost,
    /// The shadow is empty or missing, as after a crash of the database.
    #[error("the shadow of the rebuild is lost, as after a crash of the database")]
    ShadowLost,
}

impl RebuildError {
    /// Converts the end of a thread. A panic is fatal, because a retry would panic again.
    pub(super) fn from_join_error(error: &tokio::task::JoinError, what: &str) -> Self {
        if error.is_panic() {
            Self::Fatal(format!(
                "{what} failed because of a defect of this version; the service's log has the details"
            ))
        } else {
            Self::Unavailable("a thread was stopped")
        }
    }

    /// Returns `true` if a retry may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Store(error) => error.verdict() == Verdict::Retry,
            Self::Read(ReplayError::Timeout | ReplayError::UnexpectedRecord)
            | Self::Unavailable(_)
            | Self::ShadowLost => true,
            Self::Broker(_) => true,
            Self::Read(_) | Self::Fatal(_) | Self::TokenRejected(_) | Self::LeaseLost => false,
        }
    }
}

/// Stage and completed steps of a rebuild, published with each heartbeat.
#[derive(Default)]
pub(super) struct Progress {
    stage: Mutex<Option<(&'static str, u64, Instant)>>,
    done: AtomicU64,
    stage_started: Notify,
}

impl Progress {
    /// Starts a stage of `total` steps and triggers a heartbeat.
    pub(super) fn start_stage(&self, stage: &'static str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        let mut current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some((stage, total, Instant::now()));
        self.stage_started.notify_one();
    }

    /// Adds completed steps to the current stage.
    pub(super) fn add(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }

    /// Returns stage, completed steps, total steps, steps per second and estimated seconds left as JSON.
    pub(super) fn to_json(&self) -> Value {
        let current = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((stage, total, since)) = current else { return json!({}) };
        let done = self.done.load(Ordering::Relaxed);
        let seconds = since.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let mut body =
            json!({ "stage": stage, "done": done, "total": total, "rate": rate.round() });
        if rate > 0.0 {
            body["secondsLeft"] = json!((total.saturating_sub(done) as f64 / rate).ceil());
        }
        body
    }
}

/// Resources that a claim passes to the context of a rebuild.
pub(super) struct RebuildServices {
    pub(super) caller: Option<Caller>,
    pub(super) group_member: Option<GroupMember>,
    pub(super) run_slot: RunSlot,
    pub(super) connections: Arc<Connections>,
}

/// Identity, state and services of one rebuild, shared by all stages.
#[derive(Clone)]
pub(super) struct RebuildContext {
    pub(super) id: Uuid,
    pub(super) lease: Lease,
    pub(super) request: RebuildRequest,
    pub(super) tenant: Arc<Tenant>,
    pub(super) shadow: Arc<Schema>,
    pub(super) clock: Clock,
    pub(super) kafka: Arc<KafkaConfig>,
    pub(super) config: RebuildConfig,
    pub(super) throttle: Throttle,
    pub(super) progress: Arc<Progress>,
    pub(super) status: Arc<Mutex<Status>>,
    /// The cause for which an operator has to approve the differences, if any.
    pub(super) approval_reason: Arc<Mutex<Option<String>>>,
    /// Cancelled when the service stops, or when this instance ends its work on the rebuild.
    pub(super) stop: CancellationToken,
    pub(super) broker: Arc<BrokerClient>,
    pub(super) storage: Storage,
    /// Gateway, tenant and token for requests to the storage modules, in memory only.
    pub(super) caller: Option<Caller>,
    /// Connection pools of all rebuilds of the instance.
    pub(super) connections: Arc<Connections>,
    /// The right to use the database and the processor; released during waits.
    pub(super) run_slot: Arc<RunSlot>,
    /// Membership in a read group, if the instance claimed several rebuilds together.
    pub(super) group_member: Option<Arc<GroupMember>>,
}

impl RebuildContext {
    /// Begins a transaction on the main pool.
    pub(super) async fn begin(&self) -> Result<Tx, RebuildError> {
        Ok(store::begin(self.db()).await?)
    }

    /// Returns the main pool.
    pub(super) fn db(&self) -> &Db {
        &self.connections.main
    }

    /// Runs a request to the broker on a thread that may block.
    pub(super) async fn query_broker<T: Send + 'static>(
        &self,
        query: impl FnOnce(Arc<BrokerClient>) -> Result<T, kafka::Error> + Send + 'static,
    ) -> Result<T, RebuildError> {
        let broker = self.broker.clone();
        let result = tokio::task::spawn_blocking(move || query(broker)).await;
        Ok(result
            .map_err(|end| RebuildError::from_join_error(&end, "a request to the broker"))??)
    }

    /// Commits `tx` if the lease is valid; otherwise returns `LeaseLost`. If the instance was frozen, another
    /// instance may have claimed the rebuild. Every stage commits its transactions through this function.
    pub(super) async fn commit(&self, mut tx: Tx) -> Result<(), RebuildError> {
        if !rebuilds::is_lease_valid(&mut tx, self.id, self.lease).await? {
            return Err(RebuildError::LeaseLost);
        }
        Ok(store::commit(tx).await?)
    }

    /// Returns the extent of the inbox, or a fatal error if the tenant is not enabled.
    pub(super) async fn inbox_extent(&self, tx: &mut Tx) -> Result<InboxExtent, RebuildError> {
        let extent = inbox::load_extent(tx, &self.tenant.schema, &self.tenant.id).await?;
        extent.ok_or_else(|| RebuildError::Fatal("the tenant is not enabled".to_owned()))
    }

    /// Estimates the number of events in the inbox.
    pub(super) async fn inbox_size(&self) -> Result<u64, RebuildError> {
        let sizes = prune::table_sizes(self.db(), &self.tenant.schema).await?;
        Ok(u64::try_from(sizes.inbox).unwrap_or_default())
    }

    /// Releases the run slot and leaves the read group, so that other rebuilds continue.
    pub(super) fn release_slot(&self) {
        self.run_slot.release();
        if let Some(member) = &self.group_member {
            member.leave();
        }
    }

    /// Returns the stage at which a retry resumes.
    pub(super) fn status(&self) -> Status {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_status(&self, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Returns the cause for an operator's approval, as found by the comparison. The cause outlives a retry,
    /// as the status does.
    fn approval_reason(&self) -> Option<String> {
        self.approval_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_approval_reason(&self, approval_reason: Option<String>) {
        *self.approval_reason.lock().unwrap_or_else(PoisonError::into_inner) = approval_reason;
    }

    /// Runs the stages until the rebuild ends or waits for an operator.
    pub(super) async fn run(&self) -> Result<RebuildOutcome, RebuildError> {
        self.run_slot.acquire().await;
        loop {
            let next = match self.status() {
                Status::Waiting | Status::Reading => {
                    self.record_status(Status::Reading).await?;
                    read::read(self).await?;
                    Status::Comparing
                }
                Status::Comparing => {
                    self.record_status(Status::Comparing).await?;
                    compare::compare(self).await?;
                    let approval_reason = approval::approval_reason(self).await?;
                    let needs_approval = self.request.dry_run || approval_reason.is_some();
                    self.set_approval_reason(approval_reason);
                    if needs_approval { Status::Compared } else { Status::Applying }
                }
                Status::Applying => {
                    self.record_status(Status::Applying).await?;
                    apply::apply(self).await?;
                    self.record_completeness().await?;
                    Status::Done
                }
                ended => {
                    let summary = self.summary().await?;
                    return Ok(RebuildOutcome::new(ended, summary, self.approval_reason()));
                }
            };
            self.set_status(next);
        }
    }

    /// Records the tenant's completeness if the rebuild read every record of the tenant.
    async fn record_completeness(&self) -> Result<(), RebuildError> {
        let mut tx = self.begin().await?;
        // If the database crashed, the shadow is empty and its completeness is unknown; the load returns
        // `ShadowLost`.
        let incomplete_before =
            compare::load_complete_shadow(&mut tx, self).await?.incomplete_before;
        let passed_over = rebuilds::count_skipped_records(&mut *tx, self.id).await?;
        let RebuildRequest { source, ref from, scope, covered_by_inbox, fill, .. } = self.request;
        let is_all = match source {
            Source::Storage => passed_over == 0,
            Source::Topics => *from == ReadFrom::Earliest && !covered_by_inbox,
            Source::Inbox => false,
        };
        if is_all && scope == Scope::Tenant {
            let initial_fill_id = fill.then_some(self.id);
            tenants::finish_initial_fill(
                &mut tx,
                &self.tenant.id,
                initial_fill_id,
                incomplete_before,
            )
            .await?;
            self.commit(tx).await?;
        }
        Ok(())
    }

    async fn record_status(&self, status: Status) -> Result<(), RebuildError> {
        Ok(rebuilds::set_status(self.db(), self.id, self.lease, status, None, None).await?)
    }

    async fn summary(&self) -> Result<Value, RebuildError> {
        let summary = differences::summarize(self.db(), &self.tenant.schema, self.id).await?;
        let mut tx = self.begin().await?;
        let groups = compare::load_complete_shadow(&mut tx, self).await?.changed_groups;
        let passed_over = rebuilds::count_skipped_records(&mut *tx, self.id).await?;
        Ok(super::report::summary_json(&summary, groups, passed_over))
    }

    /// Renews the lease until there is a reason to stop, and returns the reason.
    pub(super) async fn renew_lease(&self) -> StopReason {
        let mut renewed_at = Instant::now();
        loop {
            let progress = self.progress.to_json();
            // The lease counts from the start of the request; the response may arrive late.
            let now = Instant::now();
            let remaining = LEASE_DURATION.saturating_sub(renewed_at.elapsed());
            match timeout(
                remaining.min(LEASE_DURATION / 2),
                rebuilds::renew(&self.connections.leases, self.id, self.lease, &progress),
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
            let next = timeout(HEARTBEAT_INTERVAL, self.progress.stage_started.notified());
            if self.stop.run_until_cancelled(next).await.is_none() {
                return StopReason::Shutdown;
            }
        }
    }
}

/// The reason for which an instance stops its work on a rebuild.
pub(super) enum StopReason {
    Cancelled,
    /// A purge of the tenant deleted the rebuild.
    TenantPurged,
    /// The lease expired without renewal, or another instance claimed the rebuild.
    LeaseLost,
    Shutdown,
}
