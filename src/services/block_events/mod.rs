//! Publication of block events through an outbox (docs/decisions/0019).
//!
//! A transaction that changes a patron also inserts a pending patron (`migrations/tenant/0022_enable_block_events.sql`).
//! The detect worker (`detect`) evaluates pending patrons in batches, compares each evaluation with the last
//! published event, and writes changes to the outbox. The publish worker (`publish`) sends the outbox in
//! order, and records each acknowledgement of the broker. The two workers are independent: while the broker
//! is unavailable, messages wait in the outbox.

mod detect;
mod envelope;
mod publish;
mod settings_lease;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    future::ready,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

pub(in crate::services) use detect::{PatronFindings, evaluate};
pub use envelope::{APPROACHING_LIMIT_TOPIC, AUTOMATED_BLOCK_TOPIC};
pub(in crate::services) use envelope::{envelope, headers};
use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use self::settings_lease::LeaseAction;
use super::{
    tenants::{Tenant, TenantRegistry, wakeups::Wakeups},
    throttle::Throttle,
};
use crate::{
    blocks::Cause,
    clock::Clock,
    config::BlockEventsConfig,
    event::{Environment, TenantId},
    kafka::{self, MessageProducer},
    logging::ErrorChain,
    store::{
        self, Db,
        messages::pending_patrons::{self, DetectionSettings, PendingCounts, WorkerLock},
        tenants,
    },
};

/// Interval between polls of all tenants, in addition to wakeups. A poll finds patrons with a due evaluation,
/// and work that other instances left.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Interval between polls if publishing is disabled; the outbox may still contain messages.
const DISABLED_POLL_INTERVAL: Duration = Duration::from_secs(30);

/// Delay after a failure of the broker or the database.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// Maximum time of one step; afterwards the worker abandons a silent connection.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time for the release of the settings leases at shutdown.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum wait for a tenant's writers when an instance enables the tenant or changes its detection settings.
const ENABLE_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum wait for a tenant's writers when an instance disables the tenant.
const DISABLE_LOCK_TIMEOUT: Duration = Duration::from_millis(300);

/// The detect worker and the publish worker.
pub struct BlockEvents {
    /// Id of this instance in the settings leases.
    instance_id: Uuid,
    detect_db: Db,
    /// Pool of the publish worker. A publish waits for the broker, so detection uses another pool.
    publish_db: Db,
    tenants: Arc<TenantRegistry>,
    clock: Clock,
    environment: Environment,
    config: BlockEventsConfig,
    sender: Arc<MessageProducer>,
    throttle: Throttle,
    publish_wakeups: Wakeups,
    pending_counts: Mutex<HashMap<TenantId, PendingCounts>>,
    /// Topics and keys of messages that this instance began to send and did not record as sent, by tenant.
    to_resend: Mutex<HashMap<TenantId, BTreeSet<(String, String)>>>,
}

/// Unfinished work of all tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Pending patrons, including patrons with a due evaluation.
    pub pending_patrons: i64,
    /// Messages in the outbox that are not sent.
    pub unsent_messages: i64,
    /// Age of the oldest unsent message.
    pub oldest_unsent_age: Duration,
}

impl BlockEvents {
    /// Creates both workers, with one pool for detection and one pool for publishing.
    pub fn new(
        (db, send_db): (Db, Db),
        tenants: Arc<TenantRegistry>,
        clock: Clock,
        environment: Environment,
        config: BlockEventsConfig,
        sender: Arc<MessageProducer>,
    ) -> Self {
        let pace = Throttle::from_percent(config.db_share_percent);
        let (to_send, waiting, doubtful) = (Wakeups::default(), Mutex::default(), Mutex::default());
        Self {
            instance_id: Uuid::new_v4(),
            detect_db: db,
            publish_db: send_db,
            tenants,
            clock,
            environment,
            config,
            sender,
            throttle: pace,
            publish_wakeups: to_send,
            pending_counts: waiting,
            to_resend: doubtful,
        }
    }

    fn topic(&self, tenant: &TenantId, name: &str) -> String {
        self.environment.own_topic(tenant, self.config.collection.as_ref(), name)
    }

    /// Enables publishing for a newly enabled tenant. If this call fails, the next poll enables publishing.
    pub async fn enable_tenant(&self, tenant: &TenantId) -> Result<(), store::Error> {
        if !self.config.enabled {
            return Ok(());
        }
        match self.tenants.find(tenant).await? {
            Some(tenant) => self.poll_tenant(&tenant).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Creates the topics for a tenant's block events. If the broker is unavailable, the publish worker
    /// creates the topics later.
    pub async fn create_topics(&self, tenant: &TenantId) -> Result<(), kafka::Error> {
        if !self.config.enabled {
            return Ok(());
        }
        self.sender
            .ensure_topic(&self.topic(tenant, AUTOMATED_BLOCK_TOPIC), self.config.topic_config())
            .await?;
        if self.config.approaching_percent > 0 {
            self.sender
                .ensure_topic(
                    &self.topic(tenant, APPROACHING_LIMIT_TOPIC),
                    self.config.topic_config(),
                )
                .await?;
        }
        Ok(())
    }

    /// Returns the unfinished work, as of the last poll.
    pub fn backlog(&self) -> Backlog {
        let pending_counts = self.pending_counts.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        pending_counts.values().fold(Backlog::default(), |sum, counts| {
            let age = counts.oldest_unsent.and_then(|oldest| (now - oldest).to_std().ok());
            Backlog {
                pending_patrons: sum.pending_patrons + counts.pending_patrons + counts.due_patrons,
                unsent_messages: sum.unsent_messages + counts.unsent_messages,
                oldest_unsent_age: sum.oldest_unsent_age.max(age.unwrap_or_default()),
            }
        })
    }

    /// Returns `true` if the oldest unsent message has reached the configured age.
    pub fn is_overdue(&self) -> bool {
        self.backlog().oldest_unsent_age >= self.config.overdue_after
    }

    /// Returns `true` if publishing is enabled.
    pub fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Runs the detect worker until `stop`, then releases the settings leases.
    pub async fn run_detector(self: Arc<Self>, stop: CancellationToken) {
        self.detect_until(&stop).await;
        let release = async {
            for tenant in self.tenants.all() {
                pending_patrons::release_lease(&self.detect_db, &tenant.schema, self.instance_id)
                    .await?;
            }
            Ok(())
        };
        if self.config.enabled
            && let Err(error) =
                store::with_timeout::<(), store::Error>(RELEASE_TIMEOUT, release).await
        {
            debug!(error = %ErrorChain(&error), "block events: could not release the lease; other instances wait until it expires");
        }
    }

    async fn detect_until(&self, stop: &CancellationToken) {
        stop.run_until_cancelled(self.tenants.ready()).await;
        let mut poll_timer =
            interval(if self.config.enabled { POLL_INTERVAL } else { DISABLED_POLL_INTERVAL });
        poll_timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Each tenant gets one batch per round; a tenant with more work moves to the end of the queue.
        let mut queue: VecDeque<TenantId> = VecDeque::new();
        while !stop.is_cancelled() {
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = poll_timer.tick() => {
                    let found = self.poll_tenants(stop).await;
                    // The interval starts at the end of the poll, so that a slow poll leaves time for
                    // batches.
                    poll_timer.reset();
                    found
                }
                woken = self.tenants.patron_changes.next(), if self.config.enabled => woken,
                () = ready(()), if !queue.is_empty() => BTreeSet::new(),
            };
            for tenant in woken {
                if self.config.enabled && !queue.contains(&tenant) {
                    queue.push_back(tenant);
                }
            }
            if let Some(tenant) = queue.pop_front()
                && self.detect_tenant(&tenant, stop).await
            {
                queue.push_back(tenant);
            }
        }
    }

    /// Evaluates a batch of a tenant's pending patrons. Returns `true` if more may remain.
    async fn detect_tenant(&self, tenant: &TenantId, stop: &CancellationToken) -> bool {
        let began = Instant::now();
        let batch = async {
            match self.tenants.find(tenant).await? {
                Some(tenant) => self.detect_batch(&tenant).await,
                None => Ok(false),
            }
        };
        let more = store::with_timeout(STEP_TIMEOUT, batch).await.unwrap_or_else(|error| {
            // The next poll finds the patrons again.
            warn!(%tenant, error = %ErrorChain(&error), "block events: could not re-evaluate the pending patrons of a tenant; retrying");
            false
        });
        stop.run_until_cancelled(self.throttle.rest_after(began)).await;
        more
    }

    /// Polls all tenants. Wakes the publish worker, and returns the tenants with pending patrons.
    async fn poll_tenants(&self, stop: &CancellationToken) -> BTreeSet<TenantId> {
        let (mut to_detect, was_overdue) = (BTreeSet::new(), self.is_overdue());
        let all = self.tenants.all();
        for tenant in &all {
            if stop.is_cancelled() {
                break;
            }
            match store::with_timeout(STEP_TIMEOUT, self.poll_tenant(tenant)).await {
                Ok(counts) => {
                    if counts.unsent_messages > 0 || self.has_keys_to_resend(&tenant.id) {
                        self.publish_wakeups.wake(&tenant.id);
                    }
                    if counts.pending_patrons > 0
                        || counts.due_patrons > 0
                        || counts.has_pending_groups
                    {
                        to_detect.insert(tenant.id.clone());
                    }
                    let mut pending_counts =
                        self.pending_counts.lock().unwrap_or_else(PoisonError::into_inner);
                    pending_counts.insert(tenant.id.clone(), counts);
                }
                // The schema of the tenant may not be migrated yet.
                Err(error) => {
                    warn!(tenant = %tenant.id, error = %ErrorChain(&error), "block events: could not look for pending patrons of a tenant; retrying");
                }
            }
        }
        let known: BTreeSet<&TenantId> = all.iter().map(|tenant| &tenant.id).collect();
        let mut pending_counts = self.pending_counts.lock().unwrap_or_else(PoisonError::into_inner);
        pending_counts.retain(|tenant, _| known.contains(tenant));
        drop(pending_counts);
        if self.is_overdue() && !was_overdue {
            let Backlog { unsent_messages: unsent, oldest_unsent_age: oldest, .. } = self.backlog();
            error!(unsent, ?oldest, "block events: outbox messages are overdue");
        }
        to_detect
    }

    async fn poll_tenant(&self, tenant: &Tenant) -> Result<PendingCounts, store::Error> {
        let read_counts = async || {
            pending_patrons::count_pending(&self.detect_db, &tenant.schema, self.clock.now()).await
        };
        let counts = read_counts().await?;
        let settings = DetectionSettings { approaching_percent: self.config.approaching_percent };
        match settings_lease::next_action(&counts, self.instance_id, self.config.enabled, settings)
        {
            LeaseAction::Skip => return Ok(counts),
            LeaseAction::Renew => {
                let mut tx = store::begin(&self.detect_db).await?;
                pending_patrons::acquire_lease(&mut tx, &tenant.schema, Some(self.instance_id))
                    .await?;
                store::commit(tx).await?;
            }
            LeaseAction::Apply => self.apply_settings(tenant, settings, counts.is_enabled).await?,
        }
        read_counts().await
    }

    /// Enables or disables publishing for a tenant, as configured, and stores the detection settings.
    async fn apply_settings(
        &self,
        tenant: &Tenant,
        settings: DetectionSettings,
        was_on: bool,
    ) -> Result<(), store::Error> {
        let (schema, on) = (&tenant.schema, self.config.enabled);
        let mut tx = store::begin(&self.detect_db).await?;
        // Dropping a trigger blocks readers too.
        tenants::set_lock_timeout(
            &mut tx,
            if on { ENABLE_LOCK_TIMEOUT } else { DISABLE_LOCK_TIMEOUT },
        )
        .await?;
        if was_on != on {
            tenants::lock_exclusive(&mut tx, &tenant.id).await?;
        }
        if on {
            pending_patrons::lock_worker(&mut tx, &tenant.id, WorkerLock::Detect).await?;
        }
        // Another instance may have acquired the lease first.
        if !pending_patrons::acquire_lease(&mut tx, schema, on.then_some(self.instance_id)).await? {
            return Ok(());
        }
        if was_on != on && pending_patrons::enable(&mut tx, schema, on).await? {
            info!(tenant = %tenant.id, on, "block events: publishing is switched on or off for the tenant");
        }
        if on {
            let cause = if was_on { Cause::PatronGroupChanged } else { Cause::PublishingEnabled };
            pending_patrons::set_detection_settings(&mut tx, schema, settings, cause).await?;
        }
        store::commit(tx).await
    }

    fn find_tenants(&self, ids: BTreeSet<TenantId>) -> VecDeque<Arc<Tenant>> {
        self.tenants.all().into_iter().filter(|tenant| ids.contains(&tenant.id)).collect()
    }

    /// Runs the publish worker until `stop`.
    pub async fn run_publisher(self: Arc<Self>, stop: CancellationToken) {
        while let Some(woken) = stop.run_until_cancelled(self.publish_wakeups.next()).await {
            let mut queue = self.find_tenants(woken);
            while let Some(tenant) = queue.pop_front() {
                if stop.is_cancelled() {
                    return;
                }
                match store::with_timeout(STEP_TIMEOUT, self.publish_batch(&tenant)).await {
                    Ok(true) => queue.push_back(tenant),
                    Ok(false) => {}
                    Err(error) => {
                        warn!(tenant = %tenant.id, error = %ErrorChain(&error), "block events: could not publish the outbox of a tenant; retrying");
                        // The next poll finds the messages again.
                        stop.run_until_cancelled(sleep(RETRY_DELAY)).await;
                    }
                }
            }
        }
    }
}
