//! Telling others which patrons are blocked, through an outbox (docs/decisions/0019).
//!
//! What changes a patron notes that in its own transaction (`migrations/tenant/0022_messages.sql`). Looking at
//! those patrons, many at once, compares what a desk would be told now with what others were told last, and
//! writes down what is new of it (`tell`). That is sent in its order and noted as sent once the broker has
//! acknowledged it (`relay`). Neither knows of the other's trouble: while no broker is there, messages wait.

mod message;
mod owner;
mod relay;
mod tell;

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

pub use message::{APPROACHING, BLOCKS};
pub(in crate::flow) use message::{envelope, headers};
pub(in crate::flow) use tell::{Found, evaluate};

use self::owner::Step;
use super::{
    pace::Pace,
    tenants::{Tenant, Tenants},
    wakes::Wakes,
};
use crate::{
    blocks::Cause,
    clock::Clock,
    config::MessageConfig,
    event::{Environment, TenantId},
    kafka::{self, Sender},
    store::{
        self, Db,
        telling::{self, Turn, Waiting, Way},
        tenants,
    },
    telemetry::Chain,
};

/// How often it is looked what there is to do for each tenant, beside what is told at once: for patrons whom time
/// concerns, and for what other instances have left.
const LOOK: Duration = Duration::from_secs(1);

/// The same where others are told nothing any more: there may be messages left.
const LOOK_SELDOM: Duration = Duration::from_secs(30);

/// How long to let a broker or a database be that fails.
const AGAIN: Duration = Duration::from_secs(1);

/// No step takes so long: a connection that has fallen silent is given up.
const LONGEST: Duration = Duration::from_secs(60);

/// How long an instance that stops takes to leave to others how patrons are looked at.
const LEAVE: Duration = Duration::from_secs(1);

/// How long to wait for a tenant's writers when that is to change.
const WAIT: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(300);

/// Tells others.
pub struct Telling {
    /// By which it owns the way in which patrons are looked at.
    id: Uuid,
    db: Db,
    /// Sending waits for the broker: not with the connection that looks at patrons.
    send_db: Db,
    tenants: Arc<Tenants>,
    clock: Clock,
    environment: Environment,
    config: MessageConfig,
    sender: Arc<Sender>,
    pace: Pace,
    to_send: Wakes,
    waiting: Mutex<HashMap<TenantId, Waiting>>,
    /// Topics and keys of messages that this instance began to send and has not noted as sent, by tenant.
    doubtful: Mutex<HashMap<TenantId, BTreeSet<(String, String)>>>,
}

/// How far others are behind, over all tenants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// Notes of patrons to be looked at, those whom time concerns among them.
    pub to_look_at: i64,
    /// Messages that wait to be sent.
    pub unsent: i64,
    /// For how long the first of them has.
    pub oldest: Duration,
}

impl Telling {
    /// One connection for looking, and one for sending.
    pub fn new(
        (db, send_db): (Db, Db),
        tenants: Arc<Tenants>,
        clock: Clock,
        environment: Environment,
        config: MessageConfig,
        sender: Arc<Sender>,
    ) -> Self {
        let pace = Pace::of_percent(config.percent);
        let (to_send, waiting, doubtful) = (Wakes::default(), Mutex::default(), Mutex::default());
        Self {
            id: Uuid::new_v4(),
            db,
            send_db,
            tenants,
            clock,
            environment,
            config,
            sender,
            pace,
            to_send,
            waiting,
            doubtful,
        }
    }

    fn topic(&self, tenant: &TenantId, name: &str) -> String {
        self.environment.own(tenant, self.config.collection.as_ref(), name)
    }

    /// Has changes of a tenant that was just enabled be noted. Where that fails, the next look does so.
    pub async fn begin(&self, tenant: &TenantId) -> Result<(), store::Error> {
        if !self.config.on {
            return Ok(());
        }
        match self.tenants.find(tenant).await? {
            Some(tenant) => self.look_at(&tenant).await.map(|_| ()),
            None => Ok(()),
        }
    }

    /// Makes the topics that a tenant's messages go to. Where no broker is there, sending does so later.
    pub async fn make_topics(&self, tenant: &TenantId) -> Result<(), kafka::Error> {
        if !self.config.on {
            return Ok(());
        }
        self.sender.make_topic(&self.topic(tenant, BLOCKS), self.config.shape).await?;
        if self.config.approaching_percent > 0 {
            self.sender.make_topic(&self.topic(tenant, APPROACHING), self.config.shape).await?;
        }
        Ok(())
    }

    /// How far others are behind, as of the last look.
    pub fn behind(&self) -> Behind {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        waiting.values().fold(Behind::default(), |sum, of| {
            let age = of.oldest_unsent.and_then(|oldest| (now - oldest).to_std().ok());
            Behind {
                to_look_at: sum.to_look_at + of.touched + of.due,
                unsent: sum.unsent + of.unsent,
                oldest: sum.oldest.max(age.unwrap_or_default()),
            }
        })
    }

    /// Whether messages wait for too long.
    pub fn is_late(&self) -> bool {
        self.behind().oldest >= self.config.alarm
    }

    /// Whether others are told at all.
    pub fn is_on(&self) -> bool {
        self.config.on
    }

    /// Looks at patrons, until `stop`.
    pub async fn tell(self: Arc<Self>, stop: CancellationToken) {
        self.tell_until(&stop).await;
        let leave = async {
            for tenant in self.tenants.all() {
                telling::disown(&self.db, &tenant.schema, self.id).await?;
            }
            Ok(())
        };
        if self.config.on
            && let Err(error) = store::within::<(), store::Error>(LEAVE, leave).await
        {
            debug!(error = %Chain(&error), "block events: could not release the lease; other instances wait until it expires");
        }
    }

    async fn tell_until(&self, stop: &CancellationToken) {
        stop.run_until_cancelled(self.tenants.ready()).await;
        let mut look = interval(if self.config.on { LOOK } else { LOOK_SELDOM });
        look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Each has its turn, and comes behind all others for the next one.
        let mut turns: VecDeque<TenantId> = VecDeque::new();
        while !stop.is_cancelled() {
            let woken = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                _ = look.tick() => {
                    let found = self.look(stop).await;
                    // From its end on: one that takes long leaves time for turns.
                    look.reset();
                    found
                }
                woken = self.tenants.touched.next(), if self.config.on => woken,
                () = ready(()), if !turns.is_empty() => BTreeSet::new(),
            };
            for tenant in woken {
                if self.config.on && !turns.contains(&tenant) {
                    turns.push_back(tenant);
                }
            }
            if let Some(tenant) = turns.pop_front()
                && self.take_turn(&tenant, stop).await
            {
                turns.push_back(tenant);
            }
        }
    }

    /// Looks at some of a tenant's patrons. Tells whether there may be more.
    async fn take_turn(&self, tenant: &TenantId, stop: &CancellationToken) -> bool {
        let began = Instant::now();
        let told = async {
            match self.tenants.find(tenant).await? {
                Some(tenant) => self.tell_some(&tenant).await,
                None => Ok(false),
            }
        };
        let more = store::within(LONGEST, told).await.unwrap_or_else(|error| {
            // The next look finds them again.
            warn!(%tenant, error = %Chain(&error), "block events: could not re-evaluate the pending patrons of a tenant; retrying");
            false
        });
        stop.run_until_cancelled(self.pace.keep(began)).await;
        more
    }

    /// Looks what there is to do for whom. Sending is told at once.
    async fn look(&self, stop: &CancellationToken) -> BTreeSet<TenantId> {
        let (mut to_tell, was_late) = (BTreeSet::new(), self.is_late());
        let all = self.tenants.all();
        for tenant in &all {
            if stop.is_cancelled() {
                break;
            }
            match store::within(LONGEST, self.look_at(tenant)).await {
                Ok(waiting) => {
                    if waiting.unsent > 0 || self.is_in_doubt(&tenant.id) {
                        self.to_send.wake(&tenant.id);
                    }
                    if waiting.touched > 0 || waiting.due > 0 || waiting.policy {
                        to_tell.insert(tenant.id.clone());
                    }
                    let mut of = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
                    of.insert(tenant.id.clone(), waiting);
                }
                // It may not be migrated yet.
                Err(error) => {
                    warn!(tenant = %tenant.id, error = %Chain(&error), "block events: could not look for pending patrons of a tenant; retrying");
                }
            }
        }
        let known: BTreeSet<&TenantId> = all.iter().map(|tenant| &tenant.id).collect();
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.retain(|tenant, _| known.contains(tenant));
        drop(waiting);
        if self.is_late() && !was_late {
            let Behind { unsent, oldest, .. } = self.behind();
            error!(unsent, ?oldest, "block events: outbox messages are overdue");
        }
        to_tell
    }

    async fn look_at(&self, tenant: &Tenant) -> Result<Waiting, store::Error> {
        let look = async || telling::look(&self.db, &tenant.schema, self.clock.now()).await;
        let waiting = look().await?;
        let way = Way { approaching_percent: self.config.approaching_percent };
        match owner::next(&waiting, self.id, self.config.on, way) {
            Step::Nothing => return Ok(waiting),
            Step::Renew => {
                let mut tx = store::begin(&self.db).await?;
                telling::own(&mut tx, &tenant.schema, Some(self.id)).await?;
                store::commit(tx).await?;
            }
            Step::Set => self.set(tenant, way, waiting.is_on).await?,
        }
        look().await
    }

    /// Has a tenant's changes be noted, or not any more, as the setting says, and patrons be looked at in this way.
    async fn set(&self, tenant: &Tenant, way: Way, was_on: bool) -> Result<(), store::Error> {
        let (schema, on) = (&tenant.schema, self.config.on);
        let mut tx = store::begin(&self.db).await?;
        // Dropping a trigger keeps readers waiting, too.
        tenants::wait_at_most(&mut tx, if on { WAIT } else { SHORT }).await?;
        if was_on != on {
            tenants::enter_alone(&mut tx, &tenant.id).await?;
        }
        if on {
            telling::wait_for_turn(&mut tx, &tenant.id, Turn::Tell).await?;
        }
        // Another instance may have been faster.
        if !telling::own(&mut tx, schema, on.then_some(self.id)).await? {
            return Ok(());
        }
        if was_on != on && telling::set(&mut tx, schema, on).await? {
            info!(tenant = %tenant.id, on, "block events: publishing is switched on or off for the tenant");
        }
        if on {
            let cause = if was_on { Cause::PatronGroupChanged } else { Cause::Begun };
            telling::set_way(&mut tx, schema, way, cause).await?;
        }
        store::commit(tx).await
    }

    fn tenants_of(&self, ids: BTreeSet<TenantId>) -> VecDeque<Arc<Tenant>> {
        self.tenants.all().into_iter().filter(|tenant| ids.contains(&tenant.id)).collect()
    }

    /// Sends messages, until `stop`.
    pub async fn send(self: Arc<Self>, stop: CancellationToken) {
        while let Some(woken) = stop.run_until_cancelled(self.to_send.next()).await {
            let mut turns = self.tenants_of(woken);
            while let Some(tenant) = turns.pop_front() {
                if stop.is_cancelled() {
                    return;
                }
                match store::within(LONGEST, self.send_some(&tenant)).await {
                    Ok(true) => turns.push_back(tenant),
                    Ok(false) => {}
                    Err(error) => {
                        warn!(tenant = %tenant.id, error = %Chain(&error), "block events: could not publish the outbox of a tenant; retrying");
                        // The next look finds them again.
                        stop.run_until_cancelled(sleep(AGAIN)).await;
                    }
                }
            }
        }
    }
}
