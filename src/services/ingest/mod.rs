//! Ingest: stores a batch of records in one transaction per tenant. Afterwards each record is
//! applied, a known duplicate, a dead letter, or skipped (invariants I2, I3 of ARCHITECTURE.md).
//! Otherwise its partition is paused before the record.

pub mod bad_record_limit;
mod batch;
pub mod dead_letter_bytes;
pub mod dead_letters;
mod end_loans;
mod failure;
pub mod http_events;
pub mod incidents;
pub mod ingest_store;
pub mod metrics;
mod module_writes;
pub mod outcome;
mod partition_starter;
pub mod single_events;
pub mod start;
pub mod start_offset;
pub mod status;
mod transaction_sizes;
mod watchdog;
pub mod writer;

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use self::{
    bad_record_limit::BadRecordWindow,
    batch::{Batch, DecodedBatch, Item, ItemKind, Owner, TenantBatch, records},
    end_loans::EndLoansOutcome,
    failure::FailureReaction,
    ingest_store::{BeginOutcome, IngestStore, IngestTx, TenantLock},
    metrics::metrics,
    outcome::{BatchCounts, BatchOutcome, BatchProgress},
    transaction_sizes::TransactionSizes,
};
use crate::{
    clock::Clock,
    config::BadRecordLimit,
    event::{Event, Reason, Record, Reject, TenantId, TopicPartition},
    kafka::delivery::{ConsumedRecord, PauseReason},
    logging::ErrorChain,
    patron::StateDelta,
    store::{self, LockTimeout},
};

/// First delay before a batch is retried; each retry doubles the delay, up to `RETRY_DELAY_MAX`.
pub(super) const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

/// Time that a transaction may use beyond its longest statement.
const TRANSACTION_TIMEOUT_MARGIN: Duration = Duration::from_secs(10);

/// The service stops; the next owner of each partition reads its uncommitted records again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown;

/// The service that applies batches to an [`IngestStore`].
pub struct Ingest<S> {
    pub(super) store: S,
    /// Time limit of a transaction, after which it is abandoned and retried, because its connection
    /// may be dead.
    pub(super) transaction_timeout: Duration,
    bad_record_limit: BadRecordLimit,
    /// `true` if metrics have a label per tenant.
    pub(super) by_tenant: bool,
    clock: Clock,
    bad_record_windows: Mutex<HashMap<TopicPartition, BadRecordWindow>>,
    /// Tenants with a failed last write.
    unwritable_tenants: Mutex<HashSet<TenantId>>,
    transaction_sizes: TransactionSizes,
}

/// The result of a tenant batch.
enum TenantBatchOutcome {
    /// The tenant batch is durable.
    Committed,
    /// The tenant is disabled.
    TenantDisabled,
    /// The tenant's tables are unwritable, or a single record times out. The number counts the
    /// records at the start of the tenant batch that are durable nevertheless.
    TenantUnwritable(usize),
    /// The tenant's schema is being migrated.
    TenantMigrating,
    /// The tenant was enabled again: its own topics restart, and its records in shared topics may be
    /// stored.
    TenantReenabled,
    /// Earlier records must be read first: the tenant is enabled by now, or the topic was recreated.
    Restart,
}

/// The result of one transaction.
enum TransactionOutcome {
    Committed(BatchCounts),
    TenantDisabled,
    TenantReenabled,
    Restart,
}

impl<S: IngestStore> Ingest<S> {
    /// Creates the ingest; `statement` is the server's time limit of one statement.
    pub fn new(
        store: S,
        clock: Clock,
        statement: Duration,
        bad_record_limit: BadRecordLimit,
    ) -> Self {
        Self {
            store,
            transaction_timeout: statement + TRANSACTION_TIMEOUT_MARGIN,
            bad_record_limit,
            by_tenant: false,
            clock,
            bad_record_windows: Mutex::default(),
            unwritable_tenants: Mutex::default(),
            transaction_sizes: TransactionSizes::default(),
        }
    }

    /// Returns this ingest with or without metrics per tenant.
    pub fn with_metrics_by_tenant(self, by_tenant: bool) -> Self {
        Self { by_tenant, ..self }
    }

    /// Records that an incident reports this tenant as unwritable. The tenant's next successful batch
    /// resolves the incident.
    pub fn mark_unwritable(&self, tenant: TenantId) {
        self.unwritable_tenants.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant);
    }

    /// Forgets the bad records of a partition, because it starts again or an operator has resumed it.
    pub fn reset_bad_record_window(&self, topic: &Arc<str>, partition: i32) {
        let mut windows = self.bad_record_windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.remove(&(topic.clone(), partition));
    }

    /// Commits a batch. Up to the returned offsets every record is durable or skipped, so the group's
    /// offsets may advance. While the database is unavailable, the batch is retried until `stop`.
    pub async fn commit_batch(
        &self,
        batch: &[&ConsumedRecord],
        stop: &CancellationToken,
    ) -> Result<BatchOutcome, Shutdown> {
        let started = Instant::now();
        let decoded = DecodedBatch::decode(batch);
        let enabled = self.enabled_among(decoded.tenants_with_bad_records(), stop).await?;
        let Batch { tenant_batches, mut progress, tombstones, skipped } = {
            let mut windows =
                self.bad_record_windows.lock().unwrap_or_else(PoisonError::into_inner);
            decoded.split(&mut windows, self.bad_record_limit, &enabled)
        };
        let mut counts = BatchCounts { tombstones, skipped, ..BatchCounts::default() };
        let mut queue: VecDeque<(Owner, TenantBatch<'_>)> = tenant_batches.into_iter().collect();
        while let Some((owner, mut items)) = queue.pop_front() {
            if items.is_empty() {
                continue;
            }
            let (outcome, batch_counts) =
                self.commit_tenant_batch(&owner, &mut items, stop).await?;
            counts = counts + batch_counts;
            // Only for enabled tenants: a record may contain any tenant id.
            if self.by_tenant
                && matches!(outcome, TenantBatchOutcome::Committed)
                && let Some(tenant) = &owner.tenant
            {
                metrics().record_tenant_batch(tenant, batch_counts);
            }
            self.count_refused(&items, &mut progress);
            match outcome {
                TenantBatchOutcome::Committed => {
                    self.record_metrics(&items);
                    self.clear_unwritable(owner.tenant.as_ref()).await;
                }
                TenantBatchOutcome::TenantDisabled => {
                    progress.mark_tenant_disabled(records(&items))
                }
                TenantBatchOutcome::Restart => {
                    progress.pause_before(records(&items), PauseReason::Restart)
                }
                TenantBatchOutcome::TenantMigrating => {
                    progress.pause_before(records(&items), PauseReason::TenantMigrating)
                }
                TenantBatchOutcome::TenantReenabled => {
                    progress.pause_tenant_topics(records(&items), PauseReason::Restart);
                    items.retain(Item::is_of_collection);
                    queue.push_front((owner, items));
                }
                TenantBatchOutcome::TenantUnwritable(committed) => {
                    let mut rest = items.split_off(committed);
                    self.record_metrics(&items);
                    progress.pause_tenant_topics(records(&rest), PauseReason::TenantUnwritable);
                    rest.retain(Item::is_of_collection);
                    if let Some(id) = owner.tenant {
                        counts =
                            counts + self.park_for_retry(&id, &rest, &mut progress, stop).await?;
                        self.mark_unwritable(id);
                    }
                }
            }
        }
        self.commit_module_writes(batch, &mut progress, stop).await?;
        if !batch.is_empty() {
            metrics().record_batch(batch.len(), started.elapsed(), counts);
        }
        Ok(BatchOutcome { counts, progress })
    }

    /// Returns the enabled ones of `tenants`, which have bad records. Retries until the database
    /// responds.
    async fn enabled_among(
        &self,
        tenants: BTreeSet<TenantId>,
        stop: &CancellationToken,
    ) -> Result<BTreeSet<TenantId>, Shutdown> {
        let mut enabled = BTreeSet::new();
        for tenant in tenants {
            let mut delay = RETRY_DELAY_MIN;
            loop {
                match store::with_timeout(self.transaction_timeout, self.store.is_enabled(&tenant))
                    .await
                {
                    Ok(true) => enabled.insert(tenant),
                    Ok(false) => false,
                    Err(error) => {
                        warn!(%tenant, error = %ErrorChain(&error), "ingest: could not look up the tenant; retrying");
                        delay = back_off(delay, stop).await?;
                        continue;
                    }
                };
                break;
            }
        }
        Ok(enabled)
    }

    /// Counts the durable records of a tenant batch.
    fn record_metrics(&self, items: &[Item<'_>]) {
        let (metrics, now) = (metrics(), self.clock.now());
        for Item { incoming, kind } in items {
            match kind {
                ItemKind::Event(event) => {
                    metrics.record_event(event, incoming.record.timestamp, now)
                }
                ItemKind::Rejected(reject) => {
                    metrics.record_dead_letter(incoming.topic.kind, reject.reason)
                }
                ItemKind::PositionOnly => {}
            }
        }
    }

    /// Commits a tenant batch. If the database refuses the content, smaller transactions isolate the
    /// bad record, which becomes a dead letter. After a timeout, smaller transactions follow as well;
    /// if a single record times out, only this tenant waits.
    async fn commit_tenant_batch(
        &self,
        owner: &Owner,
        items: &mut TenantBatch<'_>,
        stop: &CancellationToken,
    ) -> Result<(TenantBatchOutcome, BatchCounts), Shutdown> {
        let tenant = owner.tenant.as_ref();
        let mut counts = BatchCounts::default();
        let (mut delay, mut size) = (RETRY_DELAY_MIN, self.transaction_sizes.begin(tenant));
        let mut committed = 0;
        while committed < items.len() {
            let range = size.next(committed..items.len());
            let (batch, records) = (&items[range.clone()], range.len());
            let error = match self.commit_range(owner, batch, size.wait, stop).await? {
                Ok(TransactionOutcome::Committed(batch_counts)) => {
                    counts = counts + batch_counts;
                    (delay, committed) = (RETRY_DELAY_MIN, range.end);
                    size.grow();
                    continue;
                }
                Ok(TransactionOutcome::Restart) => {
                    return Ok((TenantBatchOutcome::Restart, counts));
                }
                Ok(TransactionOutcome::TenantReenabled) => {
                    return Ok((TenantBatchOutcome::TenantReenabled, counts));
                }
                Ok(TransactionOutcome::TenantDisabled) => {
                    let skipped = items.iter().filter(|item| item.is_record()).count();
                    debug!(
                        ?tenant,
                        records, "ingest: skipped records of a tenant that is not enabled"
                    );
                    counts.tenant_disabled += skipped;
                    return Ok((TenantBatchOutcome::TenantDisabled, counts));
                }
                Err(error) => error,
            };
            let reaction = FailureReaction::decide(&error, batch, tenant.is_some());
            reaction.log(&error, tenant, records, items.len() - committed);
            match reaction {
                FailureReaction::AwaitMigration => {
                    return Ok((TenantBatchOutcome::TenantMigrating, counts));
                }
                FailureReaction::RejectRecord => {
                    items[committed].kind = refused_record();
                    continue;
                }
                FailureReaction::Bisect => {
                    size.halve(records);
                    continue;
                }
                FailureReaction::PauseTenant => {
                    return Ok((TenantBatchOutcome::TenantUnwritable(committed), counts));
                }
                FailureReaction::PauseSlowTenant => {
                    size.shrink(records);
                    self.transaction_sizes.end(tenant, size);
                    return Ok((TenantBatchOutcome::TenantUnwritable(committed), counts));
                }
                FailureReaction::RetryFewer => size.shrink(records),
                FailureReaction::Retry => {}
            }
            metrics().retries.increment(1);
            delay = back_off(delay, stop).await?;
        }
        self.transaction_sizes.end(tenant, size);
        Ok((TenantBatchOutcome::Committed, counts))
    }

    /// Commits a part of a tenant batch in one transaction. If an event deletes all loans of the
    /// tenant, steps of their own close the loans first.
    async fn commit_range(
        &self,
        owner: &Owner,
        items: &[Item<'_>],
        wait: LockTimeout,
        stop: &CancellationToken,
    ) -> Result<Result<TransactionOutcome, store::Error>, Shutdown> {
        if let Some(tenant) = owner.tenant.as_ref().filter(|_| owner.tenant_enabled) {
            let events = items.iter().filter_map(Item::event).map(|(_, event)| event);
            match self.end_loans(tenant, events, wait, stop).await {
                Ok(EndLoansOutcome::All) => {}
                Ok(EndLoansOutcome::TenantDisabled) => {
                    return Ok(Ok(TransactionOutcome::TenantDisabled));
                }
                Ok(EndLoansOutcome::Shutdown) => return Err(Shutdown),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(store::with_timeout(self.transaction_timeout, self.apply(owner, items, wait)).await)
    }

    /// Runs one transaction: inbox claim, merge with its counters, dead letters and positions.
    async fn apply(
        &self,
        owner: &Owner,
        items: &[Item<'_>],
        wait: LockTimeout,
    ) -> Result<TransactionOutcome, store::Error> {
        let events: Vec<(&Record, &Event)> = items.iter().filter_map(Item::event).collect();
        let lock = TenantLock::for_events(&events);
        let mut tx = match self.store.begin(owner.tenant.as_ref(), lock, wait).await? {
            BeginOutcome::TenantDisabled => return Ok(TransactionOutcome::TenantDisabled),
            BeginOutcome::TenantReenabled(_) if !items.iter().all(Item::is_of_collection) => {
                return Ok(TransactionOutcome::TenantReenabled);
            }
            BeginOutcome::Started(tx) | BeginOutcome::TenantReenabled(tx) => tx,
        };
        if !owner.tenant_enabled {
            return Ok(TransactionOutcome::Restart);
        }
        let mut counts = BatchCounts::default();
        let dead_letters: Vec<_> = items.iter().filter_map(Item::dead_letter).collect();
        if !dead_letters.is_empty() {
            tx.park(&dead_letters).await?;
            counts.dead_letters = dead_letters.len();
        }
        if !events.is_empty() {
            let new_keys = tx.claim(&events).await?;
            (counts.applied, counts.duplicates) = (new_keys.len(), events.len() - new_keys.len());
            if !new_keys.is_empty() {
                tx.merge(&delta_of(&events, new_keys)).await?;
            }
        }
        if owner.tenant.is_some() && !tx.advance(&batch::positions(items)).await? {
            return Ok(TransactionOutcome::Restart);
        }
        tx.commit().await?;
        Ok(TransactionOutcome::Committed(counts))
    }

    /// Resolves the incidents of a tenant after its tables became writable again.
    pub async fn mark_writable(&self, tenant: &TenantId) {
        self.mark_unwritable(tenant.clone());
        self.clear_unwritable(Some(tenant)).await;
    }

    async fn clear_unwritable(&self, tenant: Option<&TenantId>) {
        let Some(id) = tenant else { return };
        if !self.unwritable_tenants.lock().unwrap_or_else(PoisonError::into_inner).remove(id) {
            return;
        }
        if let Err(error) =
            store::with_timeout(self.transaction_timeout, self.store.mark_writable(id)).await
        {
            warn!(tenant = %id, error = %ErrorChain(&error), "ingest: could not resolve the incidents of a tenant; retrying");
            self.mark_unwritable(id.clone());
        }
    }

    /// Counts records that the database refused as bad records, which decoding counted as good.
    fn count_refused(&self, items: &[Item<'_>], progress: &mut BatchProgress) {
        let mut windows = self.bad_record_windows.lock().unwrap_or_else(PoisonError::into_inner);
        for item in items {
            if matches!(&item.kind, ItemKind::Rejected(reject) if reject.reason == Reason::RefusedByDatabase)
                && windows
                    .entry(item.topic_partition())
                    .or_default()
                    .record_refused(self.bad_record_limit)
            {
                progress.pause_partition(item.topic_partition(), PauseReason::BadRecordLimit);
            }
        }
    }
}

fn refused_record() -> ItemKind {
    let rule = "the database refuses to store the record";
    ItemKind::Rejected(Reject::new(Reason::RefusedByDatabase, None, rule))
}

/// Returns the changes that new events make. If a key occurs twice in this batch, the first event
/// counts.
pub(super) fn delta_of(events: &[(&Record, &Event)], mut new_keys: HashSet<Uuid>) -> StateDelta {
    let events = events.iter().map(|(_, event)| *event);
    StateDelta::from_events(events.filter(|event| new_keys.remove(&event.key)))
}

/// Waits for about `delay` and returns the next delay.
pub(super) async fn back_off(
    delay: Duration,
    stop: &CancellationToken,
) -> Result<Duration, Shutdown> {
    // A random pause between half of the delay and all of it, so that writers that failed together
    // retry apart.
    let jitter = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    let sleep = tokio::time::sleep(delay.mul_f64(0.5 + jitter / 2.0));
    stop.run_until_cancelled(sleep).await.ok_or(Shutdown)?;
    Ok((delay * 2).min(RETRY_DELAY_MAX))
}
