//! What one rebuild works with, and how it goes from stage to stage.

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

/// How long a rebuild stays its instance's without a word from it.
pub(super) const LEASE_DURATION: Duration = Duration::from_secs(10);

/// How often that word is given, and rebuilds are looked for that nobody works on.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// How rebuilds behave beside the desk and ingest.
#[derive(Debug, Clone, Copy)]
pub struct RebuildConfig {
    /// Share of the time, in percent, that one may keep its connection busy.
    pub db_share_percent: u8,
    /// How much of what was read may wait in memory, in bytes.
    pub buffer_bytes: usize,
    /// How many one instance works on at once, each with a connection of its own.
    pub concurrency: usize,
    /// How long one page of the storage modules may take, with all tries.
    pub page_timeout: Duration,
    /// What a rebuild may close without an operator.
    pub approval_threshold: ApprovalThreshold,
}

/// Why a rebuild goes no further.
#[derive(Debug, thiserror::Error)]
pub(super) enum RebuildError {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The log.
    #[error(transparent)]
    Read(#[from] ReplayError),
    /// The brokers.
    #[error("could not ask the broker")]
    Broker(#[from] kafka::Error),
    /// Somebody is not there.
    #[error("{0}")]
    Unavailable(&'static str),
    /// It can't be done so.
    #[error("{0}")]
    Fatal(String),
    /// The storage modules want another token: whoever brings one has it go on.
    #[error("{0}; it goes on with the next call of the timer")]
    TokenRejected(String),
    /// Nothing of what was just done counts.
    #[error("another instance works on it by now")]
    LeaseLost,
    /// What was laid out is gone: the database has crashed.
    #[error("what was read is gone, as after a crash of the database")]
    ShadowLost,
}

impl RebuildError {
    /// A thread ended by itself. Where it panicked it would do so again.
    pub(super) fn from_join_error(error: &tokio::task::JoinError, what: &str) -> Self {
        if error.is_panic() {
            Self::Fatal(format!("{what} came upon a defect of this version; its log says more"))
        } else {
            Self::Unavailable("a thread was ended")
        }
    }

    /// Whether it may go better the next time.
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

/// How far a rebuild is, for whoever asks.
#[derive(Default)]
pub(super) struct Progress {
    stage: Mutex<Option<(&'static str, u64, Instant)>>,
    done: AtomicU64,
    stage_started: Notify,
}

impl Progress {
    /// Begins a stage of so many steps.
    pub(super) fn start_stage(&self, stage: &'static str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        let mut current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some((stage, total, Instant::now()));
        self.stage_started.notify_one();
    }

    /// So many steps are done.
    pub(super) fn add(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }

    /// Stage, steps done of how many, rate a second and seconds left.
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

/// With what a rebuild is worked on.
pub(super) struct RebuildServices {
    pub(super) caller: Option<Caller>,
    pub(super) group_member: Option<GroupMember>,
    pub(super) run_slot: RunSlot,
    pub(super) connections: Arc<Connections>,
}

/// What one rebuild works with.
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
    /// Why it has to wait for an operator.
    pub(super) approval_reason: Arc<Mutex<Option<String>>>,
    /// Cancelled when the service stops, or somebody ends the rebuild.
    pub(super) stop: CancellationToken,
    pub(super) broker: Arc<BrokerClient>,
    pub(super) storage: Storage,
    /// On whose behalf the storage modules are asked. Kept in memory alone.
    pub(super) caller: Option<Caller>,
    /// Connections of all rebuilds.
    pub(super) connections: Arc<Connections>,
    /// Whether it may work at the moment.
    pub(super) run_slot: Arc<RunSlot>,
    /// Where it is worked on with others.
    pub(super) group_member: Option<Arc<GroupMember>>,
}

impl RebuildContext {
    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Tx, RebuildError> {
        Ok(store::begin(self.db()).await?)
    }

    /// The connections to work with.
    pub(super) fn db(&self) -> &Db {
        &self.connections.main
    }

    /// Asks the brokers on a thread that may block.
    pub(super) async fn query_broker<T: Send + 'static>(
        &self,
        query: impl FnOnce(Arc<BrokerClient>) -> Result<T, kafka::Error> + Send + 'static,
    ) -> Result<T, RebuildError> {
        let broker = self.broker.clone();
        let result = tokio::task::spawn_blocking(move || query(broker)).await;
        Ok(result
            .map_err(|end| RebuildError::from_join_error(&end, "a question to the broker"))??)
    }

    /// Commits, if it is still ours: whoever was frozen in the middle may have lost it meanwhile. All writes of a
    /// rebuild go through here.
    pub(super) async fn commit(&self, mut tx: Tx) -> Result<(), RebuildError> {
        if !rebuilds::is_lease_valid(&mut tx, self.id, self.lease).await? {
            return Err(RebuildError::LeaseLost);
        }
        Ok(store::commit(tx).await?)
    }

    /// How much the inbox has.
    pub(super) async fn inbox_extent(&self, tx: &mut Tx) -> Result<InboxExtent, RebuildError> {
        let extent = inbox::load_extent(tx, &self.tenant.schema, &self.tenant.id).await?;
        extent.ok_or_else(|| RebuildError::Fatal("the tenant is not enabled".to_owned()))
    }

    /// About how many events the inbox holds.
    pub(super) async fn inbox_size(&self) -> Result<u64, RebuildError> {
        let sizes = prune::table_sizes(self.db(), &self.tenant.schema).await?;
        Ok(u64::try_from(sizes.inbox).unwrap_or_default())
    }

    /// Has nobody wait for it.
    pub(super) fn release_slot(&self) {
        self.run_slot.release();
        if let Some(member) = &self.group_member {
            member.leave();
        }
    }

    /// How far it is: where it is gone on with after a failure.
    pub(super) fn status(&self) -> Status {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_status(&self, status: Status) {
        *self.status.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }

    /// Why it has to wait for an operator, as found when it was compared. It outlives a failure, as the status does.
    fn approval_reason(&self) -> Option<String> {
        self.approval_reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_approval_reason(&self, approval_reason: Option<String>) {
        *self.approval_reason.lock().unwrap_or_else(PoisonError::into_inner) = approval_reason;
    }

    /// Goes from stage to stage, up to its end or to where it has to wait for an operator.
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

    /// Whoever has read everything there is of a tenant knows whether something is missing.
    async fn record_completeness(&self) -> Result<(), RebuildError> {
        let mut tx = self.begin().await?;
        // After a crash of the database nothing of what was read is there, nor whether it was all.
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

    /// Says that a rebuild is worked on, until there is a reason to let go of it.
    pub(super) async fn renew_lease(&self) -> StopReason {
        let mut renewed_at = Instant::now();
        loop {
            let progress = self.progress.to_json();
            // It counts from when it was said, not from when it was heard that it was.
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
            // By then another instance may have taken it.
            if renewed_at.elapsed() >= LEASE_DURATION {
                return StopReason::LeaseLost;
            }
            // A stage that begins is told at once: some are short.
            let next = timeout(HEARTBEAT_INTERVAL, self.progress.stage_started.notified());
            if self.stop.run_until_cancelled(next).await.is_none() {
                return StopReason::Shutdown;
            }
        }
    }
}

/// Why a rebuild is let go of.
pub(super) enum StopReason {
    Cancelled,
    /// Its tenant was purged.
    TenantPurged,
    /// It was not heard of for too long here.
    LeaseLost,
    Shutdown,
}
