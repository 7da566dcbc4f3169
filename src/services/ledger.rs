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

use super::{parked::DeadLetterBytes, tenants::TenantRegistry};
use crate::{
    clock::Clock,
    event::{Event, Fact, Record, TenantId, stamp::Horizon},
    metrics::metrics,
    patron::StateDelta,
    store::{
        self, Db, Error, LockTimeout, Schema, Tx,
        dead_letters::{self, DeadLetter},
        inbox::{self, ClaimHint},
        incidents::{self, Incident},
        merge,
        positions::{self, Positions},
        tenants,
    },
};

/// Beside whom a transaction may write a tenant's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantLock {
    /// Others who write at the same time: rows keep them apart.
    Shared,
    /// Nobody: what is said is about all loans, those among them that another one is just entering.
    Exclusive,
}

impl TenantLock {
    /// As these events need it.
    pub fn for_events(events: &[(&Record, &Event)]) -> Self {
        let concerns_all_loans =
            |(_, event): &(_, &Event)| matches!(event.fact, Fact::AllLoansDeleted);
        if events.iter().any(concerns_all_loans) { Self::Exclusive } else { Self::Shared }
    }
}

/// Records of tenant collections that wait for one tenant, at most: then their topics wait.
const WAITING_RECORDS_MAX: i64 = 10_000;

/// How often a tenant is looked up anew when it turns out to be enabled again.
const LOOKUPS_MAX: usize = 3;

/// A transaction that was asked for.
#[derive(Debug)]
pub enum BeginOutcome<T> {
    /// The tenant isn't enabled: only then a record is passed by.
    TenantDisabled,
    /// It is begun.
    Started(T),
    /// It is begun, and the tenant was enabled again since it was last seen. It may have been purged in
    /// between, so where reading of its own topics begins is to be asked first.
    TenantReenabled(T),
}

/// Where ingest keeps what it learns.
pub trait IngestStore: Send + Sync {
    /// A transaction on what belongs to one tenant, or to none.
    type Tx: IngestTx;

    /// Begins a transaction for a tenant, or for what belongs to no tenant. It waits for no lock for longer than
    /// `wait`.
    fn begin(
        &self,
        tenant: Option<&TenantId>,
        lock: TenantLock,
        wait: LockTimeout,
    ) -> impl Future<Output = Result<BeginOutcome<Self::Tx>, Error>> + Send;

    /// Whether a tenant is enabled.
    fn is_enabled(&self, tenant: &TenantId) -> impl Future<Output = Result<bool, Error>> + Send;

    /// A tenant whose tables could not be written can be written again: its incidents are over.
    fn mark_writable(&self, tenant: &TenantId) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A transaction: all of it counts once committed, or nothing (invariant I3 of ARCHITECTURE.md).
pub trait IngestTx: Send {
    /// The time by the clock that all instances share.
    fn now(&mut self) -> impl Future<Output = Result<DateTime<Utc>, Error>> + Send;

    /// Claims events in the inbox and tells which keys are new.
    fn claim(
        &mut self,
        events: &[(&Record, &Event)],
    ) -> impl Future<Output = Result<HashSet<Uuid>, Error>> + Send;

    /// Merges what fresh events say, and moves the counters with it.
    fn merge(&mut self, delta: &StateDelta) -> impl Future<Output = Result<(), Error>> + Send;

    /// One step of ending all loans that were opened before: about `most` loans of the patrons from `from` on.
    /// Gives the patron to go on from, `None` after the last. Steps may be repeated. An event that says so is
    /// merged after the last step.
    fn end_loans(
        &mut self,
        before: Horizon,
        from: Uuid,
        loans_max: usize,
    ) -> impl Future<Output = Result<Option<Uuid>, Error>> + Send;

    /// Parks records.
    fn park(
        &mut self,
        letters: &[DeadLetter<'_>],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Parks records of tenant collections for a tenant that can't be written, to be retried by the service.
    /// Returns `false`, and parks nothing, where so many wait already that their topics have to wait.
    fn park_for_retry(
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
pub struct PgIngestStore {
    db: Db,
    tenants: Arc<TenantRegistry>,
    clock: Clock,
    /// Of what belongs to no tenant.
    module: Arc<Schema>,
    /// Whether most of the last batch was known: then most of the next one is, too.
    replaying: Arc<AtomicBool>,
}

impl PgIngestStore {
    /// `db` is the writers' pool.
    pub fn new(db: Db, tenants: Arc<TenantRegistry>, clock: Clock) -> Self {
        Self { db, tenants, clock, module: Arc::new(Schema::module()), replaying: Arc::default() }
    }
}

/// A transaction of PostgreSQL.
pub struct PgIngestTx {
    tx: Tx,
    schema: Arc<Schema>,
    /// Whose it is, and whom to tell that something has happened.
    tenant: Option<(TenantId, Arc<TenantRegistry>)>,
    /// Whom to tell of what is parked.
    dead_letter_bytes: Arc<DeadLetterBytes>,
    replaying: Arc<AtomicBool>,
}

impl IngestStore for PgIngestStore {
    type Tx = PgIngestTx;

    async fn begin(
        &self,
        tenant: Option<&TenantId>,
        lock: TenantLock,
        wait: LockTimeout,
    ) -> Result<BeginOutcome<PgIngestTx>, Error> {
        let replaying = self.replaying.clone();
        let dead_letter_bytes = self.tenants.dead_letter_bytes.clone();
        let Some(id) = tenant else {
            let tx = store::begin_with_lock_timeout(&self.db, wait).await?;
            let schema = self.module.clone();
            return Ok(BeginOutcome::Started(PgIngestTx {
                tx,
                schema,
                tenant: None,
                dead_letter_bytes,
                replaying,
            }));
        };
        for lookup in 0..LOOKUPS_MAX {
            let Some(tenant) = self.tenants.find(id).await? else {
                return Ok(BeginOutcome::TenantDisabled);
            };
            let mut tx = store::begin_with_lock_timeout(&self.db, wait).await?;
            let enabled_at = match lock {
                TenantLock::Shared => tenants::lock_shared(&mut tx, id).await?,
                TenantLock::Exclusive => {
                    tenants::lock_exclusive(&mut tx, id).await?;
                    tenants::enabled_since(&mut *tx, id).await?
                }
            };
            if enabled_at == Some(tenant.enabled_at) {
                let (schema, owner) =
                    (tenant.schema.clone(), Some((id.clone(), self.tenants.clone())));
                let ingest_tx =
                    PgIngestTx { tx, schema, tenant: owner, dead_letter_bytes, replaying };
                return Ok(if lookup == 0 {
                    BeginOutcome::Started(ingest_tx)
                } else {
                    BeginOutcome::TenantReenabled(ingest_tx)
                });
            }
            self.tenants.evict(id);
            if enabled_at.is_none() {
                return Ok(BeginOutcome::TenantDisabled);
            }
        }
        // Somebody disables and enables it again and again.
        Err(Error::Migrating { schema: Schema::of(id).name().to_owned() })
    }

    async fn is_enabled(&self, tenant: &TenantId) -> Result<bool, Error> {
        match self.tenants.find(tenant).await {
            // Its schema is not at this version, and it is enabled.
            Err(error) if error.is_schema_outdated() => Ok(true),
            found => Ok(found?.is_some()),
        }
    }

    async fn mark_writable(&self, tenant: &TenantId) -> Result<(), Error> {
        let mut tx = store::begin(&self.db).await?;
        let was_open =
            incidents::resolve_unusable_tenant(&mut tx, tenant, self.clock.now()).await?;
        store::commit(tx).await?;
        if was_open {
            info!(%tenant, "ingest: the tables of a tenant can be written again; its partitions resume");
        }
        Ok(())
    }
}

impl IngestTx for PgIngestTx {
    async fn now(&mut self) -> Result<DateTime<Utc>, Error> {
        store::now(&mut *self.tx).await
    }

    async fn claim(&mut self, events: &[(&Record, &Event)]) -> Result<HashSet<Uuid>, Error> {
        let replaying = self.replaying.load(Ordering::Relaxed);
        let hint = if replaying { ClaimHint::Replay } else { ClaimHint::New };
        let new_keys = inbox::claim(&mut self.tx, &self.schema, events, hint).await?;
        self.replaying.store(new_keys.len() * 2 < events.len(), Ordering::Relaxed);
        Ok(new_keys)
    }

    async fn merge(&mut self, delta: &StateDelta) -> Result<(), Error> {
        merge::apply(&mut self.tx, &self.schema, delta).await
    }

    async fn end_loans(
        &mut self,
        before: Horizon,
        from: Uuid,
        loans_max: usize,
    ) -> Result<Option<Uuid>, Error> {
        merge::close_loans_before(&mut self.tx, &self.schema, before, from, loans_max).await
    }

    async fn park(&mut self, letters: &[DeadLetter<'_>]) -> Result<(), Error> {
        dead_letters::insert(&mut self.tx, &self.schema, letters).await?;
        self.dead_letter_bytes.add(self.tenant.as_ref().map(|(tenant, _)| tenant), letters);
        Ok(())
    }

    async fn park_for_retry(
        &mut self,
        tenant: &TenantId,
        letters: &[DeadLetter<'_>],
    ) -> Result<bool, Error> {
        if dead_letters::count_waiting(&mut *self.tx, tenant, WAITING_RECORDS_MAX).await?
            >= WAITING_RECORDS_MAX
        {
            return Ok(false);
        }
        self.park(letters).await?;
        let ids: Vec<Uuid> = letters.iter().map(|letter| letter.id).collect();
        dead_letters::set_waiting_tenant(&mut self.tx, tenant, &ids).await?;
        Ok(true)
    }

    async fn unpark(&mut self, id: Uuid) -> Result<(), Error> {
        dead_letters::delete_applied(&mut self.tx, &self.schema, id).await
    }

    async fn advance(&mut self, positions: &Positions<'_>) -> Result<bool, Error> {
        positions::advance(&mut self.tx, &self.schema, positions).await
    }

    async fn raise(&mut self, incident: &Incident) -> Result<(), Error> {
        if incidents::raise(&mut self.tx, incident).await? {
            metrics().record_incident(incident.kind);
        }
        Ok(())
    }

    async fn commit(self) -> Result<(), Error> {
        store::commit(self.tx).await?;
        if let Some((tenant, tenants)) = self.tenant {
            tenants.patron_changes.wake(&tenant);
        }
        Ok(())
    }
}
