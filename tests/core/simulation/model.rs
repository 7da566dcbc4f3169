//! An implementation of `IngestStore` without SQL: a plain model of PostgreSQL's promises and failures.
//! The pure core merges rows, and counters change by deltas as in the SQL.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    error::Error as StdError,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
};

use chrono::{DateTime, Utc};
use patron_blocks::{
    event::{Event, Record, TenantId, stamp::Horizon},
    patron::{Fee, Loan, Register, StateDelta},
    services::ingest::ingest_store::{BeginOutcome, IngestStore, IngestTx, TenantLock},
    store::{
        Error, LockTimeout,
        ingest::{
            dead_letters::DeadLetter,
            incidents::{Incident, IncidentKind},
            positions::{Position, Positions},
        },
    },
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::support::history::noon;

/// The stored rows of one tenant, or of no tenant.
#[derive(Debug, Default, Clone)]
pub(super) struct Rows {
    pub(super) inbox: BTreeSet<Uuid>,
    pub(super) loans: BTreeMap<Uuid, Loan>,
    pub(super) fees: BTreeMap<Uuid, Fee>,
    pub(super) groups: BTreeMap<Uuid, Register<Option<String>>>,
    pub(super) no_loans_before: Option<Horizon>,
    /// The horizon in each loan's row. Steps that end loans may not have reached every loan yet.
    horizons: BTreeMap<Uuid, Horizon>,
    pub(super) counters: BTreeMap<Uuid, Counters>,
    pub(super) dead_letters: BTreeSet<Uuid>,
    pub(super) positions: BTreeMap<(String, i32), Position>,
}

/// Numbers of open, lost, claimed returned and recalled loans and of open fees/fines, and the balance of
/// the latter.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) loans: i64,
    pub(super) lost: i64,
    pub(super) claimed: i64,
    pub(super) recalled: i64,
    pub(super) fees: i64,
    pub(super) balance: Decimal,
}

impl Counters {
    pub(super) fn add(&mut self, other: &Self, sign: i64) {
        self.loans += sign * other.loans;
        self.lost += sign * other.lost;
        self.claimed += sign * other.claimed;
        self.recalled += sign * other.recalled;
        self.fees += sign * other.fees;
        self.balance += Decimal::from(sign) * other.balance;
    }

    pub(super) fn of_loan(loan: &Loan, horizon: Option<Horizon>) -> Option<(Uuid, Self)> {
        let open = loan.as_open(horizon)?;
        let counts = |is: bool| i64::from(is && !open.claimed_returned);
        let (lost, recalled) = (counts(open.lost), counts(open.recall));
        let claimed = i64::from(open.claimed_returned);
        Some((open.user, Self { loans: 1, lost, claimed, recalled, ..Self::default() }))
    }

    pub(super) fn of_fee(fee: &Fee) -> Option<(Uuid, Self)> {
        let open = fee.as_open(None)?;
        Some((open.user, Self { fees: 1, balance: open.balance, ..Self::default() }))
    }
}

/// A deliberate fault of the merge, which the simulation must detect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum InjectedFault {
    None,
    /// A later check-out erases the end of the loan.
    Tombstone,
    /// The last event to arrive decides the due date.
    LastDueWins,
    /// Counters change by the content of the batch instead of by the difference.
    NoDelta,
    /// The inbox recognizes no repeated events, and counters count them.
    NoInbox,
    /// The last event to arrive decides the patron group.
    LastGroupWins,
    /// Loans that arrive after the deletion of all loans stay open.
    NoHorizon,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) rows: BTreeMap<Option<TenantId>, Rows>,
    pub(super) enabled: BTreeSet<TenantId>,
    pub(super) unusable: BTreeSet<TenantId>,
    /// The number of events of each tenant that fit into one transaction's time.
    pub(super) timely_events: BTreeMap<TenantId, usize>,
    pub(super) stopped: BTreeSet<(String, i32)>,
    /// Keys that open transactions have claimed. Other transactions wait for these keys, as with a
    /// unique index.
    claimed: BTreeSet<(Option<TenantId>, Uuid)>,
    /// Events that the database refuses for their content.
    pub(super) refused: BTreeSet<Uuid>,
    /// Failures per hundred operations.
    pub(super) failing: u32,
    fault: InjectedFault,
    rng: ChaCha8Rng,
}

/// The model; clones share its state.
#[derive(Clone)]
pub(super) struct Model(Arc<Mutex<State>>);

impl Model {
    pub(super) fn new(seed: u64, enabled: BTreeSet<TenantId>, broken: InjectedFault) -> Self {
        Self(Arc::new(Mutex::new(State {
            rows: BTreeMap::new(),
            enabled,
            unusable: BTreeSet::new(),
            timely_events: BTreeMap::new(),
            stopped: BTreeSet::new(),
            claimed: BTreeSet::new(),
            refused: BTreeSet::new(),
            failing: 0,
            fault: broken,
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0x5eed),
        })))
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Simulates a round trip to the database: time passes, and the call may fail.
    async fn round_trip(&self) -> Result<(), Error> {
        yield_once().await;
        let failed = {
            let state = &mut *self.state();
            state.rng.random_range(0..100) < state.failing
        };
        if failed { Err(Error::Timeout) } else { Ok(()) }
    }
}

/// Returns `Pending` at the first poll, so a writer may stop there, or another writer may continue.
pub(super) fn yield_once() -> impl Future<Output = ()> + Send {
    let mut is_polled = false;
    std::future::poll_fn(move |_| {
        if std::mem::replace(&mut is_polled, true) { Poll::Ready(()) } else { Poll::Pending }
    })
}

/// A transaction with the changes that its commit will apply.
pub(super) struct ModelTx {
    model: Model,
    tenant: Option<TenantId>,
    claimed: Vec<Uuid>,
    delta: StateDelta,
    /// The horizon and id range of the loans that this transaction ends.
    ended: Option<(Horizon, Uuid, Option<Uuid>)>,
    dead_letters: Vec<Uuid>,
    positions: Vec<((String, i32), Position)>,
    stopped: Vec<(String, i32)>,
}

impl Drop for ModelTx {
    fn drop(&mut self) {
        let mut state = self.model.state();
        for key in &self.claimed {
            state.claimed.remove(&(self.tenant.clone(), *key));
        }
    }
}

impl IngestStore for Model {
    type Tx = ModelTx;

    /// A commit applies its changes at once, so the model needs no tenant locks.
    async fn begin(
        &self,
        tenant: Option<&TenantId>,
        _: TenantLock,
        _: LockTimeout,
    ) -> Result<BeginOutcome<ModelTx>, Error> {
        self.round_trip().await?;
        if tenant.is_some_and(|tenant| !self.state().enabled.contains(tenant)) {
            return Ok(BeginOutcome::TenantDisabled);
        }
        Ok(BeginOutcome::Started(ModelTx {
            model: self.clone(),
            tenant: tenant.cloned(),
            claimed: Vec::new(),
            delta: StateDelta::default(),
            ended: None,
            dead_letters: Vec::new(),
            positions: Vec::new(),
            stopped: Vec::new(),
        }))
    }

    async fn is_enabled(&self, tenant: &TenantId) -> Result<bool, Error> {
        self.round_trip().await?;
        Ok(self.state().enabled.contains(tenant))
    }

    async fn mark_writable(&self, _: &TenantId) -> Result<(), Error> {
        self.round_trip().await
    }
}

impl IngestTx for ModelTx {
    async fn now(&mut self) -> Result<DateTime<Utc>, Error> {
        self.model.round_trip().await?;
        Ok(noon())
    }

    async fn claim(&mut self, events: &[(&Record, &Event)]) -> Result<HashSet<Uuid>, Error> {
        self.model.round_trip().await?;
        let keys: BTreeSet<Uuid> = events.iter().map(|(_, event)| event.key).collect();
        loop {
            {
                let mut state = self.model.state();
                if self.tenant.as_ref().is_some_and(|tenant| state.unusable.contains(tenant)) {
                    return Err(database_error("42P01"));
                }
                let in_time =
                    self.tenant.as_ref().and_then(|tenant| state.timely_events.get(tenant));
                if in_time.is_some_and(|most| keys.len() > *most) {
                    return Err(database_error("57014"));
                }
                let taken = |key: &Uuid| state.claimed.contains(&(self.tenant.clone(), *key));
                if !keys.iter().any(taken) {
                    let known = state.rows.get(&self.tenant).map(|rows| rows.inbox.clone());
                    let known = known.filter(|_| state.fault != InjectedFault::NoInbox);
                    let is_known = |key: &Uuid| known.as_ref().is_some_and(|k| k.contains(key));
                    let fresh: HashSet<Uuid> =
                        keys.iter().filter(|key| !is_known(key)).copied().collect();
                    for key in &keys {
                        state.claimed.insert((self.tenant.clone(), *key));
                    }
                    self.claimed.extend(&keys);
                    return Ok(fresh);
                }
            }
            yield_once().await;
        }
    }

    async fn merge(&mut self, delta: &StateDelta) -> Result<(), Error> {
        self.model.round_trip().await?;
        if self.claimed.iter().any(|key| self.model.state().refused.contains(key)) {
            return Err(database_error("22003"));
        }
        self.delta = delta.clone();
        Ok(())
    }

    /// Ends at most two loans per step, so most deletions take several steps.
    async fn end_loans(
        &mut self,
        before: Horizon,
        from: Uuid,
        most: usize,
    ) -> Result<Option<Uuid>, Error> {
        self.model.round_trip().await?;
        let state = self.model.state();
        if self.tenant.as_ref().is_some_and(|tenant| state.unusable.contains(tenant)) {
            return Err(database_error("42P01"));
        }
        let rows = state.rows.get(&self.tenant);
        let next = rows.and_then(|rows| rows.loans.range(from..).nth(most.min(2)));
        let next = next.map(|(id, _)| *id);
        self.ended = Some((before, from, next));
        Ok(next)
    }

    async fn park(&mut self, letters: &[DeadLetter<'_>]) -> Result<(), Error> {
        self.model.round_trip().await?;
        self.dead_letters.extend(letters.iter().map(|letter| letter.id));
        Ok(())
    }

    async fn park_for_retry(
        &mut self,
        _: &TenantId,
        letters: &[DeadLetter<'_>],
    ) -> Result<bool, Error> {
        self.park(letters).await.map(|()| true)
    }

    async fn unpark(&mut self, _: Uuid) -> Result<(), Error> {
        unreachable!("the simulation has no retries")
    }

    async fn advance(&mut self, positions: &Positions<'_>) -> Result<bool, Error> {
        self.model.round_trip().await?;
        let is_set_back = {
            let state = self.model.state();
            let stored = state.rows.get(&self.tenant).map(|rows| &rows.positions);
            positions.iter().any(|((topic, partition), reached)| {
                let stored =
                    stored.and_then(|stored| stored.get(&((*topic).to_owned(), *partition)));
                stored.is_some_and(|stored| stored.next_offset < reached.read_from_offset)
            })
        };
        self.positions.extend(positions.iter().map(|((topic, partition), reached)| {
            let position = Position {
                next_offset: reached.next_offset,
                last_record_at: reached.last_record_at,
                cluster: reached.cluster.to_owned(),
            };
            (((*topic).to_owned(), *partition), position)
        }));
        Ok(!is_set_back)
    }

    async fn raise(&mut self, incident: &Incident) -> Result<(), Error> {
        self.model.round_trip().await?;
        if incident.kind == IncidentKind::PartitionStopped {
            self.stopped.push((incident.topic.clone(), incident.partition));
        }
        Ok(())
    }

    /// May fail before the commit, or after it, with the changes applied (a doubtful commit).
    async fn commit(self) -> Result<(), Error> {
        self.model.round_trip().await?;
        self.apply();
        self.model.round_trip().await
    }
}

impl ModelTx {
    fn apply(&self) {
        let mut guard = self.model.state();
        let state = &mut *guard;
        let broken = state.fault;
        let rows = state.rows.entry(self.tenant.clone()).or_default();
        rows.inbox.extend(&self.claimed);
        rows.dead_letters.extend(&self.dead_letters);
        let deleted_before =
            self.delta.loans_deleted_before.max(self.ended.map(|(before, ..)| before));
        rows.no_loans_before = rows.no_loans_before.max(deleted_before);
        let horizon = rows.no_loans_before.filter(|_| broken != InjectedFault::NoHorizon);
        if let (Some((_, from, to)), Some(horizon)) = (self.ended, horizon) {
            rows.end_loans(horizon, from, to);
        }
        for (id, change) in &self.delta.loans {
            let before = rows.loans.remove(id).unwrap_or_default();
            let mut after = before.clone().merge(change.clone());
            match broken {
                InjectedFault::Tombstone if change.check_out.is_some() => {
                    after.closed = change.closed
                }
                InjectedFault::LastDueWins => after.due = change.due.or(before.due),
                _ => {}
            }
            let counted = Counters::of_loan(&before, rows.horizons.get(id).copied());
            let counted = counted.filter(|_| broken != InjectedFault::NoDelta);
            move_counters(&mut rows.counters, counted, Counters::of_loan(&after, horizon));
            rows.loans.insert(*id, after);
            if let Some(horizon) = horizon {
                rows.horizons.insert(*id, horizon);
            }
        }
        for (id, change) in &self.delta.groups {
            let known = rows.groups.entry(*id).or_default();
            let older = known.as_ref().is_some_and(|known| Some(known) > change.as_ref());
            if !older || broken == InjectedFault::LastGroupWins {
                *known = change.clone();
            }
        }
        for (id, change) in &self.delta.fees {
            let before = rows.fees.remove(id).unwrap_or_default();
            let after = before.clone().merge(change.clone());
            // Only a delta is correct. Without the inbox, a repeated event must change no counter
            // either.
            let counted = Counters::of_fee(&before).filter(|_| broken != InjectedFault::NoDelta);
            move_counters(&mut rows.counters, counted, Counters::of_fee(&after));
            rows.fees.insert(*id, after);
        }
        for (at, reached) in &self.positions {
            let position = rows.positions.entry(at.clone()).or_insert_with(|| reached.clone());
            if position.next_offset < reached.next_offset {
                *position = reached.clone();
            }
        }
        state.stopped.extend(self.stopped.iter().cloned());
    }
}

impl Rows {
    /// Ends the loans of an id range and updates the counters.
    fn end_loans(&mut self, horizon: Horizon, from: Uuid, to: Option<Uuid>) {
        for (id, loan) in self.loans.range(from..) {
            if to.is_some_and(|to| *id >= to) {
                break;
            }
            let before = self.horizons.insert(*id, horizon);
            let counted = Counters::of_loan(loan, before);
            move_counters(&mut self.counters, counted, Counters::of_loan(loan, Some(horizon)));
        }
    }
}

fn move_counters(
    counters: &mut BTreeMap<Uuid, Counters>,
    before: Option<(Uuid, Counters)>,
    after: Option<(Uuid, Counters)>,
) {
    for (counted, sign) in [(before, -1), (after, 1)] {
        if let Some((user, delta)) = counted {
            counters.entry(user).or_default().add(&delta, sign);
        }
    }
}

/// Returns a database error with this SQLSTATE.
fn database_error(code: &'static str) -> Error {
    Error::at("work on the model")(sqlx::Error::Database(Box::new(SqlStateError(code))))
}

#[derive(Debug)]
struct SqlStateError(&'static str);

impl fmt::Display for SqlStateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl StdError for SqlStateError {}

impl sqlx::error::DatabaseError for SqlStateError {
    fn message(&self) -> &str {
        self.0
    }

    fn code(&self) -> Option<std::borrow::Cow<'_, str>> {
        Some(self.0.into())
    }

    fn as_error(&self) -> &(dyn StdError + Send + Sync + 'static) {
        self
    }

    fn as_error_mut(&mut self) -> &mut (dyn StdError + Send + Sync + 'static) {
        self
    }

    fn into_error(self: Box<Self>) -> Box<dyn StdError + Send + Sync + 'static> {
        self
    }

    fn kind(&self) -> sqlx::error::ErrorKind {
        sqlx::error::ErrorKind::Other
    }
}
