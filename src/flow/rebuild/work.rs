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
    ask::{Ask, From, Source},
    caution::{self, Bound},
    compare,
    connections::Connections,
    end::End,
    read,
    together::Member,
    turn::Turn,
};
use crate::{
    clock::Clock,
    config::KafkaConfig,
    flow::{pace::Pace, tenants::Tenant},
    kafka::{self, Broker, reader::ReadError},
    okapi::{Caller, Storage},
    patron::Scope,
    store::{
        self, Db, Schema, Tx, Verdict, differences,
        inbox::{self, Extent},
        prune,
        rebuilds::{self, Held, Hold, Status},
        tenants,
    },
    telemetry::Chain,
};

/// How long a rebuild stays its instance's without a word from it.
pub(super) const HELD: Duration = Duration::from_secs(10);

/// How often that word is given, and rebuilds are looked for that nobody works on.
pub(super) const WORD: Duration = Duration::from_secs(1);

/// How rebuilds behave beside the desk and ingest.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    /// Share of the time, in percent, that one may keep its connection busy.
    pub percent: u8,
    /// How much of what was read may wait in memory, in bytes.
    pub memory: usize,
    /// How many one instance works on at once, each with a connection of its own.
    pub at_once: usize,
    /// How long one page of the storage modules may take, with all tries.
    pub page_patience: Duration,
    /// What a rebuild may close without an operator.
    pub closes: Bound,
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
    /// The storage modules want another token: whoever brings one has it go on.
    #[error("{0}; it goes on with the next call of the timer")]
    Token(String),
    /// Nothing of what was just done counts.
    #[error("another instance works on it by now")]
    NotOurs,
    /// What was laid out is gone: the database has crashed.
    #[error("what was read is gone, as after a crash of the database")]
    Lost,
}

impl Failure {
    /// A thread ended by itself. Where it panicked it would do so again.
    pub(super) fn of_thread(end: &tokio::task::JoinError, what: &str) -> Self {
        if end.is_panic() {
            Self::Refused(format!("{what} came upon a defect of this version; its log says more"))
        } else {
            Self::Away("a thread was ended")
        }
    }

    /// Whether it may go better the next time.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Store(error) => error.verdict() == Verdict::Retry,
            Self::Read(ReadError::Silent | ReadError::Astray) | Self::Away(_) | Self::Lost => true,
            Self::Broker(_) => true,
            Self::Read(_) | Self::Refused(_) | Self::Token(_) | Self::NotOurs => false,
        }
    }
}

/// How far a rebuild is, for whoever asks.
#[derive(Default)]
pub(super) struct Progress {
    stage: Mutex<Option<(&'static str, u64, Instant)>>,
    done: AtomicU64,
    begun: Notify,
}

impl Progress {
    /// Begins a stage of so many steps.
    pub(super) fn begin(&self, stage: &'static str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        let mut of = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *of = Some((stage, total, Instant::now()));
        self.begun.notify_one();
    }

    /// So many steps are done.
    pub(super) fn add(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }

    /// Stage, steps done of how many, rate a second and seconds left.
    pub(super) fn told(&self) -> Value {
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

/// With what a rebuild is worked on.
pub(super) struct With {
    pub(super) caller: Option<Caller>,
    pub(super) member: Option<Member>,
    pub(super) turn: Turn,
    pub(super) connections: Arc<Connections>,
}

/// What one rebuild works with.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) id: Uuid,
    pub(super) hold: Hold,
    pub(super) ask: Ask,
    pub(super) tenant: Arc<Tenant>,
    pub(super) shadow: Arc<Schema>,
    pub(super) clock: Clock,
    pub(super) kafka: Arc<KafkaConfig>,
    pub(super) setting: Setting,
    pub(super) pace: Pace,
    pub(super) progress: Arc<Progress>,
    pub(super) status: Arc<Mutex<Status>>,
    /// Why it has to wait for an operator.
    pub(super) caution: Arc<Mutex<Option<String>>>,
    /// Cancelled when the service stops, or somebody ends the rebuild.
    pub(super) stop: CancellationToken,
    pub(super) broker: Arc<Broker>,
    pub(super) storage: Storage,
    /// On whose behalf the storage modules are asked. Kept in memory alone.
    pub(super) caller: Option<Caller>,
    /// Connections of all rebuilds.
    pub(super) connections: Arc<Connections>,
    /// Whether it may work at the moment.
    pub(super) turn: Arc<Turn>,
    /// Where it is worked on with others.
    pub(super) member: Option<Arc<Member>>,
}

impl Work {
    /// Begins a transaction.
    pub(super) async fn begin(&self) -> Result<Tx, Failure> {
        Ok(store::begin(self.db()).await?)
    }

    /// The connections to work with.
    pub(super) fn db(&self) -> &Db {
        &self.connections.work
    }

    /// Asks the brokers on a thread that may block.
    pub(super) async fn ask_broker<T: Send + 'static>(
        &self,
        ask: impl FnOnce(Arc<Broker>) -> Result<T, kafka::Error> + Send + 'static,
    ) -> Result<T, Failure> {
        let broker = self.broker.clone();
        let asked = tokio::task::spawn_blocking(move || ask(broker)).await;
        Ok(asked.map_err(|end| Failure::of_thread(&end, "a question to the broker"))??)
    }

    /// Commits, if it is still ours: whoever was frozen in the middle may have lost it meanwhile. All writes of a
    /// rebuild go through here.
    pub(super) async fn commit(&self, mut tx: Tx) -> Result<(), Failure> {
        if !rebuilds::is_ours(&mut tx, self.id, self.hold).await? {
            return Err(Failure::NotOurs);
        }
        Ok(store::commit(tx).await?)
    }

    /// How much the inbox has.
    pub(super) async fn inbox_extent(&self, tx: &mut Tx) -> Result<Extent, Failure> {
        let extent = inbox::extent(tx, &self.tenant.schema, &self.tenant.id).await?;
        extent.ok_or_else(|| Failure::Refused("the tenant is not enabled".to_owned()))
    }

    /// About how many events the inbox holds.
    pub(super) async fn inbox_size(&self) -> Result<u64, Failure> {
        let sizes = prune::sizes(self.db(), &self.tenant.schema).await?;
        Ok(u64::try_from(sizes.inbox).unwrap_or_default())
    }

    /// Has nobody wait for it.
    pub(super) fn leave(&self) {
        self.turn.leave();
        if let Some(member) = &self.member {
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
    fn caution(&self) -> Option<String> {
        self.caution.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_caution(&self, caution: Option<String>) {
        *self.caution.lock().unwrap_or_else(PoisonError::into_inner) = caution;
    }

    /// Goes from stage to stage, up to its end or to where it has to wait for an operator.
    pub(super) async fn go_on(&self) -> Result<End, Failure> {
        self.turn.take().await;
        loop {
            let next = match self.status() {
                Status::Waiting | Status::Reading => {
                    self.enter(Status::Reading).await?;
                    read::read(self).await?;
                    Status::Comparing
                }
                Status::Comparing => {
                    self.enter(Status::Comparing).await?;
                    compare::compare(self).await?;
                    let caution = caution::look(self).await?;
                    let waits = self.ask.dry_run || caution.is_some();
                    self.set_caution(caution);
                    if waits { Status::Compared } else { Status::Applying }
                }
                Status::Applying => {
                    self.enter(Status::Applying).await?;
                    apply::apply(self).await?;
                    self.note_knowledge().await?;
                    Status::Done
                }
                ended => {
                    let summary = self.summary().await?;
                    return Ok(End::with(ended, summary, self.caution()));
                }
            };
            self.set_status(next);
        }
    }

    /// Whoever has read everything there is of a tenant knows whether something is missing.
    async fn note_knowledge(&self) -> Result<(), Failure> {
        let mut tx = self.begin().await?;
        // After a crash of the database nothing of what was read is there, nor whether it was all.
        let lacks_before = compare::whole(&mut tx, self).await?.lacks_before;
        let passed_over = rebuilds::passed_over(&mut *tx, self.id).await?;
        let Ask { source, ref from, scope, covered_by_inbox, fill, .. } = self.ask;
        let is_all = match source {
            Source::Storage => passed_over == 0,
            Source::Topics => *from == From::Earliest && !covered_by_inbox,
            Source::Inbox => false,
        };
        if is_all && scope == Scope::Tenant {
            let by = fill.then_some(self.id);
            tenants::filled(&mut tx, &self.tenant.id, by, lacks_before).await?;
            self.commit(tx).await?;
        }
        Ok(())
    }

    async fn enter(&self, status: Status) -> Result<(), Failure> {
        Ok(rebuilds::set_status(self.db(), self.id, self.hold, status, None, None).await?)
    }

    async fn summary(&self) -> Result<Value, Failure> {
        let summary = differences::summary(self.db(), &self.tenant.schema, self.id).await?;
        let mut tx = self.begin().await?;
        let groups = compare::whole(&mut tx, self).await?.groups;
        let passed_over = rebuilds::passed_over(&mut *tx, self.id).await?;
        Ok(super::report::summary(&summary, groups, passed_over))
    }

    /// Says that a rebuild is worked on, until there is a reason to let go of it.
    pub(super) async fn keep(&self) -> Kept {
        let mut said = Instant::now();
        loop {
            let progress = self.progress.told();
            // It counts from when it was said, not from when it was heard that it was.
            let now = Instant::now();
            let left = HELD.saturating_sub(said.elapsed());
            match timeout(
                left.min(HELD / 2),
                rebuilds::hold(&self.connections.claims, self.id, self.hold, &progress),
            )
            .await
            {
                Ok(Ok(Held::Still { cancel: true })) => return Kept::Cancelled,
                Ok(Ok(Held::Still { cancel: false })) => said = now,
                Ok(Ok(Held::ByAnother)) => return Kept::ByAnother,
                Ok(Ok(Held::Gone)) => return Kept::Gone,
                Ok(Err(error)) => {
                    warn!(rebuild.id = %self.id, error = %Chain(&error), "rebuild: could not renew the lease");
                }
                Err(_) => warn!(rebuild.id = %self.id, "rebuild: renewing the lease timed out"),
            }
            // By then another instance may have taken it.
            if said.elapsed() >= HELD {
                return Kept::ByAnother;
            }
            // A stage that begins is told at once: some are short.
            let next = timeout(WORD, self.progress.begun.notified());
            if self.stop.run_until_cancelled(next).await.is_none() {
                return Kept::Stopping;
            }
        }
    }
}

/// Why a rebuild is let go of.
pub(super) enum Kept {
    Cancelled,
    /// Its tenant was purged.
    Gone,
    /// It was not heard of for too long here.
    ByAnother,
    Stopping,
}
