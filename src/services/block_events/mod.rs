//! Telling others which patrons are blocked, through an outbox (docs/decisions/0019).
//!
//! What changes a patron notes that in its own transaction (`migrations/tenant/0022_enable_block_events.sql`). Looking at
//! those patrons, many at once, compares what a desk would be told now with what others were told last, and
//! writes down what is new of it (`tell`). That is sent in its order and noted as sent once the broker has
//! acknowledged it (`relay`). Neither knows of the other's trouble: while no broker is there, messages wait.

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

use tokio::time::{interval, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use uuid::Uuid;

pub(in crate::services) use detect::{PatronFindings, evaluate};
pub use envelope::{APPROACHING_LIMIT_TOPIC, AUTOMATED_BLOCK_TOPIC};
pub(in crate::services) use envelope::{envelope, headers};

use self::settings_lease::LeaseAction;
use super::{
    pace::Throttle,
    tenants::{Tenant, TenantRegistry},
    wakes::Wakeups,
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
        pending_patrons::{self, DetectionSettings, PendingCounts, WorkerLock},
        tenants,
    },
};

/// How often it is looked what there is to do for each tenant, beside what is told at once: for patrons whom time
/// concerns, and for what other instances have left.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The same where others are told nothing any more: there may be messages left.
const DISABLED_POLL_INTERVAL: Duration = Duration::from_secs(30);

/// How long to let a broker or a database be that fails.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// No step takes so long: a connection that has fallen silent is given up.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// How long an instance that stops takes to leave to others how patrons are looked at.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait for a tenant's writers when that is to change.
const ENABLE_LOCK_TIMEOUT: Duration = Duration::from_secs(2);
const DISABLE_LOCK_TIMEOUT: Duration = Duration::from_millis(300);

/// Tells others.
pub struct BlockEvents {
    /// By which it owns the way in which patrons are looked at.
    instance_id: Uuid,
    detect_db: Db,
    /// Sending waits for the broker: not with the connection that looks at patrons.
    publish_db: Db,
    tenants: Arc<TenantRegistry>,
    clock: Clock,
    environment: Environment,
    config: BlockEventsConfig,
    sender: Arc<MessageProducer>,
    throttle: Throttle,
    publish_wakeups: Wakeups,
    pending_counts: Mutex<HashMap<TenantId, PendingCounts>>,
    /// Topics and keys of messages that this instance began to send and has not noted as sent, by tenant.
    to_resend: Mutex<HashMap<TenantId, BTreeSet<(String, String)>>>,
}

/// How far others are behind, over all tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Notes of patrons to be looked at, those whom time concerns among them.
    pub pending_patrons: i64,
    /// Messages that wait to be sent.
    pub unsent_messages: i64,
    /// For how long the first of them has.
    pub oldest_unsent_age: Duration,
}

impl BlockEvents {
    /// One connection for looking, and one for sending.
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

    /// Has changes of a tenant that was just enabled be noted. Where that fails, the next look does so.
    pub async fn enable_tenant(&self, tenant: &TenantId) -> Result<(), store::Error> {
        if !self.config.enabled {
            return Ok(());
        }
        match self.tenants.find(tenant).await? {
            Some(tenant) => self.poll_tenant(&tenant).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Makes the topics that a tenant's messages go to. Where no broker is there, sending does so later.
    pub async fn create_topics(&self, tenant: &TenantId) -> Result<(), kafka::Error> {
        if !self.config.enabled {
            return Ok(());
        }
        self.sender
            .ensure_topic(&self.topic(tenant, AUTOMATED_BLOCK_TOPIC), self.config.topic_config)
            .await?;
        if self.config.approaching_percent > 0 {
            self.sender
                .ensure_topic(
                    &self.topic(tenant, APPROACHING_LIMIT_TOPIC),
                    self.config.topic_config,
                )
                .await?;
        }
        Ok(())
    }

    /// How far others are behind, as of the last look.
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

    /// Whether messages wait for too long.
    pub fn is_overdue(&self) -> bool {
        self.backlog().oldest_unsent_age >= self.config.overdue_after
    }

    /// Whether others are told at all.
    pub fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Looks at patrons, until `stop`.
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
        // Each has its turn, and comes behind all others for the next one.
        let mut queue: VecDeque<TenantId> = VecDeque::new();
        while !stop.is_cancelled() {
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = poll_timer.tick() => {
                    let found = self.poll_tenants(stop).await;
                    // From its end on: one that takes long leaves time for turns.
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

    /// Looks at some of a tenant's patrons. Tells whether there may be more.
    async fn detect_tenant(&self, tenant: &TenantId, stop: &CancellationToken) -> bool {
        let began = Instant::now();
        let batch = async {
            match self.tenants.find(tenant).await? {
                Some(tenant) => self.detect_batch(&tenant).await,
                None => Ok(false),
            }
        };
        let more = store::with_timeout(STEP_TIMEOUT, batch).await.unwrap_or_else(|error| {
            // The next look finds them again.
            warn!(%tenant, error = %ErrorChain(&error), "block events: could not re-evaluate the pending patrons of a tenant; retrying");
            false
        });
        stop.run_until_cancelled(self.throttle.rest_after(began)).await;
        more
    }

    /// Looks what there is to do for whom. Sending is told at once.
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
                // It may not be migrated yet.
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

    /// Has a tenant's changes be noted, or not any more, as the setting says, and patrons be looked at in this way.
    async fn apply_settings(
        &self,
        tenant: &Tenant,
        settings: DetectionSettings,
        was_on: bool,
    ) -> Result<(), store::Error> {
        let (schema, on) = (&tenant.schema, self.config.enabled);
        let mut tx = store::begin(&self.detect_db).await?;
        // Dropping a trigger keeps readers waiting, too.
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
        // Another instance may have been faster.
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

    /// Sends messages, until `stop`.
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
                        // The next look finds them again.
                        stop.run_until_cancelled(sleep(RETRY_DELAY)).await;
                    }
                }
            }
        }
    }
}
