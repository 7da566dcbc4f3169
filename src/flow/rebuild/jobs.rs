//! Rebuilds as jobs: asked for at one instance, worked on by any, and taken over where that one has died.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    ask::{Ask, Asked},
    connections::Shared,
    end::End,
    together,
    tokens::Tokens,
    turn::Turn,
    work::{Failure, HELD, Kept, Setting, WORD, With, Work},
};
use crate::{
    clock::Clock,
    config::KafkaConfig,
    event::TenantId,
    flow::{
        pace::Pace,
        tenants::{Tenant, Tenants},
    },
    kafka::Broker,
    okapi::{Caller, Storage},
    store::{
        self, Db, Login, Schema, Tx, differences,
        rebuilds::{self, Hold, Rebuild, Request, Status},
        shadow,
    },
    telemetry::Chain,
};

/// How many go together with one that was taken.
pub(super) const TOGETHER: i64 = 99;

/// How long to wait before what failed for a passing reason is tried again: twice as long each time, up to
/// so long; and how often in a row.
const AGAIN: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(2);
const TRIES: u32 = 60;

/// Works on rebuilds.
pub struct Rebuilds {
    pub(super) db: Db,
    shared: Shared,
    pub(super) tenants: Arc<Tenants>,
    clock: Clock,
    pub(super) kafka: Arc<KafkaConfig>,
    pub(super) broker: Arc<Broker>,
    storage: Storage,
    pub(super) setting: Setting,
    pub(super) tokens: Tokens,
}

/// A rebuild to be worked on, and those that go together with it.
pub(super) struct Taken {
    pub(super) rebuilds: Vec<Rebuild>,
    pub(super) hold: Hold,
    pub(super) caller: Option<Caller>,
    pub(super) turns: Arc<Semaphore>,
    pub(super) first: Option<OwnedSemaphorePermit>,
    /// Its place among those that are taken.
    pub(super) place: Option<OwnedSemaphorePermit>,
}

/// How a rebuild left the hands of this instance.
enum Left {
    /// It goes no further, or not by itself.
    Ended(End),
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
        setting: Setting,
    ) -> Self {
        let (kafka, tokens) = (Arc::new(kafka), Tokens::default());
        let shared = Shared::new(login, setting.at_once.saturating_add(1));
        Self { db, shared, tenants, clock, kafka, broker, storage, setting, tokens }
    }

    /// Enters a rebuild, for this instance or another to work on.
    pub async fn ask(
        &self,
        db: &Db,
        tenant: &Tenant,
        ask: &Ask,
        asked_by: &str,
    ) -> Result<Uuid, store::Error> {
        let mut tx = store::begin(db).await?;
        let id = self.add(&mut tx, &tenant.id, ask, asked_by, None).await?;
        store::commit(tx).await?;
        self.look();
        Ok(id)
    }

    /// Enters one for each of several tenants, to be worked on together.
    pub async fn ask_all(
        &self,
        db: &Db,
        tenants: &[TenantId],
        ask: &Ask,
        asked_by: &str,
    ) -> Result<Asked, store::Error> {
        let together = Uuid::new_v4().to_string();
        let mut all = Vec::with_capacity(tenants.len());
        let mut tx = store::begin(db).await?;
        for tenant in tenants {
            let id = self.add(&mut tx, tenant, ask, asked_by, Some(&together)).await?;
            all.push((tenant.clone(), id));
        }
        store::commit(tx).await?;
        self.look();
        Ok(Asked { all, together: Some(together) })
    }

    async fn add(
        &self,
        tx: &mut Tx,
        tenant: &TenantId,
        ask: &Ask,
        by: &str,
        together: Option<&str>,
    ) -> Result<Uuid, store::Error> {
        let id = Uuid::new_v4();
        let request = ask.told();
        let request = Request { tenant, request: &request, by, together };
        rebuilds::add(&mut **tx, id, request).await?;
        info!(%tenant, rebuild.id = %id, requested_by = by, "rebuild: requested");
        Ok(id)
    }

    /// There may be something to do.
    pub fn look(&self) {
        self.tenants.rebuild_asked.notify_one();
        self.tokens.more.notify_one();
    }

    /// Brings a token with which the storage modules may be asked: for this rebuild, or for the one of the
    /// tenant that has waited longest, if any does (http contract 8.2).
    pub fn bring_token(&self, tenant: TenantId, rebuild: Option<Uuid>, caller: Caller) {
        if self.setting.at_once == 0 {
            warn!(%tenant, "rebuild: discarded a token, because REBUILD_CONCURRENCY is 0 on this instance");
            return;
        }
        if caller.is_elsewhere {
            let url = &caller.okapi_url;
            warn!(%tenant, okapi.url = url, "rebuild: discarded a token of a gateway other than OKAPI_URL; storage modules are read through OKAPI_URL only");
            return;
        }
        self.tokens.bring((tenant, rebuild), caller);
        self.look();
    }

    pub(super) fn hold() -> Hold {
        Hold { holder: Uuid::new_v4(), time: HELD }
    }

    /// Works on what was asked for here, unless another instance does, until `stop`. The storage modules are
    /// asked on behalf of `caller`.
    pub async fn work_on(self: Arc<Self>, asked: Asked, caller: Caller, stop: CancellationToken) {
        let turns = Arc::new(Semaphore::new(1));
        while !stop.is_cancelled() {
            match self.take_of(&asked, &turns).await {
                Ok(Some(taken)) => {
                    let taken = Taken { caller: Some(caller.clone()), ..taken };
                    self.run_all(taken, &stop).await;
                }
                Ok(None) => {}
                Err(error) => warn!(error = %Chain(&error), "rebuild: could not claim waiting rebuilds; retrying"),
            }
            stop.run_until_cancelled(sleep(WORD)).await;
        }
    }

    async fn take_of(
        &self,
        asked: &Asked,
        turns: &Arc<Semaphore>,
    ) -> Result<Option<Taken>, store::Error> {
        let hold = Self::hold();
        let turns = turns.clone();
        let taken = |rebuilds| {
            Some(Taken { rebuilds, hold, caller: None, turns, first: None, place: None })
        };
        if let Some(together) = &asked.together {
            let all = rebuilds::take_together(&self.db, together, TOGETHER, hold).await?;
            if !all.is_empty() {
                return Ok(taken(all));
            }
        }
        for (tenant, id) in &asked.all {
            let one = match rebuilds::take(&self.db, Some(*id), hold).await? {
                None => rebuilds::take_with_token(&self.db, tenant, Some(*id), hold).await?,
                taken => taken,
            };
            if let Some(one) = one {
                return Ok(taken(vec![one]));
            }
        }
        Ok(None)
    }

    /// Works on what was taken until it is at rest or `stop`. Of several, each has its turn.
    pub(super) async fn run_all(&self, taken: Taken, stop: &CancellationToken) {
        let Taken { mut rebuilds, hold, caller, turns, mut first, place } = taken;
        let connections = self.shared.get();
        let mut with = |member| {
            let turn = Turn::new(&turns, first.take());
            With { caller: caller.clone(), member, turn, connections: connections.clone() }
        };
        if rebuilds.len() == 1
            && let Some(rebuild) = rebuilds.pop()
        {
            self.run(rebuild, hold, with(None), stop).await;
        } else {
            let (members, joining) = together::members(rebuilds.len());
            let runs = rebuilds.into_iter().zip(members);
            let runs = runs
                .map(|(rebuild, member)| self.run(rebuild, hold, with(Some(member)), stop))
                .collect::<Vec<_>>();
            tokio::join!(join_all(runs), together::read(joining));
        }
        drop(place);
    }

    async fn run(&self, rebuild: Rebuild, hold: Hold, with: With, stop: &CancellationToken) {
        let (id, tenant) = (rebuild.id, rebuild.tenant.clone());
        let connections = with.connections.clone();
        info!(%tenant, rebuild.id = %id, status = rebuild.status.name(), "rebuild: claimed; starting or resuming it");
        // Taken again it would panic again, for ever.
        let done = AssertUnwindSafe(self.go_on(&rebuild, hold, with, stop)).catch_unwind().await;
        let done = done.unwrap_or_else(|_| {
            let problem = "it came upon a defect of this version; the service's log says more";
            Ok(Left::Ended(End::failed(problem.to_owned(), false)))
        });
        let stored = match done {
            Ok(Left::Ended(end)) => {
                let (status, problem) = (end.status.name(), end.problem.as_deref());
                info!(%tenant, rebuild.id = %id, status, problem, "rebuild: ended");
                end.store(&connections.work, &rebuild, hold, &self.clock).await
            }
            Ok(Left::Over(problem)) => {
                rebuilds::let_go(&self.db, id, hold, problem.as_deref()).await
            }
            Err(error) => {
                error!(%tenant, rebuild.id = %id, error = %Chain(&error), "rebuild: interrupted by an error; released for another try");
                rebuilds::let_go(&self.db, id, hold, None).await
            }
        };
        if let Err(error) = stored {
            // Taken up again when it is held no more: all stages may be repeated.
            warn!(%tenant, rebuild.id = %id, error = %Chain(&error), "rebuild: could not store the final status");
        }
    }

    async fn go_on(
        &self,
        rebuild: &Rebuild,
        hold: Hold,
        with: With,
        stop: &CancellationToken,
    ) -> Result<Left, Failure> {
        let (tenant, ask) =
            match (self.tenants.find(&rebuild.tenant).await?, Ask::read(&rebuild.request)) {
                (Some(tenant), Ok(ask)) => (tenant, ask),
                (tenant, ask) => {
                    let refused = ask.err().map(|refused| refused.to_string());
                    let why = if tenant.is_none() { None } else { refused };
                    let why = why.unwrap_or_else(|| "the tenant is not enabled".to_owned());
                    return Ok(Left::Ended(End::failed(why, false)));
                }
            };
        let work = self.equip(rebuild, ask, (tenant, with), hold, stop.child_token());
        if rebuild.cancel {
            return Self::cancelled(&work).await;
        }
        let mut tries = 0;
        loop {
            let done = tokio::select! {
                done = work.go_on() => done,
                why = work.keep() => {
                    // What is read for it together with others is of no use any more.
                    work.stop.cancel();
                    match why {
                        Kept::Cancelled => return Self::cancelled(&work).await,
                        Kept::Gone => {
                            shadow::remove(work.db(), &work.shadow).await?;
                            return Ok(Left::Over(None));
                        }
                        Kept::ByAnother | Kept::Stopping => return Ok(Left::Over(None)),
                    }
                }
            };
            match done {
                Ok(end) => return Ok(Left::Ended(end)),
                Err(Failure::NotOurs) => {
                    warn!(tenant = %work.tenant.id, rebuild.id = %work.id,
                        "rebuild: lost the lease; another instance resumes it");
                    work.stop.cancel();
                    return Ok(Left::Over(None));
                }
                Err(Failure::Token(problem)) => {
                    warn!(tenant = %work.tenant.id, rebuild.id = %work.id, problem,
                        "rebuild: the token was rejected; waiting for the token of the next timer call");
                    return Ok(Left::Over(Some(Failure::Token(problem).to_string())));
                }
                // Nobody asked for what fills a tenant, so nobody would ask again.
                Err(failure) if failure.may_pass() && (tries < TRIES || work.ask.fill) => {
                    tries += 1;
                    work.leave();
                    warn!(tenant = %work.tenant.id, rebuild.id = %work.id, error = %Chain(&failure),
                        "rebuild: interrupted by an error; retrying");
                    if matches!(failure, Failure::Lost) {
                        work.set_status(Status::Reading);
                    }
                    let pause = AGAIN.saturating_mul(1 << tries.min(10)).min(LONGEST);
                    stop.run_until_cancelled(sleep(pause)).await;
                }
                Err(failure) => {
                    let forgets = work.status() != Status::Applying;
                    return Ok(Left::Ended(End::failed(Chain(&failure).to_string(), forgets)));
                }
            }
        }
    }

    /// Ends where it stands. What has been put right stays so, and stays told.
    async fn cancelled(work: &Work) -> Result<Left, Failure> {
        work.stop.cancel();
        let has_applied = differences::summary(work.db(), &work.tenant.schema, work.id).await?;
        Ok(Left::Ended(End::cancelled(has_applied.applied == 0)))
    }

    fn equip(
        &self,
        rebuild: &Rebuild,
        ask: Ask,
        (tenant, With { caller, member, turn, connections }): (Arc<Tenant>, With),
        hold: Hold,
        stop: CancellationToken,
    ) -> Work {
        let shadow = Arc::new(Schema::shadow(&tenant.id, rebuild.id));
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
            status: Arc::new(Mutex::new(rebuild.status)),
            caution: Arc::default(),
            stop,
            broker: self.broker.clone(),
            storage: self.storage.clone(),
            caller,
            connections,
            turn: Arc::new(turn),
            member: member.map(Arc::new),
        }
    }
}
