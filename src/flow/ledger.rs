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

use chrono::{DateTime, Utc};
use tracing::info;
use uuid::Uuid;

use super::{parked::Parked, tenants::Tenants};
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

/// Records of tenant collections that wait for one tenant, at most: then their topics wait.
const WAITING_MAX: i64 = 10_000;

/// How often a tenant is looked up anew when it turns out to be enabled again.
const LOOKUPS: usize = 3;

/// A transaction that was asked for.
#[derive(Debug)]
pub enum Opening<E> {
    /// The tenant isn't enabled: only then a record is passed by.
    NotEnabled,
    /// It is begun.
    Open(E),
    /// It is begun, and the tenant was enabled again since it was last seen. It may have been purged in
    /// between, so where reading of its own topics begins is to be asked first.
    Renewed(E),
}

/// Where ingest keeps what it learns.
pub trait Ledger: Send + Sync {
    /// A transaction on what belongs to one tenant, or to none.
    type Entry: Entry;

    /// Begins a transaction for a tenant, or for what belongs to no tenant. It waits for no lock for longer than
    /// `wait`.
    fn open(
        &self,
        tenant: Option<&TenantId>,
        beside: Beside,
        wait: LockWait,
    ) -> impl Future<Output = Result<Opening<Self::Entry>, Error>> + Send;

    /// Whether a tenant is enabled.
    fn is_enabled(&self, tenant: &TenantId) -> impl Future<Output = Result<bool, Error>> + Send;

    /// A tenant whose tables could not be written can be written again: its incidents are over.
    fn usable_again(&self, tenant: &TenantId) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A transaction: all of it counts once committed, or nothing (invariant I3).
pub trait Entry: Send {
    /// The time by the clock that all instances share.
    fn now(&mut self) -> impl Future<Output = Result<DateTime<Utc>, Error>> + Send;

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

    /// Parks records of tenant collections for a tenant that can't be written, to be retried by the service.
    /// Returns `false`, and parks nothing, where so many wait already that their topics have to wait.
    fn park_waiting(
        &mut self,
        tenant: &TenantId,
        letters: &[DeadLetter<'_>],
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Takes a dead letter away that is applied after all.
    fn unpark(&mut self, id: Uuid) -> impl Future<Output = Result<(), Error>> + Send;

    /// Moves positions on, and tells whether none was set back since these records were read.
    fn advance(
        &mut self,
        positions: &Positions<'_>,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

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
    /// Whom to tell of what is parked.
    parked: Arc<Parked>,
    rereading: Arc<AtomicBool>,
}

impl Ledger for Database {
    type Entry = DatabaseEntry;

    async fn open(
        &self,
        tenant: Option<&TenantId>,
        beside: Beside,
        wait: LockWait,
    ) -> Result<Opening<DatabaseEntry>, Error> {
        let rereading = self.rereading.clone();
        let parked = self.tenants.parked.clone();
        let Some(id) = tenant else {
            let tx = store::begin_waiting(&self.db, wait).await?;
            let schema = self.module.clone();
            return Ok(Opening::Open(DatabaseEntry { tx, schema, of: None, parked, rereading }));
        };
        for lookup in 0..LOOKUPS {
            let Some(tenant) = self.tenants.find(id).await? else { return Ok(Opening::NotEnabled) };
            let mut tx = store::begin_waiting(&self.db, wait).await?;
            let since = match beside {
                Beside::Others => tenants::enter(&mut tx, id).await?,
                Beside::Nobody => {
                    tenants::enter_alone(&mut tx, id).await?;
                    tenants::enabled_since(&mut *tx, id).await?
                }
            };
            if since == Some(tenant.since) {
                let (schema, of) =
                    (tenant.schema.clone(), Some((id.clone(), self.tenants.clone())));
                let entry = DatabaseEntry { tx, schema, of, parked, rereading };
                return Ok(if lookup == 0 {
                    Opening::Open(entry)
                } else {
                    Opening::Renewed(entry)
                });
            }
            self.tenants.forget(id);
            if since.is_none() {
                return Ok(Opening::NotEnabled);
            }
        }
        // Somebody disables and enables it again and again.
        Err(Error::Migrating { schema: Schema::of(id).name().to_owned() })
    }

    async fn is_enabled(&self, tenant: &TenantId) -> Result<bool, Error> {
        match self.tenants.find(tenant).await {
            // Its schema is not at this version, and it is enabled.
            Err(error) if error.is_of_a_version_behind() => Ok(true),
            found => Ok(found?.is_some()),
        }
    }

    async fn usable_again(&self, tenant: &TenantId) -> Result<(), Error> {
        let mut tx = store::begin(&self.db).await?;
        let was_open = incidents::usable_again(&mut tx, tenant, self.clock.now()).await?;
        store::commit(tx).await?;
        if was_open {
            info!(%tenant, "ingest: the tables of a tenant can be written again; its partitions resume");
        }
        Ok(())
    }
}

impl Entry for DatabaseEntry {
    async fn now(&mut self) -> Result<DateTime<Utc>, Error> {
        store::now(&mut *self.tx).await
    }

    async fn claim(&mut self, events: &[(&Record, &Event)]) -> Result<HashSet<Uuid>, Error> {
        let rereading = self.rereading.load(Ordering::Relaxed);
        let guess = if rereading { Guess::Known } else { Guess::New };
        let fresh = inbox::claim(&mut self.tx, &self.schema, events, guess).await?;
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
        dead_letters::park(&mut self.tx, &self.schema, letters).await?;
        self.parked.add(self.of.as_ref().map(|(tenant, _)| tenant), letters);
        Ok(())
    }

    async fn park_waiting(
        &mut self,
        tenant: &TenantId,
        letters: &[DeadLetter<'_>],
    ) -> Result<bool, Error> {
        if dead_letters::waiting_number(&mut *self.tx, tenant, WAITING_MAX).await? >= WAITING_MAX {
            return Ok(false);
        }
        self.park(letters).await?;
        let ids: Vec<Uuid> = letters.iter().map(|letter| letter.id).collect();
        dead_letters::note_waiting(&mut self.tx, tenant, &ids).await?;
        Ok(true)
    }

    async fn unpark(&mut self, id: Uuid) -> Result<(), Error> {
        dead_letters::unpark(&mut self.tx, &self.schema, id).await
    }

    async fn advance(&mut self, positions: &Positions<'_>) -> Result<bool, Error> {
        positions::advance(&mut self.tx, &self.schema, positions).await
    }

    async fn raise(&mut self, incident: &Incident) -> Result<(), Error> {
        if incidents::raise(&mut self.tx, incident).await? {
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
