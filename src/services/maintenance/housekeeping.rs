//! Housekeeping: deletes old rows, a few blocks of a table at a time. Each step is a short
//! transaction, so ingest is barely affected (docs/decisions/0010).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::retention_limits::RetentionLimits;
use crate::{
    clock::Clock,
    config::{HousekeepingConfig, KafkaConfig},
    event::{TenantId, stamp::Horizon},
    kafka::retention::{self, TopicRetention},
    logging::ErrorChain,
    services::{
        metrics::metrics,
        tenants::{Tenant, TenantRegistry},
    },
    store::{
        self, Db, Schema,
        messages::outbox,
        rebuild::{differences, rebuilds, shadow},
        state::prune::{self, BlockRange, DeadLetters, PruneTarget},
        tenants,
    },
};

/// Largest accepted difference between the clocks of this host and of the database.
const CLOCK_SKEW_MAX: TimeDelta = TimeDelta::hours(1);

/// Blocks of a table per step, equal to 2 MiB.
const STEP_BLOCKS: i64 = 256;

/// Largest number of sent messages that one step deletes.
const STEP_MESSAGES_MAX: i64 = 2000;

/// The pause after a step, as a multiple of the step's duration. The pause leaves the database to
/// ingest.
const REST_FACTOR: u32 = 4;

/// Longest wait for the exclusive tenant lock; writers of the tenant queue behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Time limit of a step; afterwards its connection counts as dead.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);

/// New dead letters may exceed the byte limit by the limit divided by this number; beyond it,
/// housekeeping prunes.
const DEAD_LETTER_MARGIN_DIVISOR: i64 = 8;

/// Longest delay between the start of the service and the first round.
const FIRST_ROUND_DELAY: Duration = Duration::from_secs(60);

/// Numbers of deleted rows per table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PrunedCounts {
    /// Rows of the inbox.
    pub inbox: u64,
    /// Rows of loans.
    pub loans: u64,
    /// Rows of fees/fines.
    pub fees_fines: u64,
    /// Rows of dead letters.
    pub dead_letters: u64,
    /// Rows of discarded dead letters.
    pub discarded: u64,
}

/// The reason why housekeeping of a tenant ended early.
#[derive(Debug, thiserror::Error)]
pub enum HousekeepingError {
    /// The service stops.
    #[error("the service stops")]
    Shutdown,
    /// The tenant was disabled.
    #[error("the tenant is not enabled")]
    TenantDisabled,
    /// The database failed.
    #[error(transparent)]
    Store(#[from] store::Error),
}

/// A tenant with its schema, or the module's schema for rows without a tenant.
#[derive(Clone, Copy)]
struct SchemaOwner<'a> {
    tenant: Option<&'a TenantId>,
    schema: &'a Schema,
}

/// The task that deletes old rows.
pub struct Housekeeping {
    db: Db,
    tenants: Arc<TenantRegistry>,
    clock: Clock,
    config: HousekeepingConfig,
}

impl Housekeeping {
    /// Creates the task; `db` is the pool for work. At most two of its connections are used at a
    /// time, each for one step.
    pub fn new(
        db: Db,
        tenants: Arc<TenantRegistry>,
        clock: Clock,
        config: HousekeepingConfig,
    ) -> Self {
        Self { db, tenants, clock, config }
    }

    /// Prunes all tenants at each interval until `stop`, and dead letters whenever many bytes of them
    /// arrived.
    pub async fn run(self, kafka: KafkaConfig, stop: CancellationToken) {
        tokio::join!(self.run_rounds(&kafka, &stop), self.watch_dead_letters(&stop));
    }

    async fn run_rounds(&self, kafka: &KafkaConfig, stop: &CancellationToken) {
        let mut pause = FIRST_ROUND_DELAY.min(self.config.interval);
        let mut previous = None;
        while stop.run_until_cancelled(sleep(pause)).await.is_some() {
            pause = self.config.interval;
            let answer = stop.run_until_cancelled(retention::longest_retention(kafka)).await;
            let Some(answer) = answer else { return };
            let retention = answer.map_err(|error| ErrorChain(&error).to_string());
            log_retention(&retention, previous.as_ref() == Some(&retention));
            self.run_round(retention.as_ref().ok(), stop).await;
            previous = Some(retention);
        }
    }

    /// Prunes dead letters as soon as too many bytes arrive, so that their size stays near the limit
    /// between two rounds.
    async fn watch_dead_letters(&self, stop: &CancellationToken) {
        let margin_bytes =
            usize::try_from(self.config.dead_letters_bytes_max / DEAD_LETTER_MARGIN_DIVISOR)
                .unwrap_or(usize::MAX);
        while let Some(tenant) = stop
            .run_until_cancelled(self.tenants.dead_letter_bytes.wait_until_over(margin_bytes))
            .await
        {
            let mut counts = PrunedCounts::default();
            let done = self.prune_dead_letters_of(tenant.as_ref(), &mut counts, stop).await;
            log_pruned(tenant.as_ref(), counts, done.as_ref().err());
        }
    }

    async fn prune_dead_letters_of(
        &self,
        tenant: Option<&TenantId>,
        counts: &mut PrunedCounts,
        stop: &CancellationToken,
    ) -> Result<(), HousekeepingError> {
        let Some(now) = self.now().await else { return Ok(()) };
        let limits = RetentionLimits::at(now, &self.config, None);
        let schema = match tenant {
            None => Arc::new(Schema::module()),
            Some(id) => match self.tenants.find(id).await? {
                Some(tenant) => tenant.schema.clone(),
                None => return Err(HousekeepingError::TenantDisabled),
            },
        };
        self.prune_dead_letters(SchemaOwner { tenant, schema: &schema }, limits, counts, stop).await
    }

    /// Prunes once each enabled tenant that no instance has claimed within the interval.
    pub async fn run_round(&self, retention: Option<&TopicRetention>, stop: &CancellationToken) {
        let Some(now) = self.now().await else { return };
        self.tenants.dead_letter_bytes.clear();
        for tenant in self.tenants.all() {
            let is_claimed = self.claim(&tenant).await;
            if !is_claimed.unwrap_or_else(|error| {
                warn!(tenant = %tenant.id, error = %ErrorChain(&error), "housekeeping: could not start for a tenant; retrying at the next interval");
                false
            }) {
                continue;
            }
            let limits = RetentionLimits::at(now, &self.config, retention);
            self.prune_tenant(&tenant, limits, stop).await;
        }
        let schema = &Schema::module();
        let mut counts = PrunedCounts::default();
        let limits = RetentionLimits::at(now, &self.config, retention);
        let done = self
            .prune_dead_letters(SchemaOwner { tenant: None, schema }, limits, &mut counts, stop)
            .await;
        log_pruned(None, counts, done.as_ref().err());
    }

    /// Returns the time of the database clock, or `None` if the local clock differs too much. Rows
    /// that a wrong clock deletes are lost.
    async fn now(&self) -> Option<DateTime<Utc>> {
        let now = match store::now(&self.db).await {
            Ok(now) => now,
            Err(error) => {
                warn!(error = %ErrorChain(&error), "housekeeping: could not start; retrying at the next interval");
                return None;
            }
        };
        let skew = self.clock.now() - now;
        if skew.abs() > CLOCK_SKEW_MAX {
            error!(
                seconds = skew.num_seconds(),
                "housekeeping: the clocks of this host and of the database differ too much; no row is pruned"
            );
            return None;
        }
        Some(now)
    }

    async fn claim(&self, tenant: &Tenant) -> Result<bool, store::Error> {
        prune::claim(&self.db, &tenant.schema, self.config.interval).await
    }

    /// Deletes rows older than `limits` and returns their number. The work may stop anywhere, and
    /// several instances may do it at once.
    pub async fn prune_tenant(
        &self,
        tenant: &Tenant,
        limits: RetentionLimits,
        stop: &CancellationToken,
    ) -> PrunedCounts {
        let mut counts = PrunedCounts::default();
        let done = self.prune_tables(tenant, limits, &mut counts, stop).await;
        log_pruned(Some(&tenant.id), counts, done.as_ref().err());
        counts
    }

    async fn prune_tables(
        &self,
        tenant: &Tenant,
        limits: RetentionLimits,
        counts: &mut PrunedCounts,
        stop: &CancellationToken,
    ) -> Result<(), HousekeepingError> {
        let owner = SchemaOwner { tenant: Some(&tenant.id), schema: &tenant.schema };
        self.remove_leftovers(tenant).await?;
        self.prune_sent_messages(tenant, stop).await?;
        self.prune_dead_letters(owner, limits, counts, stop).await?;
        let Some(cutoffs) = limits.cutoffs else { return Ok(()) };
        self.prune_table(owner, PruneTarget::Inbox(cutoffs.inbox), &mut counts.inbox, stop).await?;
        let before = Horizon::at(cutoffs.tombstones);
        self.record_prune_horizon(tenant, before).await?;
        self.prune_table(owner, PruneTarget::Loans(before), &mut counts.loans, stop).await?;
        self.prune_table(owner, PruneTarget::FeesFines(before), &mut counts.fees_fines, stop).await
    }

    /// Cancels stale rebuilds, and removes orphaned shadows and differences.
    async fn remove_leftovers(&self, tenant: &Tenant) -> Result<(), store::Error> {
        rebuilds::cancel_stale(&self.db).await?;
        for rebuild in shadow::orphans(&self.db, &tenant.schema).await? {
            info!(tenant = %tenant.id, "housekeeping: removed the shadow tables of an ended rebuild");
            shadow::remove(&self.db, &Schema::shadow(&tenant.id, rebuild)).await?;
        }
        let mut tx = store::begin(&self.db).await?;
        differences::delete_orphans(&mut tx, &tenant.schema).await?;
        store::commit(tx).await
    }

    /// Deletes messages that were sent before the retention time, oldest first.
    async fn prune_sent_messages(
        &self,
        tenant: &Tenant,
        stop: &CancellationToken,
    ) -> Result<(), HousekeepingError> {
        let before = store::now(&self.db).await? - self.config.outbox_retention;
        loop {
            let began = Instant::now();
            if outbox::prune(&self.db, &tenant.schema, before, STEP_MESSAGES_MAX).await? == 0 {
                return Ok(());
            }
            let rest = sleep(self.config.step_pause.max(began.elapsed() * REST_FACTOR));
            stop.run_until_cancelled(rest).await.ok_or(HousekeepingError::Shutdown)?;
        }
    }

    async fn prune_dead_letters(
        &self,
        owner: SchemaOwner<'_>,
        limits: RetentionLimits,
        counts: &mut PrunedCounts,
        stop: &CancellationToken,
    ) -> Result<(), HousekeepingError> {
        let (letters_max, bytes_max) =
            (self.config.dead_letters_max, self.config.dead_letters_bytes_max);
        let surplus = async |among| {
            let (db, schema) = (&self.db, owner.schema);
            prune::find_surplus_dead_letter(db, schema, among, letters_max, bytes_max).await
        };
        let parked = surplus(DeadLetters::Parked).await?;
        let target = PruneTarget::DeadLetters(limits.dead_letters, parked);
        self.prune_table(owner, target, &mut counts.dead_letters, stop).await?;
        let discarded = surplus(DeadLetters::Discarded).await?;
        let target = PruneTarget::Discarded(limits.discarded, discarded);
        self.prune_table(owner, target, &mut counts.discarded, stop).await
    }

    /// Records the prune horizon of loans and fees/fines before any of them is deleted. The exclusive
    /// tenant lock ensures that every later writer reads it. A writer with an earlier snapshot could
    /// otherwise insert an old loan again after its deletion.
    async fn record_prune_horizon(
        &self,
        tenant: &Tenant,
        before: Horizon,
    ) -> Result<(), HousekeepingError> {
        let mut tx = store::begin(&self.db).await?;
        // Writers queue behind this lock request.
        tenants::set_lock_timeout(&mut tx, LOCK_TIMEOUT).await?;
        tenants::lock_exclusive(&mut tx, &tenant.id).await?;
        let now = store::now(&mut *tx).await?;
        if prune::cap_horizon(&mut tx, &tenant.schema, now).await? {
            warn!(tenant = %tenant.id, "housekeeping: old loans were pruned by a clock that was ahead; reset the prune horizon");
        }
        prune::record_horizon(&mut tx, &tenant.schema, before).await?;
        Ok(store::commit(tx).await?)
    }

    /// Prunes a table from its first to its last block, with a pause after each step.
    async fn prune_table(
        &self,
        owner: SchemaOwner<'_>,
        target: PruneTarget,
        pruned_rows: &mut u64,
        stop: &CancellationToken,
    ) -> Result<(), HousekeepingError> {
        let end = prune::count_blocks(&self.db, owner.schema, &target).await?;
        let mut oldest: Option<DateTime<Utc>> = None;
        let mut from = 0;
        while from < end {
            let blocks = BlockRange { from, to: from + STEP_BLOCKS };
            let began = Instant::now();
            let step = store::with_timeout(STEP_TIMEOUT, self.prune_blocks(owner, &target, blocks));
            let done = stop.run_until_cancelled(step).await.ok_or(HousekeepingError::Shutdown)?;
            let (rows, oldest_left) = done?;
            *pruned_rows += rows;
            oldest = oldest_left.into_iter().chain(oldest).min();
            from = blocks.to;
            let rest = sleep(self.config.step_pause.max(began.elapsed() * REST_FACTOR));
            stop.run_until_cancelled(rest).await.ok_or(HousekeepingError::Shutdown)?;
        }
        if matches!(target, PruneTarget::Inbox(_)) {
            prune::record_oldest_event(&self.db, owner.schema, oldest).await?;
        }
        Ok(())
    }

    /// Runs one step. Returns the number of deleted rows and, for the inbox, the time of the oldest
    /// remaining entry in these blocks.
    async fn prune_blocks(
        &self,
        owner: SchemaOwner<'_>,
        target: &PruneTarget,
        blocks: BlockRange,
    ) -> Result<(u64, Option<DateTime<Utc>>), HousekeepingError> {
        let mut tx = store::begin(&self.db).await?;
        if let Some(tenant) = owner.tenant
            && tenants::lock_shared(&mut tx, tenant).await?.is_none()
        {
            return Err(HousekeepingError::TenantDisabled);
        }
        let rows = prune::delete(&mut tx, owner.schema, target, blocks).await?;
        let oldest = match target {
            PruneTarget::Inbox(_) => {
                prune::find_oldest_event(&mut tx, owner.schema, blocks).await?
            }
            _ => None,
        };
        store::commit(tx).await?;
        Ok((rows, oldest))
    }
}

/// Logs the retention of the topics after a change, with a warning if it prevents deletion. An unchanged
/// retention is logged at debug level.
fn log_retention(retention: &Result<TopicRetention, String>, is_unchanged: bool) {
    match retention {
        _ if is_unchanged => debug!(?retention, "housekeeping: topic retention unchanged"),
        Err(error) => {
            warn!(
                error,
                "housekeeping: could not read the retention of the topics; no event, loan or fee/fine is pruned"
            );
        }
        Ok(TopicRetention::Unlimited { topic }) => {
            warn!(
                kafka.topic = topic,
                "housekeeping: a topic has unlimited retention; no event, loan or fee/fine is pruned"
            );
        }
        Ok(TopicRetention::Limited(time)) => {
            info!(days = time.num_days(), "housekeeping: read the longest retention of the topics")
        }
    }
}

/// Logs deleted rows; deleted dead letters are a warning.
fn log_pruned(tenant: Option<&TenantId>, counts: PrunedCounts, error: Option<&HousekeepingError>) {
    let tenant = tenant.map_or("none", TenantId::as_str);
    let PrunedCounts { inbox, loans, fees_fines, dead_letters, discarded } = counts;
    let rows = [inbox, loans, fees_fines, dead_letters, discarded];
    for (counter, rows) in metrics().pruned_rows.iter().zip(rows) {
        counter.increment(rows);
    }
    if dead_letters > 0 {
        warn!(
            tenant,
            dead_letters, "housekeeping: pruned dead letters that were too old or too many"
        );
    }
    if inbox + loans + fees_fines > 0 {
        info!(
            tenant,
            inbox, loans, fees_fines, "housekeeping: pruned inbox entries, loans and fees/fines"
        );
    }
    match error {
        Some(HousekeepingError::Store(error)) => {
            warn!(tenant, error = %ErrorChain(error), "housekeeping: failed for a tenant; it resumes at the next interval");
        }
        Some(other) => debug!(tenant, reason = %other, "housekeeping: interrupted for a tenant"),
        None => {}
    }
}
