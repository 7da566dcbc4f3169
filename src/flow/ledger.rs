//! The seam between ingest and where it keeps what it learns: PostgreSQL here, a model of it in the
//! simulation, which fails and crashes wherever it may hurt.

use std::{
    collections::HashSet,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::info;
use uuid::Uuid;

use super::tenants::Tenants;
use crate::{
    clock::Clock,
    event::{Event, Fact, Record, TenantId, stamp::Horizon},
    figures::figures,
    patron::Said,
    store::{
        self, Db, Error, LockWait, Schema, Tx,
        dead_letters::{self, DeadLetter},
        inbox::{self, Guess},
        incidents::{self, Incident},
        merge,
        positions::{self, Positions},
        tenants,
    },
};

/// Beside whom a transaction may write a tenant's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Beside {
    /// Others who write at the same time: rows keep them apart.
    Others,
    /// Nobody: what is said is about all loans, those among them that another one is just entering.
    Nobody,
}

impl Beside {
    /// As these events need it.
    pub fn of(events: &[(&Record, &Event)]) -> Self {
        let of_all = |(_, event): &(_, &Event)| matches!(event.fact, Fact::AllLoansDeleted);
        if events.iter().any(of_all) { Self::Nobody } else { Self::Others }
    }
}

/// Where ingest keeps what it learns.
pub trait Ledger: Send + Sync {
    /// A transaction on what belongs to one tenant, or to none.
    type Entry: Entry;

    /// Begins a transaction for a tenant, `None` where it isn't enabled; or for what belongs to no
    /// tenant. It waits for no lock for longer than `wait`.
    fn open(
        &self,
        tenant: Option<&TenantId>,
        beside: Beside,
        wait: LockWait,
    ) -> impl Future<Output = Result<Option<Self::Entry>, Error>> + Send;

    /// A tenant whose tables could not be written can be written again: its incidents are over.
    fn usable_again(&self, tenant: &TenantId) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A transaction: all of it counts once committed, or nothing (invariant I3).
pub trait Entry: Send {
    /// Claims events in the inbox and tells which keys are new.
    fn claim(
        &mut self,
        events: &[(&Record, &Event)],
    ) -> impl Future<Output = Result<HashSet<Uuid>, Error>> + Send;

    /// Merges what fresh events say, and moves the counters with it.
    fn merge(&mut self, said: &Said) -> impl Future<Output = Result<(), Error>> + Send;

    /// One step of ending all loans that were opened before: about `most` loans of the patrons from `from` on.
    /// Gives the patron to go on from, `None` after the last. Steps may be repeated. An event that says so is
    /// merged after the last step.
    fn end_loans(
        &mut self,
        before: Horizon,
        from: Uuid,
        most: usize,
    ) -> impl Future<Output = Result<Option<Uuid>, Error>> + Send;

    /// Parks records.
    fn park(
        &mut self,
        letters: &[DeadLetter<'_>],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Takes a dead letter away that is applied after all.
    fn unpark(&mut self, id: Uuid) -> impl Future<Output = Result<(), Error>> + Send;

    /// Moves positions on.
    fn advance(
        &mut self,
        positions: &Positions<'_>,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Raises an incident.
    fn raise(&mut self, incident: &Incident) -> impl Future<Output = Result<(), Error>> + Send;

    /// Makes all of it durable.
    fn commit(self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The ledger that counts: PostgreSQL.
pub struct Database {
    db: Db,
    tenants: Arc<Tenants>,
    clock: Clock,
    /// Of what belongs to no tenant.
    module: Arc<Schema>,
    /// Whether most of the last batch was known: then most of the next one is, too.
    rereading: Arc<AtomicBool>,
}

impl Database {
    /// `db` is the writers' pool.
    pub fn new(db: Db, tenants: Arc<Tenants>, clock: Clock) -> Self {
        Self { db, tenants, clock, module: Arc::new(Schema::module()), rereading: Arc::default() }
    }
}

/// A transaction of PostgreSQL.
pub struct DatabaseEntry {
    tx: Tx,
    schema: Arc<Schema>,
    /// Whose it is, and whom to tell that something has happened.
    of: Option<(TenantId, Arc<Tenants>)>,
    clock: Clock,
    rereading: Arc<AtomicBool>,
}

impl Ledger for Database {
    type Entry = DatabaseEntry;

    async fn open(
        &self,
        tenant: Option<&TenantId>,
        beside: Beside,
        wait: LockWait,
    ) -> Result<Option<DatabaseEntry>, Error> {
        let (clock, rereading) = (self.clock.clone(), self.rereading.clone());
        let Some(id) = tenant else {
            let tx = store::begin_waiting(&self.db, wait).await?;
            let schema = self.module.clone();
            return Ok(Some(DatabaseEntry { tx, schema, of: None, clock, rereading }));
        };
        let Some(tenant) = self.tenants.find(id).await? else { return Ok(None) };
        let mut tx = store::begin_waiting(&self.db, wait).await?;
        // Enabled again it is another tenant: what was read before may have been purged, so where
        // reading begins is to be asked first.
        let since = match beside {
            Beside::Others => tenants::enter(&mut tx, id).await?,
            Beside::Nobody => {
                tenants::enter_alone(&mut tx, id).await?;
                tenants::enabled_since(&mut *tx, id).await?
            }
        };
        if since != Some(tenant.since) {
            self.tenants.forget(id);
            return Ok(None);
        }
        let of = Some((id.clone(), self.tenants.clone()));
        Ok(Some(DatabaseEntry { tx, schema: tenant.schema.clone(), of, clock, rereading }))
    }

    async fn usable_again(&self, tenant: &TenantId) -> Result<(), Error> {
        let mut tx = store::begin(&self.db).await?;
        let was_open = incidents::usable_again(&mut tx, tenant, self.clock.now()).await?;
        store::commit(tx).await?;
        if was_open {
            info!(%tenant, "a tenant's tables can be written again");
        }
        Ok(())
    }
}

impl Entry for DatabaseEntry {
    async fn claim(&mut self, events: &[(&Record, &Event)]) -> Result<HashSet<Uuid>, Error> {
        let rereading = self.rereading.load(Ordering::Relaxed);
        let guess = if rereading { Guess::Known } else { Guess::New };
        let now = self.clock.now();
        let fresh = inbox::claim(&mut self.tx, &self.schema, events, guess, now).await?;
        self.rereading.store(fresh.len() * 2 < events.len(), Ordering::Relaxed);
        Ok(fresh)
    }

    async fn merge(&mut self, said: &Said) -> Result<(), Error> {
        merge::hear(&mut self.tx, &self.schema, said).await
    }

    async fn end_loans(
        &mut self,
        before: Horizon,
        from: Uuid,
        most: usize,
    ) -> Result<Option<Uuid>, Error> {
        merge::end_loans_before(&mut self.tx, &self.schema, before, from, most).await
    }

    async fn park(&mut self, letters: &[DeadLetter<'_>]) -> Result<(), Error> {
        let now = self.clock.now();
        dead_letters::park(&mut self.tx, &self.schema, letters, now).await.map(|_| ())
    }

    async fn unpark(&mut self, id: Uuid) -> Result<(), Error> {
        dead_letters::unpark(&mut self.tx, &self.schema, id).await
    }

    async fn advance(&mut self, positions: &Positions<'_>) -> Result<(), Error> {
        positions::advance(&mut self.tx, &self.schema, positions).await
    }

    async fn raise(&mut self, incident: &Incident) -> Result<(), Error> {
        if incidents::raise(&mut self.tx, incident, self.clock.now()).await? {
            figures().incident(incident.kind);
        }
        Ok(())
    }

    async fn commit(self) -> Result<(), Error> {
        store::commit(self.tx).await?;
        if let Some((tenant, tenants)) = self.of {
            tenants.touched.wake(&tenant);
        }
        Ok(())
    }
}
