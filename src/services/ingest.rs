//! Ingest: a batch of records, one transaction per tenant. After it every record is applied, known
//! as a repeat, parked, or was none of ours (invariants I2, I3 of ARCHITECTURE.md); or its
//! partition is held where it stands.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{
    batch::{self, Batch, DecodedBatch, Item, ItemKind, Owner, TenantBatch},
    ending::EndLoansOutcome,
    ledger::{BeginOutcome, IngestStore, IngestTx, TenantLock},
    outcome::{BatchCounts, BatchOutcome, BatchProgress, PauseReason, TopicPartition},
    share_size::TransactionSizes,
    stop_rule::{BadRecordLimit, BadRecordWindow},
};
use crate::{
    clock::Clock,
    event::{Event, Reason, Record, Reject, TenantId, Topic},
    logging::ErrorChain,
    metrics::metrics,
    patron::StateDelta,
    store::{self, LockTimeout, Verdict},
};

/// How long to wait before a batch is offered again: doubled each time, up to a limit.
pub(super) const RETRY_DELAY_MIN: Duration = Duration::from_millis(50);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(2);

/// What a share may take beyond its longest statement.
const TRANSACTION_TIMEOUT_MARGIN: Duration = Duration::from_secs(10);

/// A record with what its topic and broker tell of it.
#[derive(Debug)]
pub struct ConsumedRecord {
    /// The record.
    pub record: Record,
    /// Its topic.
    pub topic: Arc<Topic>,
    /// The broker's cluster id.
    pub cluster: Arc<str>,
    /// Whether what stands before it in its partition was kept: not where it was passed by, because
    /// the tenant wasn't enabled.
    pub tenant_enabled: bool,
    /// The offset up to which its partition was read before.
    pub position: i64,
}

/// The service stops; what was not settled is read again by whoever comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shutdown;

/// Applies batches.
pub struct Ingest<S> {
    pub(super) store: S,
    /// A share that takes longer is given up and offered again: its connection may have died without a
    /// word.
    pub(super) transaction_timeout: Duration,
    bad_record_limit: BadRecordLimit,
    /// Whether figures tell tenants apart.
    pub(super) by_tenant: bool,
    clock: Clock,
    bad_record_windows: Mutex<HashMap<TopicPartition, BadRecordWindow>>,
    /// Tenants who could not be written when it was last tried.
    unwritable_tenants: Mutex<HashSet<TenantId>>,
    transaction_sizes: TransactionSizes,
}

/// How a share ended.
enum TenantBatchOutcome {
    /// Durable.
    Committed,
    /// Its tenant isn't enabled.
    TenantDisabled,
    /// Its tenant's tables can't be written, or a single record takes too long. So many records from the first on
    /// are durable all the same.
    TenantUnwritable(usize),
    /// Its tenant's schema is being migrated.
    TenantMigrating,
    /// Its tenant was enabled again: its own topics are begun anew, and what else there is may be settled.
    TenantReenabled,
    /// What stands before it comes first: its tenant is enabled by now, or its topic was made anew.
    Restart,
}

/// What became of a transaction.
enum TransactionOutcome {
    Committed(BatchCounts),
    TenantDisabled,
    TenantReenabled,
    Restart,
}

impl<S: IngestStore> Ingest<S> {
    /// `statement` is the longest time that the server gives one statement.
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

    /// The same, with figures for each tenant.
    pub fn with_metrics_by_tenant(self, by_tenant: bool) -> Self {
        Self { by_tenant, ..self }
    }

    /// An incident says that a tenant can't be written. It ends with the next batch that can.
    pub fn mark_unwritable(&self, tenant: TenantId) {
        self.unwritable_tenants.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant);
    }

    /// What was seen of a partition counts no more: it was taken over, or resumed by an operator.
    pub fn reset_bad_record_window(&self, topic: &Arc<str>, partition: i32) {
        let mut windows = self.bad_record_windows.lock().unwrap_or_else(PoisonError::into_inner);
        windows.remove(&(topic.clone(), partition));
    }

    /// Settles a batch: up to the ends that it returns every record is durable or none of ours, and
    /// offsets may move there. While the database is away the batch is offered again and again, until
    /// `stop`.
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
            // Only of tenants that are enabled: any record may name any other.
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
                TenantBatchOutcome::TenantDisabled => progress.mark_tenant_disabled(&items),
                TenantBatchOutcome::Restart => progress.pause_before(&items, PauseReason::Restart),
                TenantBatchOutcome::TenantMigrating => {
                    progress.pause_before(&items, PauseReason::TenantMigrating)
                }
                TenantBatchOutcome::TenantReenabled => {
                    progress.pause_tenant_topics(&items, PauseReason::Restart);
                    items.retain(Item::is_of_collection);
                    queue.push_front((owner, items));
                }
                TenantBatchOutcome::TenantUnwritable(committed) => {
                    let mut rest = items.split_off(committed);
                    self.record_metrics(&items);
                    progress.pause_tenant_topics(&rest, PauseReason::TenantUnwritable);
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

    /// Those of these tenants that are enabled: asked only where records are bad, until it is known.
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

    /// What became durable.
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

    /// Settles what belongs to one tenant. Of a share that the database refuses for its content, less is tried
    /// until the culprit stands alone, which is parked. Of one that takes too long, less is tried as well; where
    /// even a single record does, the tenant waits and nobody else.
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
                    debug!(
                        ?tenant,
                        records = records,
                        "ingest: skipped records of a tenant that is not enabled"
                    );
                    let is_record = |item: &&Item<'_>| !matches!(item.kind, ItemKind::PositionOnly);
                    counts.tenant_disabled += items.iter().filter(is_record).count();
                    return Ok((TenantBatchOutcome::TenantDisabled, counts));
                }
                Err(error) => error,
            };
            if error.awaits_migration() {
                debug!(?tenant, records = records, error = %ErrorChain(&error), "ingest: the schema of the tenant is not migrated yet; its records wait");
                return Ok((TenantBatchOutcome::TenantMigrating, counts));
            }
            let is_server_timeout = !matches!(error, store::Error::Timeout);
            match error.verdict() {
                Verdict::Refused if !is_dead_letter(batch) => {
                    warn!(?tenant, records = records, error = %ErrorChain(&error),
                        "ingest: the database rejected the records of a tenant; bisecting to find the bad record");
                    match records {
                        1 => items[committed].kind = refused_record(),
                        _ => size.halve(records),
                    }
                    continue;
                }
                Verdict::Unusable if tenant.is_some() => {
                    error!(?tenant, records = items.len() - committed, error = %ErrorChain(&error),
                        "ingest: could not write the tables of a tenant; its partitions are paused");
                    return Ok((TenantBatchOutcome::TenantUnwritable(committed), counts));
                }
                _ if error.is_timeout()
                    && is_server_timeout
                    && records == 1
                    && tenant.is_some() =>
                {
                    error!(?tenant, records = items.len() - committed, error = %ErrorChain(&error),
                        "ingest: writing the tables of a tenant timed out; its partitions are paused");
                    size.shrink(records);
                    self.transaction_sizes.end(tenant, size);
                    return Ok((TenantBatchOutcome::TenantUnwritable(committed), counts));
                }
                _ if error.is_timeout() && records > 1 => {
                    warn!(?tenant, records = records, error = %ErrorChain(&error),
                        "ingest: writing the records of a tenant timed out; retrying with fewer records");
                    size.shrink(records);
                }
                _ => warn!(?tenant, records = records, error = %ErrorChain(&error),
                    "ingest: could not commit the batch; retrying"),
            }
            metrics().retries.increment(1);
            delay = back_off(delay, stop).await?;
        }
        self.transaction_sizes.end(tenant, size);
        Ok((TenantBatchOutcome::Committed, counts))
    }

    /// Settles some of a share: in one transaction, unless it says that all loans were deleted.
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

    /// One transaction: the inbox claim, the merge with its counters, dead letters and positions.
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

    /// A tenant that could not be written can be: its incidents are over.
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

    /// Records that the database refused are bad records, which was not seen when they were read.
    fn count_refused(&self, items: &[Item<'_>], ends: &mut BatchProgress) {
        let mut windows = self.bad_record_windows.lock().unwrap_or_else(PoisonError::into_inner);
        for item in items {
            if matches!(&item.kind, ItemKind::Rejected(reject) if reject.reason == Reason::RefusedByDatabase)
                && windows
                    .entry(item.topic_partition())
                    .or_default()
                    .record_refused(self.bad_record_limit)
            {
                ends.pause_partition(item.topic_partition(), PauseReason::BadRecordLimit);
            }
        }
    }
}

fn is_dead_letter(items: &[Item<'_>]) -> bool {
    matches!(items, [Item { kind: ItemKind::Rejected(_), .. }])
}

fn refused_record() -> ItemKind {
    let rule = "the database refuses to store it";
    ItemKind::Rejected(Reject::new(Reason::RefusedByDatabase, None, rule))
}

/// What the fresh events say, folded. A key that came twice in this batch is taken once.
pub(super) fn delta_of(events: &[(&Record, &Event)], mut new_keys: HashSet<Uuid>) -> StateDelta {
    let events = events.iter().map(|(_, event)| *event);
    StateDelta::from_events(events.filter(|event| new_keys.remove(&event.key)))
}

/// Waits and returns how long to wait the next time.
pub(super) async fn back_off(
    delay: Duration,
    stop: &CancellationToken,
) -> Result<Duration, Shutdown> {
    // Between half of the pause and all of it, so that writers that failed together don't return
    // together.
    let jitter = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    let sleep = tokio::time::sleep(delay.mul_f64(0.5 + jitter / 2.0));
    stop.run_until_cancelled(sleep).await.ok_or(Shutdown)?;
    Ok((delay * 2).min(RETRY_DELAY_MAX))
}
