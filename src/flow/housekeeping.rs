//! Housekeeping: what is old goes, a few blocks of a table at a time, each in a short transaction of its
//! own, so that ingest hardly notices (docs/decisions/0010).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::tenants::{Tenant, Tenants};
use crate::{
    clock::Clock,
    config::{HousekeepingConfig, KafkaConfig},
    event::{TenantId, stamp::Horizon},
    figures::figures,
    kafka::retention::{self, Held},
    store::{
        self, Db, Schema, differences, outbox,
        prune::{self, Blocks, Doomed},
        rebuilds, shadow, tenants,
    },
    telemetry::Chain,
};

/// What is kept beyond the time for which topics hold a record: events may be published late, and the
/// clocks of brokers and instances differ.
const MARGIN: TimeDelta = TimeDelta::days(7);

/// How far apart the clocks of this machine and of the database may be.
const CLOCKS: TimeDelta = TimeDelta::hours(1);

/// Blocks of a table that one step goes through: 2 MiB.
const STEP: i64 = 256;

/// Messages that were sent, in one step.
const MESSAGES: i64 = 2000;

/// How many times as long as a step took it rests after it: what is left of the database is ingest's.
const REST: u32 = 4;

/// How long the tenant's writers may be kept waiting while how far is pruned is recorded.
const LOCK: Duration = Duration::from_secs(2);

/// A step that takes longer is given up: its connection may have died without a word.
const STEP_MOST: Duration = Duration::from_secs(30);

/// Which share of the bytes that dead letters may take may come on top before they are looked through.
const BEYOND_SHARE: i64 = 8;

/// How long after the start the first round begins, at most.
const FIRST: Duration = Duration::from_secs(60);

/// Instants before which things are old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Events, and loans and fees/fines that ended; `None` while that can't be told, or where a topic
    /// holds its records for ever.
    pub past: Option<Past>,
    /// Dead letters.
    pub dead_letters: DateTime<Utc>,
}

/// The limits that depend on how long topics hold their records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// Events.
    pub inbox: DateTime<Utc>,
    /// Loans and fees/fines that ended.
    pub tombstones: DateTime<Utc>,
}

impl Limits {
    /// The limits at `now`. What may be read again must not be forgotten: what topics hold, and, for
    /// tombstones, a dead letter that is tried again.
    pub fn at(now: DateTime<Utc>, config: &HousekeepingConfig, held: Option<&Held>) -> Self {
        let past = match held {
            None | Some(Held::ForEver { .. }) => None,
            Some(Held::For(time)) => {
                let inbox = config.inbox.max(*time + MARGIN);
                let tombstones = config.tombstones.max(config.dead_letters).max(inbox);
                Some(Past { inbox: now - inbox, tombstones: now - tombstones })
            }
        };
        Self { past, dead_letters: now - config.dead_letters }
    }
}

/// How many rows went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gone {
    /// Of the inbox.
    pub inbox: u64,
    /// Of loans.
    pub loans: u64,
    /// Of fees/fines.
    pub fees_fines: u64,
    /// Of dead letters.
    pub dead_letters: u64,
}

/// Why housekeeping of a tenant ended before it was done.
#[derive(Debug, thiserror::Error)]
pub enum Unfinished {
    /// The service stops.
    #[error("the service stops")]
    Stopped,
    /// The tenant is not enabled any more.
    #[error("the tenant is not enabled")]
    Disabled,
    /// The database.
    #[error(transparent)]
    Failed(#[from] store::Error),
}

/// Whose rows: a tenant's, or those of nobody that can be told.
#[derive(Clone, Copy)]
struct Owner<'a> {
    tenant: Option<&'a TenantId>,
    schema: &'a Schema,
}

/// Removes what is old.
pub struct Housekeeping {
    db: Db,
    tenants: Arc<Tenants>,
    clock: Clock,
    config: HousekeepingConfig,
}

impl Housekeeping {
    /// `db` is the pool for work; two of its connections are used at a time at most, each for a step.
    pub fn new(db: Db, tenants: Arc<Tenants>, clock: Clock, config: HousekeepingConfig) -> Self {
        Self { db, tenants, clock, config }
    }

    /// Goes through all tenants again and again until `stop`, and through dead letters whenever many bytes of
    /// them came.
    pub async fn keep(self, kafka: KafkaConfig, stop: CancellationToken) {
        tokio::join!(self.rounds(&kafka, &stop), self.watch_letters(&stop));
    }

    async fn rounds(&self, kafka: &KafkaConfig, stop: &CancellationToken) {
        let mut pause = FIRST.min(self.config.interval);
        let mut known = None;
        while stop.run_until_cancelled(sleep(pause)).await.is_some() {
            pause = self.config.interval;
            let asked = stop.run_until_cancelled(retention::longest(kafka)).await;
            let Some(asked) = asked else { return };
            let held = asked.map_err(|error| Chain(&error).to_string());
            tell(&held, known.as_ref() == Some(&held));
            self.round(held.as_ref().ok(), stop).await;
            known = Some(held);
        }
    }

    /// So dead letters take little more than they may at any time, not only after a round.
    async fn watch_letters(&self, stop: &CancellationToken) {
        let share =
            usize::try_from(self.config.dead_letters_bytes / BEYOND_SHARE).unwrap_or(usize::MAX);
        while let Some(owner) = stop.run_until_cancelled(self.tenants.parked.beyond(share)).await {
            let mut gone = Gone::default();
            let done = self.letters_of(owner.as_ref(), &mut gone, stop).await;
            report(owner.as_ref(), gone, done.as_ref().err());
        }
    }

    async fn letters_of(
        &self,
        owner: Option<&TenantId>,
        gone: &mut Gone,
        stop: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let Some(now) = self.now().await else { return Ok(()) };
        let limits = Limits::at(now, &self.config, None);
        let schema = match owner {
            None => Arc::new(Schema::module()),
            Some(id) => match self.tenants.find(id).await? {
                Some(tenant) => tenant.schema.clone(),
                None => return Err(Unfinished::Disabled),
            },
        };
        self.dead_letters(Owner { tenant: owner, schema: &schema }, limits, gone, stop).await
    }

    /// Goes once through all enabled tenants that no instance went through within the interval.
    pub async fn round(&self, held: Option<&Held>, stop: &CancellationToken) {
        let Some(now) = self.now().await else { return };
        self.tenants.parked.clear();
        for tenant in self.tenants.all() {
            let ours = self.claim(&tenant).await;
            if !ours.unwrap_or_else(|error| {
                warn!(tenant = %tenant.id, error = %Chain(&error), "housekeeping: could not start for a tenant; retrying at the next interval");
                false
            }) {
                continue;
            }
            let limits = Limits::at(now, &self.config, held);
            self.tidy(&tenant, limits, stop).await;
        }
        let schema = &Schema::module();
        let mut gone = Gone::default();
        let limits = Limits::at(now, &self.config, held);
        let done = self.dead_letters(Owner { tenant: None, schema }, limits, &mut gone, stop).await;
        report(None, gone, done.as_ref().err());
    }

    /// The time by the database's clock, if this machine's witnesses it: what a wrong clock forgets does not come
    /// back.
    async fn now(&self) -> Option<DateTime<Utc>> {
        let now = match store::now(&self.db).await {
            Ok(now) => now,
            Err(error) => {
                warn!(error = %Chain(&error), "housekeeping: could not start; retrying at the next interval");
                return None;
            }
        };
        let ahead = self.clock.now() - now;
        if ahead.abs() > CLOCKS {
            error!(
                seconds = ahead.num_seconds(),
                "housekeeping: the clocks of this host and of the database differ too much; no row is pruned"
            );
            return None;
        }
        Some(now)
    }

    async fn claim(&self, tenant: &Tenant) -> Result<bool, store::Error> {
        prune::claim(&self.db, &tenant.schema, self.config.interval).await
    }

    /// Removes what is older than `limits` and tells how many rows went. It may be broken off anywhere
    /// and done again, also by several at once.
    pub async fn tidy(&self, tenant: &Tenant, limits: Limits, stop: &CancellationToken) -> Gone {
        let mut gone = Gone::default();
        let done = self.tidy_all(tenant, limits, &mut gone, stop).await;
        report(Some(&tenant.id), gone, done.as_ref().err());
        gone
    }

    async fn tidy_all(
        &self,
        tenant: &Tenant,
        limits: Limits,
        gone: &mut Gone,
        stop: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let owner = Owner { tenant: Some(&tenant.id), schema: &tenant.schema };
        self.leftovers(tenant).await?;
        self.sent_messages(tenant, stop).await?;
        self.dead_letters(owner, limits, gone, stop).await?;
        let Some(past) = limits.past else { return Ok(()) };
        self.walk(owner, Doomed::Inbox(past.inbox), &mut gone.inbox, stop).await?;
        let before = Horizon::at(past.tombstones);
        self.record(tenant, before).await?;
        self.walk(owner, Doomed::Loans(before), &mut gone.loans, stop).await?;
        self.walk(owner, Doomed::FeesFines(before), &mut gone.fees_fines, stop).await
    }

    /// What rebuilds have left that nobody works on or knows of any more.
    async fn leftovers(&self, tenant: &Tenant) -> Result<(), store::Error> {
        rebuilds::end_forgotten(&self.db).await?;
        for rebuild in shadow::orphans(&self.db, &tenant.schema).await? {
            info!(tenant = %tenant.id, "housekeeping: removed the shadow tables of an ended rebuild");
            shadow::remove(&self.db, &Schema::shadow(&tenant.id, rebuild)).await?;
        }
        let mut tx = store::begin(&self.db).await?;
        differences::forget_lost(&mut tx, &tenant.schema).await?;
        store::commit(tx).await
    }

    /// Messages that were sent long ago, oldest first.
    async fn sent_messages(
        &self,
        tenant: &Tenant,
        stop: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let before = store::now(&self.db).await? - self.config.messages;
        loop {
            let began = Instant::now();
            if outbox::prune(&self.db, &tenant.schema, before, MESSAGES).await? == 0 {
                return Ok(());
            }
            let rest = sleep(self.config.pause.max(began.elapsed() * REST));
            stop.run_until_cancelled(rest).await.ok_or(Unfinished::Stopped)?;
        }
    }

    async fn dead_letters(
        &self,
        owner: Owner<'_>,
        limits: Limits,
        gone: &mut Gone,
        stop: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let (most, bytes) = (self.config.dead_letters_most, self.config.dead_letters_bytes);
        let beyond = prune::beyond(&self.db, owner.schema, most, bytes).await?;
        let doomed = Doomed::DeadLetters(limits.dead_letters, beyond);
        self.walk(owner, doomed, &mut gone.dead_letters, stop).await
    }

    /// Records that loans and fees/fines older than `before` may be gone, before any of them is. It is
    /// done alone with the tenant: a writer whose statement began before would not know of it, and could
    /// put back an old loan after it went.
    async fn record(&self, tenant: &Tenant, before: Horizon) -> Result<(), Unfinished> {
        let mut tx = store::begin(&self.db).await?;
        // Writers queue behind us.
        tenants::wait_at_most(&mut tx, LOCK).await?;
        tenants::enter_alone(&mut tx, &tenant.id).await?;
        let now = store::now(&mut *tx).await?;
        if prune::mend(&mut tx, &tenant.schema, now).await? {
            warn!(tenant = %tenant.id, "housekeeping: old loans were pruned by a clock that was ahead; reset the prune horizon");
        }
        prune::record(&mut tx, &tenant.schema, before).await?;
        Ok(store::commit(tx).await?)
    }

    /// Goes through a table from its first block to its last, and rests after each step.
    async fn walk(
        &self,
        owner: Owner<'_>,
        doomed: Doomed,
        gone: &mut u64,
        stop: &CancellationToken,
    ) -> Result<(), Unfinished> {
        let end = prune::blocks(&self.db, owner.schema, &doomed).await?;
        let mut oldest: Option<DateTime<Utc>> = None;
        let mut from = 0;
        while from < end {
            let blocks = Blocks { from, to: from + STEP };
            let began = Instant::now();
            let step = store::within(STEP_MOST, self.step(owner, &doomed, blocks));
            let done = stop.run_until_cancelled(step).await.ok_or(Unfinished::Stopped)?;
            let (went, left) = done?;
            *gone += went;
            oldest = left.into_iter().chain(oldest).min();
            from = blocks.to;
            let rest = sleep(self.config.pause.max(began.elapsed() * REST));
            stop.run_until_cancelled(rest).await.ok_or(Unfinished::Stopped)?;
        }
        if matches!(doomed, Doomed::Inbox(_)) {
            prune::keep_oldest(&self.db, owner.schema, oldest).await?;
        }
        Ok(())
    }

    /// One step: how many rows went and, of the inbox, when the oldest came that are left.
    async fn step(
        &self,
        owner: Owner<'_>,
        doomed: &Doomed,
        blocks: Blocks,
    ) -> Result<(u64, Option<DateTime<Utc>>), Unfinished> {
        let mut tx = store::begin(&self.db).await?;
        if let Some(tenant) = owner.tenant
            && tenants::enter(&mut tx, tenant).await?.is_none()
        {
            return Err(Unfinished::Disabled);
        }
        let went = prune::remove(&mut tx, owner.schema, doomed, blocks).await?;
        let oldest = match doomed {
            Doomed::Inbox(_) => prune::oldest(&mut tx, owner.schema, blocks).await?,
            _ => None,
        };
        store::commit(tx).await?;
        Ok((went, oldest))
    }
}

/// Says what keeps things from being forgotten, once.
fn tell(held: &Result<Held, String>, said: bool) {
    match held {
        _ if said => debug!(?held, "housekeeping: topic retention unchanged"),
        Err(error) => {
            warn!(error, "housekeeping: could not read the retention of the topics; no event, loan or fee/fine is pruned");
        }
        Ok(Held::ForEver { topic }) => {
            warn!(kafka.topic = topic, "housekeeping: a topic has unlimited retention; no event, loan or fee/fine is pruned");
        }
        Ok(Held::For(time)) => info!(days = time.num_days(), "housekeeping: read the longest retention of the topics"),
    }
}

/// Dead letters never go in silence.
fn report(tenant: Option<&TenantId>, gone: Gone, unfinished: Option<&Unfinished>) {
    let tenant = tenant.map_or("none", TenantId::as_str);
    let Gone { inbox, loans, fees_fines, dead_letters } = gone;
    figures().gone(gone);
    if dead_letters > 0 {
        warn!(tenant, dead_letters, "housekeeping: pruned dead letters that were too old or too many");
    }
    if inbox + loans + fees_fines > 0 {
        info!(tenant, inbox, loans, fees_fines, "housekeeping: pruned inbox entries, loans and fees/fines");
    }
    match unfinished {
        Some(Unfinished::Failed(error)) => {
            warn!(tenant, error = %Chain(error), "housekeeping: failed for a tenant; it resumes at the next interval");
        }
        Some(other) => debug!(tenant, reason = %other, "housekeeping: interrupted for a tenant"),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn days(days: i64) -> TimeDelta {
        TimeDelta::days(days)
    }

    fn kept(held: Option<Held>) -> Option<(TimeDelta, TimeDelta)> {
        let config = HousekeepingConfig {
            inbox: days(30),
            tombstones: days(60),
            dead_letters: days(50),
            dead_letters_most: 10,
            dead_letters_bytes: 1 << 20,
            interval: Duration::from_secs(3600),
            pause: Duration::from_millis(100),
            messages: days(1),
        };
        let now = "2026-09-15T12:00:00Z".parse().unwrap();
        let past = Limits::at(now, &config, held.as_ref()).past;
        past.map(|past| (now - past.inbox, now - past.tombstones))
    }

    #[test]
    fn nothing_is_forgotten_that_a_topic_may_hold() {
        assert_eq!(kept(Some(Held::For(days(14)))), Some((days(30), days(60))));
        assert_eq!(kept(Some(Held::For(days(40)))), Some((days(47), days(60))));
        assert_eq!(kept(Some(Held::For(days(80)))), Some((days(87), days(87))));
        assert_eq!(kept(Some(Held::ForEver { topic: "t".to_owned() })), None);
        assert_eq!(kept(None), None);
    }
}
