//! Rebuilds as jobs: asked for at one instance, worked on by any, and taken over where that one has died.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use chrono::TimeDelta;
use serde_json::Value;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    ask::Ask,
    pace::Pace,
    work::{Failure, Setting, Work},
};
use crate::{
    clock::Clock,
    config::{HousekeepingConfig, KafkaConfig},
    event::TenantId,
    flow::tenants::{Tenant, Tenants},
    kafka::Broker,
    okapi::{Caller, Storage},
    store::{
        self, Db, Login, PoolSettings, Schema,
        rebuilds::{self, Held, Hold, Rebuild, Status},
        tenants,
    },
    telemetry::Chain,
};

/// How long a rebuild stays its instance's without a word from it.
const HELD: TimeDelta = TimeDelta::seconds(10);

/// How often that word is given, and rebuilds are looked for that nobody works on.
const WORD: Duration = Duration::from_secs(1);

/// How long the database gives one statement of a rebuild: one compares whole tenants.
const STATEMENT: Duration = Duration::from_secs(15 * 60);

/// How long to wait before what failed for a passing reason is tried again: twice as long each time, up to
/// so long; and how often in a row.
const AGAIN: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
const TRIES: u32 = 60;

/// Works on rebuilds.
pub struct Rebuilds {
    db: Db,
    login: Login,
    tenants: Arc<Tenants>,
    clock: Clock,
    kafka: Arc<KafkaConfig>,
    broker: Arc<Broker>,
    storage: Storage,
    housekeeping: Arc<HousekeepingConfig>,
    setting: Setting,
    /// Tokens for one rebuild each that asks the storage modules: of the timer by tenant, or of whoever
    /// asked for the rebuild.
    tokens: Mutex<HashMap<(TenantId, Option<Uuid>), Caller>>,
}

/// How a rebuild left the hands of this instance.
enum Left {
    /// It goes no further.
    Ended(Status, Option<Value>, Option<String>),
    /// Another instance may go on with it, or this one with what is missing.
    Over(Option<String>),
}

impl Rebuilds {
    /// `db` is the writers' pool; each rebuild gets a connection of its own to where `login` leads.
    pub fn new(
        (db, login): (Db, Login),
        tenants: Arc<Tenants>,
        clock: Clock,
        (kafka, broker, storage): (KafkaConfig, Arc<Broker>, Storage),
        housekeeping: HousekeepingConfig,
        setting: Setting,
    ) -> Self {
        let (kafka, housekeeping) = (Arc::new(kafka), Arc::new(housekeeping));
        let tokens = Mutex::default();
        Self { db, login, tenants, clock, kafka, broker, storage, housekeeping, setting, tokens }
    }

    /// Enters a rebuild, for this instance or another to work on.
    pub async fn ask(
        &self,
        db: &Db,
        tenant: &Tenant,
        ask: &Ask,
        asked_by: &str,
    ) -> Result<Uuid, store::Error> {
        let (id, now) = (Uuid::new_v4(), self.clock.now());
        rebuilds::add(db, id, &tenant.id, &ask.told(), asked_by, now).await?;
        info!(tenant = %tenant.id, rebuild.id = %id, asked_by, "rebuild asked for");
        self.look();
        Ok(id)
    }

    /// There may be something to do.
    pub fn look(&self) {
        self.tenants.rebuild_asked.notify_one();
    }

    /// Brings a token with which the storage modules may be asked: for this rebuild, or for the one of the
    /// tenant that has waited longest, if any does (http contract 8.2).
    pub fn bring_token(&self, tenant: TenantId, rebuild: Option<Uuid>, caller: Caller) {
        self.tokens().insert((tenant, rebuild), caller);
        self.look();
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, HashMap<(TenantId, Option<Uuid>), Caller>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on rebuilds that nobody else works on, until `stop`.
    pub async fn work(self: Arc<Self>, stop: CancellationToken) {
        self.tenants.ready().await;
        let tasks = TaskTracker::new();
        let free = Arc::new(Semaphore::new(self.setting.at_once));
        while !stop.is_cancelled() {
            match stop.run_until_cancelled(self.next(&free)).await.flatten() {
                Some((pass, rebuild, hold, caller)) => {
                    let (rebuilds, stop) = (self.clone(), stop.clone());
                    tasks.spawn(async move {
                        rebuilds.run(rebuild, hold, caller, &stop).await;
                        drop(pass);
                    });
                }
                None => {
                    let heard = tokio::time::timeout(WORD, self.tenants.rebuild_asked.notified());
                    let _ = stop.run_until_cancelled(heard).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// The next rebuild, once there is room for it.
    async fn next(
        &self,
        free: &Arc<Semaphore>,
    ) -> Option<(OwnedSemaphorePermit, Rebuild, Hold, Option<Caller>)> {
        let pass = free.clone().acquire_owned().await.ok()?;
        let hold = self.hold();
        match self.take(hold).await {
            Ok(taken) => taken.map(|(rebuild, caller)| (pass, rebuild, hold, caller)),
            Err(error) => {
                warn!(error = %Chain(&error), "rebuilds can't be looked for");
                None
            }
        }
    }

    fn hold(&self) -> Hold {
        let now = self.clock.now();
        Hold { holder: Uuid::new_v4(), now, until: now + HELD }
    }

    async fn take(&self, hold: Hold) -> Result<Option<(Rebuild, Option<Caller>)>, store::Error> {
        let tokens: Vec<_> = self.tokens().keys().cloned().collect();
        for key in tokens {
            let (tenant, id) = &key;
            if let Some(rebuild) = rebuilds::take_with_token(&self.db, tenant, *id, hold).await? {
                return Ok(Some((rebuild, self.tokens().remove(&key))));
            }
            let still_wanted = match id {
                Some(id) => {
                    let found = rebuilds::find(&self.db, tenant, *id).await?;
                    found.is_some_and(|rebuild| rebuild.status == Status::Waiting)
                }
                // The timer comes again.
                None => false,
            };
            if !still_wanted {
                self.tokens().remove(&key);
            }
        }
        Ok(rebuilds::take(&self.db, None, hold).await?.map(|rebuild| (rebuild, None)))
    }

    /// Works on one rebuild, unless another instance does, until it is at rest or `stop`. The storage modules
    /// are asked on behalf of `caller`.
    pub async fn work_on_one(
        self: Arc<Self>,
        (tenant, id): (TenantId, Uuid),
        caller: Caller,
        stop: CancellationToken,
    ) {
        while !stop.is_cancelled() {
            let hold = self.hold();
            let taken = match rebuilds::take(&self.db, Some(id), hold).await {
                Ok(None) => rebuilds::take_with_token(&self.db, &tenant, Some(id), hold).await,
                taken => taken,
            };
            match taken {
                Ok(Some(rebuild)) => self.run(rebuild, hold, Some(caller.clone()), &stop).await,
                Ok(None) => {}
                Err(error) => warn!(error = %Chain(&error), "a rebuild can't be taken"),
            }
            stop.run_until_cancelled(sleep(WORD)).await;
        }
    }

    async fn run(
        &self,
        rebuild: Rebuild,
        hold: Hold,
        caller: Option<Caller>,
        stop: &CancellationToken,
    ) {
        let (id, tenant) = (rebuild.id, rebuild.tenant.clone());
        info!(%tenant, rebuild.id = %id, status = rebuild.status.name(), "working on a rebuild");
        let left = self.go_on(&rebuild, hold, caller, stop).await;
        let stored = match left {
            Ok(Left::Ended(status, summary, problem)) => {
                if status != Status::Done {
                    self.not_filled(&rebuild).await;
                }
                info!(%tenant, rebuild.id = %id, status = status.name(), problem, "rebuild");
                let hold = Hold { now: self.clock.now(), ..hold };
                let (summary, problem) = (summary.as_ref(), problem.as_deref());
                rebuilds::set_status(&self.db, id, hold, status, summary, problem).await
            }
            Ok(Left::Over(problem)) => {
                rebuilds::let_go(&self.db, id, hold.holder, problem.as_deref()).await
            }
            Err(error) => {
                error!(%tenant, rebuild.id = %id, error = %Chain(&error), "rebuild");
                return;
            }
        };
        if let Err(error) = stored {
            // Taken up again when it is held no more: all stages may be repeated.
            warn!(%tenant, rebuild.id = %id, error = %Chain(&error), "end not stored");
        }
    }

    /// What was to fill a tenant has ended without that: what happened before may be missing.
    async fn not_filled(&self, rebuild: &Rebuild) {
        let noted = async {
            let mut tx = store::begin(&self.db).await?;
            let (tenant, lacks_before) = (&rebuild.tenant, Some(rebuild.asked_at));
            tenants::filled(&mut tx, tenant, Some(rebuild.id), lacks_before).await?;
            store::commit(tx).await
        };
        if let Err(error) = noted.await {
            warn!(tenant = %rebuild.tenant, error = %Chain(&error), "tenant still told as filling");
        }
    }

    async fn go_on(
        &self,
        rebuild: &Rebuild,
        hold: Hold,
        caller: Option<Caller>,
        stop: &CancellationToken,
    ) -> Result<Left, Failure> {
        let failed = |why: String| Ok(Left::Ended(Status::Failed, None, Some(why)));
        let ask = match Ask::read(&rebuild.request) {
            Ok(ask) => ask,
            Err(refused) => return failed(refused.to_string()),
        };
        let Some(tenant) = self.tenants.find(&rebuild.tenant).await? else {
            return failed("the tenant is not enabled".to_owned());
        };
        let work = self.work_on(rebuild, ask, (tenant, caller), hold, stop.child_token());
        let mut tries = 0;
        let mut status = rebuild.status;
        loop {
            let done = tokio::select! {
                done = work.go_on(status) => done,
                why = self.keep(&work) => match why {
                    Kept::Cancelled => {
                        work.stop.cancel();
                        // What has been put right stays so, and stays told.
                        work.clear(status != Status::Applying).await?;
                        return Ok(Left::Ended(Status::Cancelled, None, None));
                    }
                    Kept::Gone => {
                        work.clear(false).await?;
                        return Ok(Left::Over(None));
                    }
                    Kept::ByAnother | Kept::Stopping => return Ok(Left::Over(None)),
                },
            };
            match done {
                Ok((Status::Compared, summary)) => {
                    return Ok(Left::Ended(Status::Compared, Some(summary), None));
                }
                Ok((status, summary)) => {
                    work.clear(false).await?;
                    return Ok(Left::Ended(status, Some(summary), None));
                }
                Err(Failure::Token(problem)) => {
                    warn!(tenant = %work.tenant.id, rebuild.id = %work.id, problem,
                        "a rebuild has to wait for another token");
                    return Ok(Left::Over(Some(Failure::Token(problem).to_string())));
                }
                // Nobody asked for what fills a tenant, so nobody would ask again.
                Err(failure) if failure.may_pass() && (tries < TRIES || work.ask.fill) => {
                    tries += 1;
                    warn!(tenant = %work.tenant.id, rebuild.id = %work.id, error = %Chain(&failure),
                        "a rebuild has to wait");
                    if matches!(failure, Failure::Lost) {
                        status = Status::Reading;
                    }
                    let pause = AGAIN.saturating_mul(1 << tries.min(10)).min(LONGEST);
                    stop.run_until_cancelled(sleep(pause)).await;
                }
                Err(failure) => {
                    work.clear(status != Status::Applying).await?;
                    return failed(Chain(&failure).to_string());
                }
            }
        }
    }

    fn work_on(
        &self,
        rebuild: &Rebuild,
        ask: Ask,
        (tenant, caller): (Arc<Tenant>, Option<Caller>),
        hold: Hold,
        stop: CancellationToken,
    ) -> Work {
        let shadow = Arc::new(Schema::shadow(&tenant.id, rebuild.id));
        let settings = PoolSettings {
            name: "mod-patron-blocks rebuild",
            most: 1,
            wait: Duration::from_secs(30),
            statement: STATEMENT,
            suspicious: true,
        };
        Work {
            id: rebuild.id,
            hold,
            ask,
            tenant,
            shadow,
            clock: self.clock.clone(),
            kafka: self.kafka.clone(),
            setting: self.setting,
            pace: Pace::of_percent(self.setting.percent),
            progress: Arc::default(),
            stop,
            broker: self.broker.clone(),
            housekeeping: self.housekeeping.clone(),
            storage: self.storage.clone(),
            caller,
            db: store::pool(&self.login, settings),
        }
    }

    /// Says that a rebuild is worked on, until there is a reason to let go of it.
    async fn keep(&self, work: &Work) -> Kept {
        loop {
            let hold = Hold { until: self.clock.now() + HELD, ..work.hold };
            match rebuilds::hold(&self.db, work.id, hold, &work.progress.told()).await {
                Ok(Held::Still { cancel: true }) => return Kept::Cancelled,
                Ok(Held::Still { cancel: false }) => {}
                Ok(Held::ByAnother) => return Kept::ByAnother,
                Ok(Held::Gone) => return Kept::Gone,
                Err(error) => {
                    warn!(rebuild.id = %work.id, error = %Chain(&error), "rebuild not held");
                }
            }
            if work.stop.run_until_cancelled(sleep(WORD)).await.is_none() {
                return Kept::Stopping;
            }
        }
    }
}

/// Why a rebuild is let go of.
enum Kept {
    Cancelled,
    /// Its tenant was purged.
    Gone,
    /// It was not heard of for too long here.
    ByAnother,
    Stopping,
}
