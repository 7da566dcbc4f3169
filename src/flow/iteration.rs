//! Iterations: every patron's summary once, with the blocks that follow, published to a topic that somebody
//! names. Whoever fills itself from it goes on with what is told of changes: of both, the greater number is the
//! later (docs/decisions/0019).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    pace::Pace,
    policy::Policy,
    telling::{Found, envelope, evaluate, headers},
    tenants::{Tenant, Tenants},
};
use crate::{
    blocks::{Blocked, Cause},
    clock,
    figures::figures,
    kafka::{self, Broker, Outgoing, Sender},
    store::{
        self, Db,
        iterations::{self, Iteration, Reached, Request},
        outbox, patrons,
        telling::{self, Turn},
        tenants,
    },
    telemetry::Chain,
};

/// How long an iteration stays its instance's without a word from it.
const HELD: Duration = Duration::from_secs(15);

/// How often that word is given.
const WORD: Duration = Duration::from_secs(3);

/// How often iterations are looked for that nobody works on.
const LOOK: Duration = Duration::from_secs(1);

/// How long to let be one that has failed for a passing reason. Others have its place meanwhile.
const AGAIN: Duration = Duration::from_secs(3);

/// How often it is looked for a topic that is named, and how long to wait in between.
const LOOKS: u32 = 5;
const GLANCE: Duration = Duration::from_millis(200);

/// Iterations that an instance works on at once; others wait, or are another instance's.
const AT_ONCE: usize = 4;

/// Summaries that are read at once.
const PAGE: i64 = 500;

/// Nothing that is read takes so long: a connection that has fallen silent is given up.
const LONGEST: Duration = Duration::from_secs(60);

/// Share of the time, in percent, that all of them together may keep the database busy.
const PERCENT: u8 = 50;

/// Publishes summaries.
pub struct Iterations {
    work: Db,
    db: Db,
    tenants: Arc<Tenants>,
    broker: Arc<Broker>,
    sender: Arc<Sender>,
    /// Whether others are told of blocks.
    telling: bool,
    pace: Pace,
    asked: Notify,
}

/// Why an iteration goes no further.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker.
    #[error("could not publish")]
    Broker(#[source] kafka::Error),
    /// A message that no broker takes.
    #[error("the summary of patron {0} is larger than a message may be")]
    TooLarge(Uuid),
    /// It is not ours any more, or was cancelled.
    #[error("it has ended, or another instance goes on with it")]
    NotOurs,
    /// The tenant was disabled.
    #[error("the tenant is not enabled")]
    Disabled,
}

/// How a run ends.
enum End {
    Done,
    Stopped,
}

impl Iterations {
    /// Looks for them over the pool for work; `db` is for what they read alone.
    pub fn new(
        (work, db): (Db, Db),
        tenants: Arc<Tenants>,
        broker: Arc<Broker>,
        sender: Arc<Sender>,
        telling: bool,
    ) -> Self {
        let (pace, asked) = (Pace::of_percent(PERCENT), Notify::new());
        Self { work, db, tenants, broker, sender, telling, pace, asked }
    }

    /// Enters an iteration, for this instance or another to work on.
    pub async fn ask(&self, db: &Db, asked: Request<'_>) -> Result<Iteration, store::Error> {
        let entered = iterations::add(db, Uuid::new_v4(), asked).await?;
        info!(tenant = %entered.tenant, iteration.id = %entered.id, kafka.topic = entered.topic,
            "summary export: requested");
        self.asked.notify_one();
        Ok(entered)
    }

    /// Whether the log has this topic; `None` where nobody can tell. One that was only just made is told of by the
    /// brokers a moment later.
    pub async fn has_topic(&self, name: &str) -> Option<bool> {
        for _ in 0..LOOKS {
            let (broker, name) = (self.broker.clone(), name.to_owned());
            let ask = move || broker.topics().map(|names| names.contains(&name));
            if tokio::task::spawn_blocking(ask).await.ok()?.ok()? {
                return Some(true);
            }
            sleep(GLANCE).await;
        }
        Some(false)
    }

    /// Works on iterations that nobody else works on, until `stop`.
    pub async fn work(self: Arc<Self>, stop: CancellationToken) {
        stop.run_until_cancelled(self.tenants.ready()).await;
        let (tasks, room) = (TaskTracker::new(), Arc::new(Semaphore::new(AT_ONCE)));
        while !stop.is_cancelled() {
            let Some(Ok(pass)) = stop.run_until_cancelled(room.clone().acquire_owned()).await
            else {
                break;
            };
            let holder = Uuid::new_v4();
            let taken = store::within(HELD, iterations::take(&self.work, holder, HELD));
            match taken.await {
                Ok(Some(iteration)) => {
                    let (iterations, stop) = (self.clone(), stop.clone());
                    tasks.spawn(async move {
                        iterations.run(&iteration, holder, &stop).await;
                        drop(pass);
                    });
                    continue;
                }
                Ok(None) => {}
                Err(error) => warn!(error = %Chain(&error), "summary export: could not claim a waiting export; retrying"),
            }
            drop(pass);
            stop.run_until_cancelled(timeout(LOOK, self.asked.notified())).await;
        }
        tasks.close();
        tasks.wait().await;
    }

    /// Works on one until it has ended or `stop`, or has to be let be.
    async fn run(&self, iteration: &Iteration, holder: Uuid, stop: &CancellationToken) {
        let (id, tenant) = (iteration.id, &iteration.tenant);
        let left = tokio::select! {
            left = self.publish(iteration, holder, stop) => left,
            () = self.keep(id, holder) => Err(Failure::NotOurs),
        };
        let ended = match left {
            Ok(End::Stopped) => iterations::let_go(&self.work, id, holder, Duration::ZERO).await,
            Ok(End::Done) => {
                info!(%tenant, iteration.id = %id, "summary export: finished");
                iterations::end(&self.work, id, holder, None).await
            }
            Err(Failure::NotOurs) => {
                info!(%tenant, iteration.id = %id, "summary export: stopped, because the lease was lost or the export was cancelled");
                return;
            }
            Err(failure @ (Failure::TooLarge(_) | Failure::Disabled)) => {
                let told = Chain(&failure).to_string();
                warn!(%tenant, iteration.id = %id, error = told, "summary export: failed");
                iterations::end(&self.work, id, holder, Some(&told)).await
            }
            Err(failure) => {
                warn!(%tenant, iteration.id = %id, error = %Chain(&failure), "summary export: interrupted by an error; retrying");
                iterations::let_go(&self.work, id, holder, AGAIN).await
            }
        };
        if let Err(error) = ended {
            // Held no longer, it is gone on with.
            warn!(%tenant, iteration.id = %id, error = %Chain(&error), "summary export: could not store the final status");
        }
    }

    /// Says that one is worked on, until that is not so any more.
    async fn keep(&self, id: Uuid, holder: Uuid) {
        loop {
            sleep(WORD).await;
            let held = store::within(HELD, iterations::hold(&self.work, id, holder, HELD));
            match held.await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => {
                    warn!(iteration.id = %id, error = %Chain(&error), "summary export: could not renew the lease")
                }
            }
        }
    }

    async fn publish(
        &self,
        iteration: &Iteration,
        holder: Uuid,
        stop: &CancellationToken,
    ) -> Result<End, Failure> {
        let tenant = self.tenants.find(&iteration.tenant).await?.ok_or(Failure::Disabled)?;
        let group = iteration.patron_group.as_deref();
        let mut tx = store::begin(&self.db).await?;
        let changed = match iteration.changed_since {
            Some(time) => {
                Some(iterations::changed_since(&mut tx, &tenant.schema, group, time).await?)
            }
            None => None,
        };
        let total = match &changed {
            Some(users) => users.len() as i64,
            None => iterations::count(&mut *tx, &tenant.schema, group).await?,
        };
        drop(tx);
        let (published, last_user) = (iteration.published, iteration.last_user);
        let reached = &mut Reached { total: Some(total), published, last_user };
        loop {
            if !iterations::reach(&self.work, iteration.id, holder, HELD, *reached).await? {
                return Err(Failure::NotOurs);
            }
            if stop.is_cancelled() {
                return Ok(End::Stopped);
            }
            let began = Instant::now();
            let after = reached.last_user;
            let page = self.page((iteration, holder), &tenant, changed.as_deref(), after);
            let page = store::within(LONGEST, page).await?;
            if page.is_empty() {
                return Ok(End::Done);
            }
            self.pace.keep(began).await;
            let sent = self.send(iteration, &page, reached).await;
            if sent.is_err() {
                iterations::reach(&self.work, iteration.id, holder, HELD, *reached).await?;
            }
            sent?;
        }
    }

    /// The next summaries, as they are published.
    async fn page(
        &self,
        (iteration, holder): (&Iteration, Uuid),
        tenant: &Tenant,
        changed: Option<&[Uuid]>,
        after: Option<Uuid>,
    ) -> Result<Vec<Published>, Failure> {
        let schema = &tenant.schema;
        let mut tx = store::begin(&self.db).await?;
        if tenants::enabled_since(&mut *tx, &tenant.id).await? != Some(tenant.since) {
            return Err(Failure::Disabled);
        }
        // All that was told so far has a smaller number, and all that will be told a greater one.
        telling::wait_for_turn(&mut tx, &tenant.id, Turn::Tell).await?;
        let number = outbox::numbers(&mut *tx, schema, 1).await?;
        let number = number.first().copied().unwrap_or_default();
        // All instances evaluate by one clock.
        let now = store::now(&mut *tx).await?;
        let after = after.unwrap_or(Uuid::nil());
        let summaries = match changed {
            None => {
                let group = iteration.patron_group.as_deref();
                iterations::page(&mut *tx, schema, group, after, PAGE).await?
            }
            Some(users) => {
                let begin = users.partition_point(|user| *user <= after);
                let end = users.len().min(begin + PAGE as usize);
                iterations::these(&mut *tx, schema, &users[begin..end]).await?
            }
        };
        let users: Vec<Uuid> = summaries.iter().map(|(user, _)| *user).collect();
        let states = patrons::states(&mut *tx, schema, &users, now).await?;
        let policy = Policy::load(&mut tx, schema).await?;
        let mut told = telling::last(&mut tx, schema, &users).await?;
        if !iterations::is_ours(&mut tx, iteration.id, holder).await? {
            return Err(Failure::NotOurs);
        }
        // Not dropped: a number that was given has to stay so, whatever happens to the database.
        store::commit(tx).await?;
        let mut published = Vec::with_capacity(users.len());
        for (user, summary) in summaries {
            let state = states.get(&user).map(|(state, _)| state);
            let mut members = vec![("jobId", json!(iteration.id))];
            // As it is read over REST; null where nothing is open.
            let summary = summary.and_then(|text| serde_json::from_str(&text).ok());
            members.push(("summary", summary.unwrap_or(Value::Null)));
            // What others are told is told here as well: what has changed since comes with a greater number. Where
            // nobody knows the group, nothing is said of blocks.
            let last = told.remove(&user).and_then(|last| last.blocked);
            match evaluate(state, &policy) {
                Found::Findings(_) if self.telling => {
                    members.push(("automatedPatronBlocks", json!(last)));
                }
                Found::Findings(findings) => {
                    let blocked = Blocked::of(user, &findings, Cause::Iteration);
                    members.push(("automatedPatronBlocks", json!(blocked)));
                }
                Found::GroupUnknown => {
                    let last = last.map(|last| ("automatedPatronBlocks", json!(last)));
                    members.extend(last);
                }
            }
            // The same message, should it be published again.
            let id = Uuid::new_v5(&iteration.id, user.as_bytes());
            let (what, tenant) = (&iteration.event_type, &tenant.id);
            let payload = envelope(id, what, tenant, number, now, members);
            published.push(Published { user, id, payload });
        }
        Ok(published)
    }

    async fn send(
        &self,
        iteration: &Iteration,
        page: &[Published],
        reached: &mut Reached,
    ) -> Result<(), Failure> {
        let outgoing = page.iter().map(|published| Outgoing {
            topic: &iteration.topic,
            key: published.user.to_string(),
            headers: headers(&iteration.tenant, published.id),
            payload: &published.payload,
        });
        let outgoing: Vec<_> = outgoing.collect();
        let (acknowledged, outcome) = self.sender.send(&outgoing).await;
        if let Some(last) = page[..acknowledged].last() {
            reached.last_user = Some(last.user);
            reached.published += acknowledged as i64;
            figures().published.increment(acknowledged as u64);
        }
        outcome.map_err(|error| match page.get(acknowledged) {
            Some(next) if kafka::is_too_large(&error) => Failure::TooLarge(next.user),
            _ => Failure::Broker(error),
        })
    }
}

/// A summary as it is published.
struct Published {
    user: Uuid,
    id: Uuid,
    payload: String,
}

/// An iteration as it is told of.
pub fn told(iteration: &Iteration, now: DateTime<Utc>) -> Value {
    let Iteration { id, topic, event_type, status, published, total, .. } = iteration;
    let mut told = json!({
        "id": id,
        "jobParams": { "topicName": topic, "eventType": event_type },
        "status": status,
        "askedBy": iteration.asked_by,
        "submittedDate": clock::written(iteration.asked_at),
        "numberOfRecordsPublished": published,
    });
    if let Some(group) = &iteration.patron_group {
        told["jobParams"]["patronGroupId"] = json!(group);
    }
    if let Some(time) = iteration.changed_since {
        told["jobParams"]["changedSince"] = json!(clock::written(time));
    }
    if let Some(total) = total {
        told["totalRecords"] = json!(total);
    }
    if let Some(begun) = iteration.begun_at {
        told["begunDate"] = json!(clock::written(begun));
        let took = iteration.ended_at.unwrap_or(now) - begun;
        let seconds = took.as_seconds_f64();
        if seconds > 0.0 {
            told["recordsPerSecond"] = json!((*published as f64 / seconds).round());
        }
    }
    if let Some(ended) = iteration.ended_at {
        told["endedDate"] = json!(clock::written(ended));
    }
    if let Some(error) = &iteration.error {
        told["error"] = json!(error);
    }
    told
}
