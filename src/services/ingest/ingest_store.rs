//! The interface between ingest and its store. PostgreSQL implements it here; the simulation
//! implements it with a model that injects failures and crashes.

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

use super::{dead_letter_bytes::DeadLetterBytes, metrics::metrics};
use crate::{
    clock::Clock,
    event::{Event, Fact, Record, TenantId, stamp::Horizon},
    patron::StateDelta,
    services::tenants::TenantRegistry,
    store::{
        self, Db, Error, LockTimeout, Schema, Tx,
        ingest::{
            dead_letters::{self, DeadLetter},
            inbox::{self, ClaimHint},
            incidents::{self, Incident},
            positions::{self, Positions},
        },
        state::merge,
        tenants,
    },
};

/// How a transaction locks the tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenantLock {
    /// Concurrent writers are allowed; row locks separate them.
    Shared,
    /// The only writer of the tenant: the event concerns all loans, including uncommitted loans of
    /// other writers.
    Exclusive,
}

impl TenantLock {
    /// Returns the lock that these events need.
    pub fn for_events(events: &[(&Record, &Event)]) -> Self {
        let concerns_all_loans =
            |(_, event): &(_, &Event)| matches!(event.fact, Fact::AllLoansDeleted);
        if events.iter().any(concerns_all_loans) { Self::Exclusive } else { Self::Shared }
    }
}

/// Largest number of records of tenant collections that wait for one tenant; beyond it their topics
/// wait.
const WAITING_RECORDS_MAX: i64 = 10_000;

/// Largest number of lookups of a tenant that turns out to be enabled again.
const LOOKUPS_MAX: usize = 3;

/// The result of beginning a transaction.
#[derive(Debug)]
pub enum BeginOutcome<T> {
    /// The tenant is disabled; only in this case ingest skips records.
    TenantDisabled,
    /// The transaction has begun.
    Started(T),
    /// The transaction has begun, and the tenant was enabled again since the last lookup. A purge may
    /// have happened in between, so its own topics need new start offsets first.
    TenantReenabled(T),
}

/// The store of ingest.
pub trait IngestStore: Send + Sync {
    /// A transaction for one tenant, or for data without a tenant.
    type Tx: IngestTx;

    /// Begins a transaction for a tenant, or for data without a tenant. The transaction waits for a
    /// lock at most as long as `wait` allows.
    fn begin(
        &self,
        tenant: Option<&TenantId>,
        lock: TenantLock,
        wait: LockTimeout,
    ) -> impl Future<Output = Result<BeginOutcome<Self::Tx>, Error>> + Send;

    /// Returns whether a tenant is enabled.
    fn is_enabled(&self, tenant: &TenantId) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Resolves the incidents about a tenant's unwritable tables.
    fn mark_writable(&self, tenant: &TenantId) -> impl Future<Output = Result<(), Error>> + Send;
}

/// A transaction of ingest: a commit makes all of its changes durable at once (invariant I3 of
/// ARCHITECTURE.md).
pub trait IngestTx: Send {
    /// Returns the time of the clock that all instances share.
    fn now(&mut self) -> impl Future<Output = Result<DateTime<Utc>, Error>> + Send;

    /// Claims events in the inbox and returns the keys that are new.
    fn claim(
        &mut self,
        events: &[(&Record, &Event)],
    ) -> impl Future<Output = Result<HashSet<Uuid>, Error>> + Send;

    /// Merges the changes of new events into the rows and the counters.
    fn merge(&mut self, delta: &StateDelta) -> impl Future<Output = Result<(), Error>> + Send;

    /// Closes loans that were opened before `before`, in one step of about `loans_max` loans. Starts
    /// at patron `from` and returns the patron of the next step, or `None` after the last. Steps are
    /// idempotent. The caller merges the event that deletes all loans after the last step.
    fn end_loans(
        &mut self,
        before: Horizon,
        from: Uuid,
        loans_max: usize,
    ) -> impl Future<Output = Result<Option<Uuid>, Error>> + Send;

    /// Parks records as dead letters.
    fn park(
        &mut self,
        letters: &[DeadLetter<'_>],
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Parks records of tenant collections for a tenant with unwritable tables; the service retries
    /// them. If too many records already wait, returns `false` and parks nothing, so the topics have
    /// to wait.
    fn park_for_retry(
        &mut self,
        tenant: &TenantId,
        letters: &[DeadLetter<'_>],
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Deletes a dead letter that has been applied.
    fn unpark(&mut self, id: Uuid) -> impl Future<Output = Result<(), Error>> + Send;

    /// Advances positions, and returns `false` if a position was reset since the records were read.
    fn advance(
        &mut self,
        positions: &Positions<'_>,
    ) -> impl Future<Output = Result<bool, Error>> + Send;

    /// Raises an incident.
    fn raise(&mut self, incident: &Incident) -> impl Future<Output = Result<(), Error>> + Send;

    /// Commits the transaction.
    fn commit(self) -> impl Future<Output = Result<(), Error>> + Send;
}

/// The [`IngestStore`] of production, on PostgreSQL.
pub struct PgIngestStore {
    db: Db,
    tenants: Arc<TenantRegistry>,
    clock: Clock,
    /// The module's schema, for data without a tenant.
    module: Arc<Schema>,
    /// `true` if most events of the last batch were duplicates; then the next batch probably is a
    /// replay, too.
    replaying: Arc<AtomicBool>,
}

impl PgIngestStore {
    /// Creates the store; `db` is the writers' pool.
    pub fn new(db: Db, tenants: Arc<TenantRegistry>, clock: Clock) -> Self {
        Self { db, tenants, clock, module: Arc::new(Schema::module()), replaying: Arc::default() }
    }
}

/// A transaction on PostgreSQL.
pub struct PgIngestTx {
    tx: Tx,
    schema: Arc<Schema>,
    /// The tenant of the transaction, and the registry to notify after the commit.
    tenant: Option<(TenantId, Arc<TenantRegistry>)>,
    /// Counts the bytes of dead letters for housekeeping.
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
        // The tenant was disabled and enabled at each lookup.
        Err(Error::Migrating { schema: Schema::of(id).name().to_owned() })
    }

    async fn is_enabled(&self, tenant: &TenantId) -> Result<bool, Error> {
        match self.tenants.find(tenant).await {
            // The tenant is enabled, although its schema is not at this version.
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
