//! Ingest: a batch of records, one transaction per tenant. After it every record is applied, known as a
//! repeat, parked, or was none of ours (invariants I2, I3).

use std::{
    collections::{BTreeMap, HashSet},
    iter::Sum,
    ops::Add,
    sync::Arc,
    time::Duration,
};

use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::tenants::{Tenant, Tenants};
use crate::{
    clock::Clock,
    event::{Event, Reading, Reason, Record, Reject, TenantId, Topic, decode},
    patron::{Fee, Loan},
    store::{
        self, Db, Schema, Verdict,
        dead_letters::{self, DeadLetter},
        inbox, merge,
        positions::{self, Position, Positions},
        tenants,
    },
    telemetry::Chain,
};

/// How long to wait before a batch is offered again: doubled each time, up to a limit.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
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
}

/// What became of a batch's records.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Merged, and durable.
    pub applied: usize,
    /// Known already.
    pub repeated: usize,
    /// Parked as dead letters.
    pub parked: usize,
    /// Of a tenant that is not enabled.
    pub passed_by: usize,
    /// Without a value.
    pub tombstones: usize,
}

impl Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            applied: self.applied + other.applied,
            repeated: self.repeated + other.repeated,
            parked: self.parked + other.parked,
            passed_by: self.passed_by + other.passed_by,
            tombstones: self.tombstones + other.tombstones,
        }
    }
}

impl Sum for Tally {
    fn sum<I: Iterator<Item = Self>>(tallies: I) -> Self {
        tallies.fold(Self::default(), Add::add)
    }
}

/// The service stops; what was not settled is read again by whoever comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped;

/// Applies batches.
pub struct Ingest {
    db: Db,
    tenants: Arc<Tenants>,
    clock: Clock,
    /// A share that takes longer is given up and offered again: its connection may have died without a
    /// word.
    patience: Duration,
    /// Where records are parked whose tenant can't be told.
    nobody: Schema,
}

/// A record and what it turned out to be.
type Item<'a> = (&'a Incoming, Reading);

impl Ingest {
    /// `db` is the writers' pool, `statement` the longest time that the server gives one statement.
    pub fn new(db: Db, tenants: Arc<Tenants>, clock: Clock, statement: Duration) -> Self {
        let patience = statement + SHARE_MORE;
        Self { db, tenants, clock, patience, nobody: Schema::module() }
    }

    /// Settles a batch: on `Ok` every record in it is durable or none of ours, and its offset may move
    /// on. While the database is away the batch is offered again and again, until `stop`.
    pub async fn settle(
        &self,
        batch: &[&Incoming],
        stop: &CancellationToken,
    ) -> Result<Tally, Stopped> {
        let mut shares: BTreeMap<Option<TenantId>, Vec<Item<'_>>> = BTreeMap::new();
        let mut tally = Tally::default();
        for incoming in batch {
            let reading = decode::read(&incoming.record, &incoming.topic, &incoming.cluster);
            match &reading {
                Reading::Event(tenant, _) | Reading::Dead(Some(tenant), _) => {
                    shares.entry(Some(tenant.clone())).or_default().push((incoming, reading));
                }
                Reading::Dead(None, _) => shares.entry(None).or_default().push((incoming, reading)),
                Reading::Tombstone => tally.tombstones += 1,
            }
        }
        for (tenant, mut items) in shares {
            tally = tally + self.settle_share(tenant.as_ref(), &mut items, stop).await?;
        }
        Ok(tally)
    }

    /// Settles what belongs to one tenant. A share that the database refuses for its content is halved
    /// until the culprit stands alone, which is parked.
    async fn settle_share(
        &self,
        tenant: Option<&TenantId>,
        items: &mut [Item<'_>],
        stop: &CancellationToken,
    ) -> Result<Tally, Stopped> {
        let mut tally = Tally::default();
        let mut pause = FIRST_PAUSE;
        // Ranges still to be settled, the first on top.
        let mut todo = Vec::with_capacity(8);
        todo.push(0..items.len());
        while let Some(range) = todo.pop() {
            let applied = timeout(self.patience, self.apply(tenant, &items[range.clone()])).await;
            match applied.unwrap_or(Err(store::Error::Silent)) {
                Ok(done) => {
                    tally = tally + done;
                    pause = FIRST_PAUSE;
                }
                Err(error)
                    if error.verdict() == Verdict::Refused && !is_parked(&items[range.clone()]) =>
                {
                    warn!(tenant = ?tenant, records = range.len(), error = %Chain(&error),
                        "the database refuses a share of a batch; looking for the record");
                    if range.len() == 1 {
                        park(&mut items[range.start], tenant);
                        todo.push(range);
                    } else {
                        let middle = range.start + range.len() / 2;
                        todo.extend([middle..range.end, range.start..middle]);
                    }
                }
                Err(error) => {
                    warn!(tenant = ?tenant, records = range.len(), error = %Chain(&error),
                        "batch not stored; it will be offered again");
                    todo.push(range);
                    let sleep = tokio::time::sleep(with_jitter(pause));
                    stop.run_until_cancelled(sleep).await.ok_or(Stopped)?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
        Ok(tally)
    }

    /// One transaction: the inbox claim, the merge with its counters, dead letters and positions.
    async fn apply(
        &self,
        tenant: Option<&TenantId>,
        items: &[Item<'_>],
    ) -> Result<Tally, store::Error> {
        let Some(id) = tenant else { return self.park_of_nobody(items).await };
        let passed_by = Tally { passed_by: items.len(), ..Tally::default() };
        let Some(tenant) = self.tenants.find(id).await? else { return Ok(passed_by) };

        let mut tx = store::begin(&self.db).await?;
        if !tenants::enter(&mut tx, id).await? {
            self.tenants.forget(id);
            debug!(tenant = %id, records = items.len(), "records of a tenant that is not enabled");
            return Ok(passed_by);
        }
        let tally = self.store(&mut tx, &tenant, items).await?;
        store::commit(tx).await?;
        Ok(tally)
    }

    async fn store(
        &self,
        tx: &mut store::Tx,
        tenant: &Tenant,
        items: &[Item<'_>],
    ) -> Result<Tally, store::Error> {
        let schema = &tenant.schema;
        let letters = letters(items);
        if !letters.is_empty() {
            dead_letters::park(tx, schema, &letters, self.clock.now()).await?;
        }
        let events: Vec<(&Record, &Event)> = items.iter().filter_map(event_of).collect();
        let mut applied = 0;
        if !events.is_empty() {
            let fresh = inbox::claim(tx, schema, &events, self.clock.now()).await?;
            applied = fresh.len();
            if applied > 0 {
                let (loans, fees) = fold(events.iter().map(|(_, event)| *event), fresh);
                merge::merge(tx, schema, &loans, &fees).await?;
            }
        }
        positions::advance(tx, schema, &positions(items)).await?;
        Ok(Tally {
            applied,
            repeated: events.len() - applied,
            parked: letters.len(),
            ..Tally::default()
        })
    }

    async fn park_of_nobody(&self, items: &[Item<'_>]) -> Result<Tally, store::Error> {
        let letters = letters(items);
        let mut tx = store::begin(&self.db).await?;
        dead_letters::park(&mut tx, &self.nobody, &letters, self.clock.now()).await?;
        store::commit(tx).await?;
        Ok(Tally { parked: letters.len(), ..Tally::default() })
    }
}

fn event_of<'a>((incoming, reading): &'a Item<'_>) -> Option<(&'a Record, &'a Event)> {
    match reading {
        Reading::Event(_, event) => Some((&incoming.record, event)),
        Reading::Dead(..) | Reading::Tombstone => None,
    }
}

fn letters<'a>(items: &'a [Item<'_>]) -> Vec<DeadLetter<'a>> {
    let letter = |(incoming, reading): &'a Item<'_>| match reading {
        Reading::Dead(_, reject) => {
            let id = decode::place_key(&incoming.record, &incoming.cluster);
            Some(DeadLetter { id, record: &incoming.record, reject })
        }
        Reading::Event(..) | Reading::Tombstone => None,
    };
    items.iter().filter_map(letter).collect()
}

fn is_parked(items: &[Item<'_>]) -> bool {
    matches!(items, [(_, Reading::Dead(..))])
}

fn park(item: &mut Item<'_>, tenant: Option<&TenantId>) {
    let rule = "the database refuses to store it";
    item.1 = Reading::Dead(tenant.cloned(), Reject::new(Reason::RefusedByDatabase, None, rule));
}

/// What the fresh events say, folded to one entry a loan and a fee/fine.
fn fold<'a>(
    events: impl Iterator<Item = &'a Event>,
    mut fresh: HashSet<Uuid>,
) -> (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>) {
    let (mut loans, mut fees) = (BTreeMap::<Uuid, Loan>::new(), BTreeMap::<Uuid, Fee>::new());
    // A key that came twice in this batch is taken once.
    for event in events.filter(|event| fresh.remove(&event.key)) {
        if let Some((id, said)) = Loan::said_by(event) {
            let known = loans.entry(id).or_default();
            *known = std::mem::take(known).merge(said);
        }
        if let Some((id, said)) = Fee::said_by(event) {
            let known = fees.entry(id).or_default();
            *known = std::mem::take(known).merge(said);
        }
    }
    (loans, fees)
}

fn positions<'a>(items: &'a [Item<'_>]) -> Positions<'a> {
    let mut positions = Positions::new();
    for (Incoming { record, .. }, _) in items {
        let reached =
            Position { next_offset: record.place.offset + 1, last_record_at: record.timestamp };
        positions
            .entry((&*record.place.topic, record.place.partition))
            .and_modify(|position: &mut Position| {
                position.next_offset = position.next_offset.max(reached.next_offset);
                position.last_record_at = position.last_record_at.max(reached.last_record_at);
            })
            .or_insert(reached);
    }
    positions
}

/// Between half of the pause and all of it, so that writers that failed together don't return together.
fn with_jitter(pause: Duration) -> Duration {
    let share = f64::from(Uuid::new_v4().as_fields().0) / f64::from(u32::MAX);
    pause.mul_f64(0.5 + share / 2.0)
}
