//! Rebuilds as jobs: asked for at one instance, worked on by any, and taken over where that one has died.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{apply, ask::Ask, compare, pace::Pace, read};
use crate::{
    clock::Clock,
    config::{HousekeepingConfig, KafkaConfig},
    event::stamp::Horizon,
    flow::tenants::{Tenant, Tenants},
    kafka::{self, Broker, reader::ReadError},
    store::{
        self, Db, Login, PoolSettings, Schema, Tx, Verdict, prune,
        rebuilds::{self, Rebuild, Status},
        shadow,
    },
    telemetry::Chain,
};

/// How long a rebuild stays its instance's without a word from it.
const HELD: TimeDelta = TimeDelta::seconds(10);

/// How often that word is given, and rebuilds are looked for that nobody works on.
const WORD: Duration = Duration::from_secs(1);

/// How long the database gives one statement of a rebuild: one compares whole tenants.
const STATEMENT: Duration = Duration::from_secs(15 * 60);

/// How long to wait before what failed for a passing reason is tried again, and how often in a row.
const AGAIN: Duration = Duration::from_secs(2);
const TRIES: u32 = 60;

/// How rebuilds behave beside the desk and ingest.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Share of the time, in percent, that one may keep its connection busy.
    pub percent: u8,
    /// How much of what was read may wait in memory, in bytes.
    pub memory: usize,
    /// How many one instance works on at once, each with a connection of its own.
    pub at_once: usize,
}

/// Why a rebuild goes no further.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The log.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The brokers.
    #[error("could not ask the broker")]
    Broker(#[from] kafka::Error),
    /// Somebody is not there.
    #[error("{0}")]
    Away(&'static str),
    /// It can't be done so.
    #[error("{0}")]
    Refused(String),
    /// What was laid out is gone: the database has crashed.
    #[error("what was read is gone, as after a crash of the database")]
    Lost,
}

impl Failure {
    /// Whether it may go better the next time.
    fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => error.verdict() == Verdict::Retry,
            Self::Read(ReadError::Silent) | Self::Away(_) | Self::Lost => true,
            Self::Broker(_) => true,
            Self::Read(_) | Self::Refused(_) => false,
        }
    }
}

/// How far a rebuild is, for whoever asks.
#[derive(Default)]
pub(super) struct Progress {
    stage: Mutex<Option<(&'static str, u64, Instant)>>,
    done: AtomicU64,
}

impl Progress {
    /// Begins a stage of so many steps.
    pub(super) fn begin(&self, stage: &'static str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        let mut of = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *of = Some((stage, total, Instant::now()));
    }

    /// So many steps are done.
    pub(super) fn add(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }

    /// Stage, steps done of how many, rate a second and seconds left.
    fn told(&self) -> Value {
        let of = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((stage, total, since)) = of else { return json!({}) };
        let done = self.done.load(Ordering::Relaxed);
        let seconds = since.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let mut told =
            json!({ "stage": stage, "done": done, "total": total, "rate": rate.round() });
        if rate > 0.0 {
            told["secondsLeft"] = json!((total.saturating_sub(done) as f64 / rate).ceil());
        }
        told
    }
}

/// What one rebuild works with.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) id: Uuid,
    pub(super) ask: Ask,
    pub(super) tenant: Arc<Tenant>,
    pub(super) shadow: Arc<Schema>,
    pub(super) clock: Clock,
    pub(super) kafka: Arc<KafkaConfig>,
    pub(super) setting: Setting,
    pub(super) pace: Pace,
    pub(super) progress: Arc<Progress>,
    /// Cancelled when the service stops, or somebody ends the rebuild.
    pub(super) stop: CancellationToken,
    broker: Arc<Broker>,
    housekeeping: Arc<HousekeepingConfig>,
    /// One connection of its own.
    db: Db,
}

impl Work {
    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Tx, Failure> {
        Ok(store::begin(&self.db).await?)
    }

    /// The connection of its own.
    pub(super) fn db(&self) -> &Db {
        &self.db
    }

    /// Asks the brokers on a thread that may block.
    pub(super) async fn ask_broker<T: Send + 'static>(
        &self,
        ask: impl FnOnce(Arc<Broker>) -> Result<T, kafka::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let broker = self.broker.clone();
        let asked = tokio::task::spawn_blocking(move || ask(broker)).await;
        Ok(asked.map_err(|_| Failure::Away("a question to the broker ended by itself"))??)
    }

    /// Since when the inbox holds everything; `None`: since ever.
    pub(super) async fn inbox_complete_since(&self) -> Result<Option<Horizon>, Failure> {
        let mut tx = self.begin().await?;
        let was_pruned = prune::was_begun(&mut *tx, &self.tenant.schema).await?;
        Ok(was_pruned.then(|| Horizon::at(self.clock.now() - self.housekeeping.inbox)))
    }

    /// About how many events the inbox holds.
    pub(super) async fn inbox_size(&self) -> Result<u64, Failure> {
        let sizes = prune::sizes(&self.db, &self.tenant.schema).await?;
        Ok(u64::try_from(sizes.inbox).unwrap_or_default())
    }

    async fn go_on(&self, mut status: Status) -> Result<(Status, Value), Failure> {
        loop {
            status = match status {
                Status::Waiting | Status::Reading => {
                    self.enter(Status::Reading).await?;
                    read::read(self).await?;
                    Status::Comparing
                }
                Status::Comparing => {
                    self.enter(Status::Comparing).await?;
                    compare::compare(self).await?;
                    if self.ask.dry_run { Status::Compared } else { Status::Applying }
                }
                Status::Applying => {
                    self.enter(Status::Applying).await?;
                    apply::apply(self).await?;
                    Status::Done
                }
                ended => return Ok((ended, self.summary().await?)),
            };
        }
    }

    async fn enter(&self, status: Status) -> Result<(), Failure> {
        let now = self.clock.now();
        Ok(rebuilds::set_status(&self.db, self.id, status, None, None, now).await?)
    }

    async fn summary(&self) -> Result<Value, Failure> {
        let summary = rebuilds::summary(&self.db, &self.tenant.schema, self.id).await?;
        Ok(super::report::summary(&summary))
    }

    /// Leaves nothing behind but what was found, if that is to stay.
    async fn clear(&self, found_too: bool) -> Result<(), Failure> {
        shadow::remove(&self.db, &self.shadow).await?;
        if found_too {
            let mut tx = self.begin().await?;
            rebuilds::forget(&mut tx, &self.tenant.schema, self.id).await?;
            store::commit(tx).await?;
        }
        Ok(())
    }
}

/// Works on rebuilds.
pub struct Rebuilds {
    db: Db,
    login: Login,
    tenants: Arc<Tenants>,
    clock: Clock,
    kafka: Arc<KafkaConfig>,
    broker: Arc<Broker>,
    housekeeping: Arc<HousekeepingConfig>,
    setting: Setting,
    asked: Notify,
}

/// How a rebuild left the hands of this instance.
enum Left {
    /// It goes no further.
    Ended(Status, Option<Value>, Option<String>),
    /// Another instance may go on with it.
    Over,
}

impl Rebuilds {
    /// `db` is the writers' pool; each rebuild gets a connection of its own to where `login` leads.
    pub fn new(
        (db, login): (Db, Login),
        tenants: Arc<Tenants>,
        clock: Clock,
        (kafka, broker): (KafkaConfig, Arc<Broker>),
        housekeeping: HousekeepingConfig,
        setting: Setting,
    ) -> Self {
        let (kafka, housekeeping) = (Arc::new(kafka), Arc::new(housekeeping));
        let asked = Notify::new();
        Self { db, login, tenants, clock, kafka, broker, housekeeping, setting, asked }
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
        self.asked.notify_one();
        Ok(id)
    }

    /// There may be something to do.
    pub fn look(&self) {
        self.asked.notify_one();
    }

    /// Works on rebuilds that nobody else works on, until `stop`.
    pub async fn work(self: Arc<Self>, stop: CancellationToken) {
        self.tenants.ready().await;
        let tasks = TaskTracker::new();
        let free = Arc::new(tokio::sync::Semaphore::new(self.setting.at_once));
        while !stop.is_cancelled() {
            let look = async {
                let pass = free.clone().acquire_owned().await.ok()?;
                let now = self.clock.now();
                match rebuilds::take(&self.db, now, now + HELD).await {
                    Ok(taken) => taken.map(|rebuild| (pass, rebuild)),
                    Err(error) => {
                        warn!(error = %Chain(&error), "rebuilds can't be looked for");
                        None
                    }
                }
            };
            match stop.run_until_cancelled(look).await.flatten() {
                Some((pass, rebuild)) => {
                    let (rebuilds, stop) = (self.clone(), stop.clone());
                    tasks.spawn(async move {
                        rebuilds.run(rebuild, &stop).await;
                        drop(pass);
                    });
                }
                None => {
                    let heard = tokio::time::timeout(WORD, self.asked.notified());
                    let _ = stop.run_until_cancelled(heard).await;
                }
            }
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Works on one rebuild, unless another instance does, until it is at rest or `stop`.
    pub async fn work_on_one(self: Arc<Self>, id: Uuid, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let now = self.clock.now();
            match rebuilds::take_one(&self.db, id, now, now + HELD).await {
                Ok(Some(rebuild)) => self.run(rebuild, &stop).await,
                Ok(None) => {}
                Err(error) => warn!(error = %Chain(&error), "a rebuild can't be taken"),
            }
            stop.run_until_cancelled(sleep(WORD)).await;
        }
    }

    async fn run(&self, rebuild: Rebuild, stop: &CancellationToken) {
        let (id, tenant) = (rebuild.id, rebuild.tenant.clone());
        info!(%tenant, rebuild.id = %id, status = rebuild.status.name(), "working on a rebuild");
        let now = || self.clock.now();
        match self.go_on(&rebuild, stop).await {
            Ok(Left::Ended(status, summary, problem)) => {
                info!(%tenant, rebuild.id = %id, status = status.name(), problem, "rebuild");
                let (summary, problem) = (summary.as_ref(), problem.as_deref());
                let ended =
                    rebuilds::set_status(&self.db, id, status, summary, problem, now()).await;
                if let Err(error) = ended {
                    // Taken up again when it is held no more: all stages may be repeated.
                    warn!(%tenant, rebuild.id = %id, error = %Chain(&error), "end not stored");
                }
            }
            Ok(Left::Over) => {
                let _ = rebuilds::hold(&self.db, id, now(), &rebuild.progress).await;
            }
            Err(error) => error!(%tenant, rebuild.id = %id, error = %Chain(&error), "rebuild"),
        }
    }

    async fn go_on(&self, rebuild: &Rebuild, stop: &CancellationToken) -> Result<Left, Failure> {
        let failed = |why: String| Ok(Left::Ended(Status::Failed, None, Some(why)));
        let ask = match Ask::read(&rebuild.request) {
            Ok(ask) => ask,
            Err(refused) => return failed(refused.to_string()),
        };
        let Some(tenant) = self.tenants.find(&rebuild.tenant).await? else {
            return failed("the tenant is not enabled".to_owned());
        };
        let work = self.work_on(rebuild, ask, tenant, stop.child_token());
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
                        return Ok(Left::Over);
                    }
                    Kept::Stopping => return Ok(Left::Over),
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
                Err(failure) if failure.may_pass() && tries < TRIES => {
                    tries += 1;
                    warn!(tenant = %work.tenant.id, rebuild.id = %work.id, error = %Chain(&failure),
                        "a rebuild has to wait");
                    if matches!(failure, Failure::Lost) {
                        status = Status::Reading;
                    }
                    stop.run_until_cancelled(sleep(AGAIN)).await;
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
        tenant: Arc<Tenant>,
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
            db: store::pool(&self.login, settings),
        }
    }

    /// Says that a rebuild is worked on, until there is a reason to let go of it.
    async fn keep(&self, work: &Work) -> Kept {
        loop {
            let until: DateTime<Utc> = self.clock.now() + HELD;
            match rebuilds::hold(&self.db, work.id, until, &work.progress.told()).await {
                Ok(Some(rebuild)) if rebuild.cancel => return Kept::Cancelled,
                Ok(Some(_)) => {}
                Ok(None) => return Kept::Gone,
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
    Stopping,
}
