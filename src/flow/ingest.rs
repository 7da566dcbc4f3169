//! Ingest: a batch of records, one transaction per tenant. After it every record is applied, known as a
//! repeat, parked, or was none of ours (invariants I2, I3); or its partition is held where it stands.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};
use uuid::Uuid;

use super::{
    batch::{self, Batch, Item, Read, Share, What, Whose},
    ending::Ended,
    ledger::{Beside, Entry, Ledger, Opening},
    outcome::{At, Ends, Hold, Outcome, Tally},
    share_size::ShareSizes,
    stop_rule::{StopRule, Watch},
};
use crate::{
    clock::Clock,
    event::{Event, Reason, Record, Reject, TenantId, Topic},
    figures::figures,
    patron::Said,
    store::{self, LockWait, Verdict},
    telemetry::Chain,
};

/// How long to wait before a batch is offered again: doubled each time, up to a limit.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What a share may take beyond its longest statement.
const SHARE_MORE: Duration = Duration::from_secs(10);

/// A record with what its topic and broker tell of it.
#[derive(Debug)]
pub struct Incoming {
    /// The record.
    pub record: Record,
    /// Its topic.
    pub topic: Arc<Topic>,
    /// The broker's cluster id.
    pub cluster: Arc<str>,
    /// Whether what stands before it in its partition was kept: not where it was passed by, because
    /// the tenant wasn't enabled.
    pub kept: bool,
    /// The offset up to which its partition was read before.
    pub position: i64,
}

/// The service stops; what was not settled is read again by whoever comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Applies batches.
pub struct Ingest<L> {
    pub(super) ledger: L,
    /// A share that takes longer is given up and offered again: its connection may have died without a
    /// word.
    pub(super) patience: Duration,
    rule: StopRule,
    /// Whether figures tell tenants apart.
    pub(super) by_tenant: bool,
    clock: Clock,
    watches: Mutex<HashMap<At, Watch>>,
    /// Tenants who could not be written when it was last tried.
    unusable: Mutex<HashSet<TenantId>>,
    sizes: ShareSizes,
}

/// How a share ended.
enum Settled {
    /// Durable.
    Kept,
    /// Its tenant isn't enabled.
    PassedBy,
    /// Its tenant's tables can't be written, or a single record takes too long. So many records from the first on
    /// are durable all the same.
    Unusable(usize),
    /// Its tenant's schema is being migrated.
    Migrating,
    /// Its tenant was enabled again: its own topics are begun anew, and what else there is may be settled.
    Renewed,
    /// What stands before it comes first: its tenant is enabled by now, or its topic was made anew.
    Anew,
}

/// What became of a transaction.
enum Applied {
    Durable(Tally),
    PassedBy,
    Renewed,
    Anew,
}

impl<L: Ledger> Ingest<L> {
    /// `statement` is the longest time that the server gives one statement.
    pub fn new(ledger: L, clock: Clock, statement: Duration, rule: StopRule) -> Self {
        Self {
            ledger,
            patience: statement + SHARE_MORE,
            rule,
            by_tenant: false,
            clock,
            watches: Mutex::default(),
            unusable: Mutex::default(),
            sizes: ShareSizes::default(),
        }
    }

    /// The same, with figures for each tenant.
    pub fn with_figures_by_tenant(self, by_tenant: bool) -> Self {
        Self { by_tenant, ..self }
    }

    /// An incident says that a tenant can't be written. It ends with the next batch that can.
    pub fn doubt(&self, tenant: TenantId) {
        self.unusable.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant);
    }

    /// What was seen of a partition counts no more: it was taken over, or resumed by an operator.
    pub fn look_afresh(&self, topic: &Arc<str>, partition: i32) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        watches.remove(&(topic.clone(), partition));
    }

    /// Settles a batch: up to the ends that it returns every record is durable or none of ours, and
    /// offsets may move there. While the database is away the batch is offered again and again, until
    /// `stop`.
    pub async fn settle(
        &self,
        batch: &[&Incoming],
        stop: &CancellationToken,
    ) -> Result<Outcome, Stopped> {
        let began = Instant::now();
        let read = Read::of(batch);
        let enabled = self.enabled_of(read.suspects(), stop).await?;
        let Batch { shares, mut ends, tombstones, skipped } = {
            let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
            read.share(&mut watches, self.rule, &enabled)
        };
        let mut tally = Tally { tombstones, skipped, ..Tally::default() };
        let mut todo: VecDeque<(Whose, Share<'_>)> = shares.into_iter().collect();
        while let Some((whose, mut items)) = todo.pop_front() {
            if items.is_empty() {
                continue;
            }
            let (settled, done) = self.settle_share(&whose, &mut items, stop).await?;
            tally = tally + done;
            // Only of tenants that are enabled: any record may name any other.
            if self.by_tenant
                && matches!(settled, Settled::Kept)
                && let Some(tenant) = &whose.tenant
            {
                figures().of_tenant(tenant, done);
            }
            self.note_refused(&items, &mut ends);
            match settled {
                Settled::Kept => {
                    self.count(&items);
                    self.note_usable(whose.tenant.as_ref()).await;
                }
                Settled::PassedBy => ends.pass_by(&items),
                Settled::Anew => ends.pause(&items, Hold::Anew),
                Settled::Migrating => ends.pause(&items, Hold::Migrating),
                Settled::Renewed => {
                    ends.hold_own(&items, Hold::Anew);
                    items.retain(Item::is_of_a_collection);
                    todo.push_front((whose, items));
                }
                Settled::Unusable(durable) => {
                    let mut rest = items.split_off(durable);
                    self.count(&items);
                    ends.hold_own(&rest, Hold::Unusable);
                    rest.retain(Item::is_of_a_collection);
                    if let Some(id) = whose.tenant {
                        tally = tally + self.park_waiting(&id, &rest, &mut ends, stop).await?;
                        self.doubt(id);
                    }
                }
            }
        }
        self.settle_rest(batch, &mut ends, stop).await?;
        if !batch.is_empty() {
            figures().batch(batch.len(), began.elapsed(), tally);
        }
        Ok(Outcome { tally, ends })
    }

    /// Those of these tenants that are enabled: asked only where records are bad, until it is known.
    async fn enabled_of(
        &self,
        tenants: BTreeSet<TenantId>,
        stop: &CancellationToken,
    ) -> Result<BTreeSet<TenantId>, Stopped> {
        let mut enabled = BTreeSet::new();
        for tenant in tenants {
            let mut pause = FIRST_PAUSE;
            loop {
                match store::within(self.patience, self.ledger.is_enabled(&tenant)).await {
                    Ok(true) => enabled.insert(tenant),
                    Ok(false) => false,
                    Err(error) => {
                        warn!(%tenant, error = %Chain(&error), "ingest: could not look up the tenant; retrying");
                        pause = wait(pause, stop).await?;
                        continue;
                    }
                };
                break;
            }
        }
        Ok(enabled)
    }

    /// What became durable.
    fn count(&self, items: &[Item<'_>]) {
        let (figures, now) = (figures(), self.clock.now());
        for Item { incoming, what } in items {
            match what {
                What::Event(event) => figures.event(event, incoming.record.timestamp, now),
                What::Dead(reject) => figures.parked(incoming.topic.kind, reject.reason),
                What::Nothing => {}
            }
        }
    }

    /// Settles what belongs to one tenant. Of a share that the database refuses for its content, less is tried
    /// until the culprit stands alone, which is parked. Of one that takes too long, less is tried as well; where
    /// even a single record does, the tenant waits and nobody else.
    async fn settle_share(
        &self,
        whose: &Whose,
        items: &mut Share<'_>,
        stop: &CancellationToken,
    ) -> Result<(Settled, Tally), Stopped> {
        let tenant = whose.tenant.as_ref();
        let mut tally = Tally::default();
        let (mut pause, mut size) = (FIRST_PAUSE, self.sizes.begin(tenant));
        let mut durable = 0;
        while durable < items.len() {
            let range = size.next(durable..items.len());
            let (share, many) = (&items[range.clone()], range.len());
            let error = match self.settle_some(whose, share, size.wait, stop).await? {
                Ok(Applied::Durable(done)) => {
                    tally = tally + done;
                    (pause, durable) = (FIRST_PAUSE, range.end);
                    size.grow();
                    continue;
                }
                Ok(Applied::Anew) => return Ok((Settled::Anew, tally)),
                Ok(Applied::Renewed) => return Ok((Settled::Renewed, tally)),
                Ok(Applied::PassedBy) => {
                    debug!(?tenant, records = many, "ingest: skipped records of a tenant that is not enabled");
                    let is_record = |item: &&Item<'_>| !matches!(item.what, What::Nothing);
                    tally.passed_by += items.iter().filter(is_record).count();
                    return Ok((Settled::PassedBy, tally));
                }
                Err(error) => error,
            };
            if error.awaits_migration() {
                debug!(?tenant, records = many, error = %Chain(&error), "ingest: the schema of the tenant is not migrated yet; its records wait");
                return Ok((Settled::Migrating, tally));
            }
            let of_server = !matches!(error, store::Error::Silent);
            match error.verdict() {
                Verdict::Refused if !is_parked(share) => {
                    warn!(?tenant, records = many, error = %Chain(&error),
                        "ingest: the database rejected the records of a tenant; bisecting to find the bad record");
                    match many {
                        1 => items[durable].what = refused(),
                        _ => size.halve(many),
                    }
                    continue;
                }
                Verdict::Unusable if tenant.is_some() => {
                    error!(?tenant, records = items.len() - durable, error = %Chain(&error),
                        "ingest: could not write the tables of a tenant; its partitions are paused");
                    return Ok((Settled::Unusable(durable), tally));
                }
                _ if error.is_timeout() && of_server && many == 1 && tenant.is_some() => {
                    error!(?tenant, records = items.len() - durable, error = %Chain(&error),
                        "ingest: writing the tables of a tenant timed out; its partitions are paused");
                    size.shrink(many);
                    self.sizes.end(tenant, size);
                    return Ok((Settled::Unusable(durable), tally));
                }
                _ if error.is_timeout() && many > 1 => {
                    warn!(?tenant, records = many, error = %Chain(&error),
                        "ingest: writing the records of a tenant timed out; retrying with fewer records");
                    size.shrink(many);
                }
                _ => warn!(?tenant, records = many, error = %Chain(&error),
                    "ingest: could not commit the batch; retrying"),
            }
            figures().retries.increment(1);
            pause = wait(pause, stop).await?;
        }
        self.sizes.end(tenant, size);
        Ok((Settled::Kept, tally))
    }

    /// Settles some of a share: in one transaction, unless it says that all loans were deleted.
    async fn settle_some(
        &self,
        whose: &Whose,
        items: &[Item<'_>],
        wait: LockWait,
        stop: &CancellationToken,
    ) -> Result<Result<Applied, store::Error>, Stopped> {
        if let Some(tenant) = whose.tenant.as_ref().filter(|_| whose.kept) {
            let events = items.iter().filter_map(Item::event).map(|(_, event)| event);
            match self.end_loans(tenant, events, wait, stop).await {
                Ok(Ended::All) => {}
                Ok(Ended::NotEnabled) => return Ok(Ok(Applied::PassedBy)),
                Ok(Ended::Stopped) => return Err(Stopped),
                Err(error) => return Ok(Err(error)),
            }
        }
        Ok(store::within(self.patience, self.apply(whose, items, wait)).await)
    }

    /// One transaction: the inbox claim, the merge with its counters, dead letters and positions.
    async fn apply(
        &self,
        whose: &Whose,
        items: &[Item<'_>],
        wait: LockWait,
    ) -> Result<Applied, store::Error> {
        let events: Vec<(&Record, &Event)> = items.iter().filter_map(Item::event).collect();
        let beside = Beside::of(&events);
        let mut entry = match self.ledger.open(whose.tenant.as_ref(), beside, wait).await? {
            Opening::NotEnabled => return Ok(Applied::PassedBy),
            Opening::Renewed(_) if !items.iter().all(Item::is_of_a_collection) => {
                return Ok(Applied::Renewed);
            }
            Opening::Open(entry) | Opening::Renewed(entry) => entry,
        };
        if !whose.kept {
            return Ok(Applied::Anew);
        }
        let mut tally = Tally::default();
        let letters: Vec<_> = items.iter().filter_map(Item::letter).collect();
        if !letters.is_empty() {
            entry.park(&letters).await?;
            tally.parked = letters.len();
        }
        if !events.is_empty() {
            let fresh = entry.claim(&events).await?;
            (tally.applied, tally.repeated) = (fresh.len(), events.len() - fresh.len());
            if !fresh.is_empty() {
                entry.merge(&fold(&events, fresh)).await?;
            }
        }
        if whose.tenant.is_some() && !entry.advance(&batch::positions(items)).await? {
            return Ok(Applied::Anew);
        }
        entry.commit().await?;
        Ok(Applied::Durable(tally))
    }

    /// A tenant that could not be written can be: its incidents are over.
    pub async fn usable_again(&self, tenant: &TenantId) {
        self.doubt(tenant.clone());
        self.note_usable(Some(tenant)).await;
    }

    async fn note_usable(&self, tenant: Option<&TenantId>) {
        let Some(id) = tenant else { return };
        if !self.unusable.lock().unwrap_or_else(PoisonError::into_inner).remove(id) {
            return;
        }
        if let Err(error) = store::within(self.patience, self.ledger.usable_again(id)).await {
            warn!(tenant = %id, error = %Chain(&error), "ingest: could not resolve the incidents of a tenant; retrying");
            self.doubt(id.clone());
        }
    }

    /// Records that the database refused are bad records, which was not seen when they were read.
    fn note_refused(&self, items: &[Item<'_>], ends: &mut Ends) {
        let mut watches = self.watches.lock().unwrap_or_else(PoisonError::into_inner);
        for item in items {
            if matches!(&item.what, What::Dead(reject) if reject.reason == Reason::RefusedByDatabase)
                && watches.entry(item.at()).or_default().note_refused(self.rule)
            {
                ends.hold(item.at(), Hold::Stopped);
            }
        }
    }
}

fn is_parked(items: &[Item<'_>]) -> bool {
    matches!(items, [Item { what: What::Dead(_), .. }])
}

fn refused() -> What {
    let rule = "the database refuses to store it";
    What::Dead(Reject::new(Reason::RefusedByDatabase, None, rule))
}

/// What the fresh events say, folded. A key that came twice in this batch is taken once.
pub(super) fn fold(events: &[(&Record, &Event)], mut fresh: HashSet<Uuid>) -> Said {
    let events = events.iter().map(|(_, event)| *event);
    Said::by(events.filter(|event| fresh.remove(&event.key)))
}

/// Waits and returns how long to wait the next time.
pub(super) async fn wait(pause: Duration, stop: &CancellationToken) -> Result<Duration, Stopped> {
    // Between half of the pause and all of it, so that writers that failed together don't return
    // together.
    let share = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    let sleep = tokio::time::sleep(pause.mul_f64(0.5 + share / 2.0));
    stop.run_until_cancelled(sleep).await.ok_or(Stopped)?;
    Ok((pause * 2).min(LONGEST_PAUSE))
}
