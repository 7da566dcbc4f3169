//! The tenant registry: the enabled tenants, and whether each schema is at the version of this
//! instance.

pub mod user_topics;
pub mod wakeups;

use std::{
    collections::{BTreeMap, HashMap, btree_map},
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use moka::future::Cache;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::wakeups::Wakeups;
use super::{ingest::dead_letter_bytes::DeadLetterBytes, tenant_lifecycle::java_switch};
use crate::{
    clock::Clock,
    event::TenantId,
    logging::ErrorChain,
    metrics::recorder,
    store::{
        self, Db, Schema, migrate,
        tenants::{self, Completeness},
    },
};

/// Longest interval between two reads of the registry, in case a notification of `LISTEN` is lost.
const RELOAD_INTERVAL: Duration = Duration::from_secs(30);

/// Delay after a failed read of the registry, and between two migrations of outdated tenants.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Time that records wait in the log for a tenant's migration. Afterwards records of shared topics
/// are parked and retried, because other tenants share the topics.
const MIGRATION_GRACE_TIME: Duration = Duration::from_secs(10);

/// Time limits of one read of the registry and of one migration. Afterwards the connection counts as
/// dead.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(6 * 60 * 60);

/// Lifetime and number of cached ids that are no enabled tenant. The cache serves requests.
const UNKNOWN_TENANT_TTL: Duration = Duration::from_secs(1);
const UNKNOWN_TENANTS_MAX: u64 = 10_000;

/// Largest number of concurrent questions to the storage modules of one tenant.
const STORAGE_QUESTIONS_MAX: usize = 4;

/// Shortest interval between two rechecks of a tenant with unreadable tables.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// An enabled tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Tenant id, as FOLIO sends it.
    pub id: TenantId,
    /// The first instant of the enabling, which identifies it and survives upgrades. A tenant that
    /// was disabled and enabled again has another instant, and may have been purged in between.
    pub enabled_at: DateTime<Utc>,
    /// The tenant's schema, with the statements that were prepared for it.
    pub schema: Arc<Schema>,
    completeness: RwLock<Completeness>,
    /// Permits of the concurrent questions to the storage modules during evaluations.
    pub storage_questions: Semaphore,
}

impl Tenant {
    /// Returns how complete the tenant's history is in this service.
    pub fn completeness(&self) -> Completeness {
        *self.completeness.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change that the Kafka consumer reacts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantChange {
    /// A tenant was enabled. Its topics may be new, and its partitions need new start offsets, because
    /// records were skipped or purged.
    Enabled(TenantId),
    /// Any change of tenants or incidents, on this instance or another.
    Any,
}

/// An enabled tenant with an outdated schema.
struct OutdatedTenant {
    detected_at: Instant,
    /// Why the last migration failed; `None` while a retry may succeed soon.
    failure: Option<String>,
}

type ChangeListener = Box<dyn Fn(TenantChange) + Send + Sync>;

/// The enabled tenants that this instance knows, with current or outdated schemas.
pub struct TenantRegistry {
    pub(super) db: Db,
    clock: Clock,
    known: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    /// Enabled tenants with an outdated schema.
    outdated: RwLock<BTreeMap<TenantId, OutdatedTenant>>,
    /// Permit of the only running migration, because a migration uses a connection of the writers'
    /// pool.
    pub(super) migrating: Semaphore,
    /// Notifies that an outdated tenant was found.
    outdated_found: Notify,
    /// Ids that had no enabled tenant, with the value of `changes` before the lookup. After a change
    /// the old entries are unreachable.
    unknown: Cache<(TenantId, u64), ()>,
    changes: AtomicU64,
    /// Tenants that were rechecked recently.
    rechecked: Cache<TenantId, ()>,
    /// The subscriber to changes.
    listener: OnceLock<ChangeListener>,
    /// `true` once the module's own tables exist.
    ready: watch::Sender<bool>,
    /// `true` once every enabled tenant's migration was tried.
    caught_up: watch::Sender<bool>,
    /// Notifies that a rebuild was requested.
    pub rebuild_requested: Notify,
    /// Tenants with changed patrons.
    pub patron_changes: Wakeups,
    /// Bytes of dead letters that were parked, per tenant.
    pub dead_letter_bytes: Arc<DeadLetterBytes>,
}

impl TenantRegistry {
    /// Creates a registry without tenants.
    pub fn new(db: Db, clock: Clock) -> Self {
        Self {
            db,
            clock,
            known: RwLock::default(),
            outdated: RwLock::default(),
            migrating: Semaphore::new(1),
            outdated_found: Notify::new(),
            unknown: Cache::builder()
                .max_capacity(UNKNOWN_TENANTS_MAX)
                .time_to_live(UNKNOWN_TENANT_TTL)
                .build(),
            changes: AtomicU64::default(),
            rechecked: Cache::builder()
                .max_capacity(UNKNOWN_TENANTS_MAX)
                .time_to_live(RECHECK_INTERVAL)
                .build(),
            listener: OnceLock::new(),
            ready: watch::Sender::new(false),
            caught_up: watch::Sender::new(false),
            rebuild_requested: Notify::new(),
            patron_changes: Wakeups::default(),
            dead_letter_bytes: Arc::default(),
        }
    }

    /// Sets the subscriber to changes; only the first call has an effect.
    pub fn subscribe(&self, listener: impl Fn(TenantChange) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    /// Waits until the module's own tables exist at this version.
    pub async fn ready(&self) {
        // An error would mean that the sender was dropped, but `self` owns the sender.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Returns whether every enabled tenant's migration was tried. Before that, shared topics are not
    /// read, because records of outdated tenants would pause the topics repeatedly.
    pub fn is_caught_up(&self) -> bool {
        *self.caught_up.borrow()
    }

    /// Returns the enabled tenants with an outdated schema, and why their last migration failed, if
    /// it did.
    pub fn outdated(&self) -> BTreeMap<TenantId, Option<String>> {
        let behind = self.outdated.read().unwrap_or_else(PoisonError::into_inner);
        behind.iter().map(|(id, behind)| (id.clone(), behind.failure.clone())).collect()
    }

    fn notify(&self, change: TenantChange) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        if let Some(listener) = self.listener.get() {
            listener(change);
        }
    }

    fn known(&self, id: &TenantId) -> Option<Arc<Tenant>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    /// Returns the tenant, if it is enabled. An unknown id is looked up, so an enabling on another
    /// instance counts at once. Fails while the tenant's schema is outdated
    /// ([`store::Error::is_schema_outdated`]).
    pub async fn find(&self, id: &TenantId) -> Result<Option<Arc<Tenant>>, store::Error> {
        match self.known(id) {
            None => self.look_up(&self.db, id).await,
            known => Ok(known),
        }
    }

    /// Returns the tenant like [`TenantRegistry::find`], for a request: the lookup uses `db`, and its
    /// negative result is cached. Ingest must not use the cache, because the tenant may have been
    /// enabled within the last second.
    pub async fn find_for_request(
        &self,
        db: &Db,
        id: &TenantId,
    ) -> Result<Option<Arc<Tenant>>, store::Error> {
        if let Some(known) = self.known(id) {
            return Ok(Some(known));
        }
        let key = (id.clone(), self.changes.load(Ordering::Relaxed));
        if self.unknown.get(&key).await.is_some() {
            return Ok(None);
        }
        let found = self.look_up(db, id).await?;
        if found.is_none() {
            self.unknown.insert(key, ()).await;
        }
        Ok(found)
    }

    async fn look_up(&self, db: &Db, id: &TenantId) -> Result<Option<Arc<Tenant>>, store::Error> {
        let mut result = self.look_up_once(db, id).await;
        // Each pooled connection may have died since its last use.
        for _ in 0..db.size() {
            if result.as_ref().is_err_and(store::Error::is_connection_lost) {
                result = self.look_up_once(db, id).await;
            }
        }
        result
    }

    async fn look_up_once(
        &self,
        db: &Db,
        id: &TenantId,
    ) -> Result<Option<Arc<Tenant>>, store::Error> {
        match tenants::find_enabled(db, id).await? {
            Some(enabled) => self.insert_if_current(db, id, enabled).await.map(Some),
            None => Ok(None),
        }
    }

    /// Adds an enabled tenant if its schema is at this version; otherwise fails and records the
    /// tenant as outdated.
    async fn insert_if_current(
        &self,
        db: &Db,
        id: &TenantId,
        enabled: tenants::Enabling,
    ) -> Result<Arc<Tenant>, store::Error> {
        let schema = Schema::of(id);
        if java_switch::is_current(db, &schema).await? {
            return Ok(self.insert(id, enabled));
        }
        let mut behind = self.outdated.write().unwrap_or_else(PoisonError::into_inner);
        let failure = match behind.entry(id.clone()) {
            btree_map::Entry::Occupied(entry) => entry.get().failure.clone(),
            btree_map::Entry::Vacant(entry) => {
                self.outdated_found.notify_one();
                entry.insert(OutdatedTenant { detected_at: Instant::now(), failure: None });
                None
            }
        };
        let schema = schema.name().to_owned();
        Err(match failure {
            None => store::Error::Migrating { schema },
            Some(why) => store::Error::NotMigrated { schema, why },
        })
    }

    /// Returns all enabled tenants with a current schema.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn insert(
        &self,
        id: &TenantId,
        (enabled_at, completeness): tenants::Enabling,
    ) -> Arc<Tenant> {
        let mut is_new = false;
        let tenant = {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let known = known.entry(id.clone());
            let make = || {
                let (id, schema) = (id.clone(), Arc::new(Schema::of(id)));
                let completeness = RwLock::default();
                let storage_questions = Semaphore::new(STORAGE_QUESTIONS_MAX);
                Arc::new(Tenant { id, enabled_at, schema, completeness, storage_questions })
            };
            let tenant = known.or_insert_with(|| {
                is_new = true;
                make()
            });
            if tenant.enabled_at != enabled_at {
                is_new = true;
                *tenant = make();
            }
            *tenant.completeness.write().unwrap_or_else(PoisonError::into_inner) = completeness;
            tenant.clone()
        };
        self.outdated.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        if is_new {
            recorder().set_hidden(id, false);
            self.notify(TenantChange::Enabled(id.clone()));
        }
        tenant
    }

    /// Rechecks a tenant after a failed read of its tables, because an older instance may have
    /// recreated the tenant. Does nothing if a recheck happened within the last seconds.
    pub async fn recheck(&self, db: &Db, id: &TenantId) -> Result<(), store::Error> {
        let Some(known) = self.known(id) else { return Ok(()) };
        if self.rechecked.get(id).await.is_some() {
            return Ok(());
        }
        self.rechecked.insert(id.clone(), ()).await;
        let enabled = tenants::find_enabled(db, id).await?;
        if enabled.is_some_and(|(enabled_at, _)| enabled_at == known.enabled_at)
            && java_switch::is_current(db, &known.schema).await?
        {
            return Ok(());
        }
        self.evict(id);
        self.look_up(db, id).await.map(|_| ())
    }

    /// Removes a tenant from the registry; the next use looks it up again.
    pub fn evict(&self, id: &TenantId) {
        let was_known = self.known.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.changes.fetch_add(1, Ordering::Relaxed);
        // A tenant that was never enabled has no metrics, and a caller may send any number of ids.
        if was_known.is_some() {
            recorder().set_hidden(id, true);
        }
    }

    /// Reads the registry table, and checks the schema of each tenant that is new to this instance.
    async fn reload(&self) -> Result<(), store::Error> {
        let enabled = tenants::list_enabled(&self.db).await?;
        for tenant in self.all().iter().filter(|tenant| !enabled.contains_key(&tenant.id)) {
            self.evict(&tenant.id);
        }
        self.outdated
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|id, _| enabled.contains_key(id));
        for (id, enabled) in &enabled {
            let is_known = self.known(id).is_some_and(|tenant| tenant.enabled_at == enabled.0);
            match is_known {
                true => drop(self.insert(id, *enabled)),
                false => match self.insert_if_current(&self.db, id, *enabled).await {
                    Ok(_) => {}
                    // A tenant that was enabled again must not be served as the previous enabling.
                    Err(error) if error.is_schema_outdated() => self.evict(id),
                    Err(error) => return Err(error),
                },
            }
        }
        self.notify(TenantChange::Any);
        Ok(())
    }

    /// Follows changes of other instances until `stop`. First migrates the module's schema and the
    /// schema of every enabled tenant. During a rollout two versions may share the database, and each
    /// new instance migrates it.
    pub async fn run(self: Arc<Self>, listener: Db, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let result = stop.run_until_cancelled(self.listen(&listener)).await;
            if let Some(Err(error)) = result {
                warn!(error = %ErrorChain(&error), "tenant registry: could not read it; retrying");
                stop.run_until_cancelled(tokio::time::sleep(RETRY_DELAY)).await;
            }
        }
    }

    async fn listen(&self, listener: &Db) -> Result<(), store::Error> {
        migrate::module(&self.db).await?;
        self.ready.send_replace(true);
        let mut changes = tenants::RegistryListener::listen(listener).await?;
        loop {
            store::with_timeout(RELOAD_TIMEOUT, self.reload()).await?;
            self.migrate().await?;
            if !self.caught_up.send_replace(true) {
                self.notify(TenantChange::Any);
            }
            let pause = if self.outdated().is_empty() { RELOAD_INTERVAL } else { RETRY_DELAY };
            tokio::select! {
                change = changes.next() => change?,
                () = self.outdated_found.notified() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Migrates the outdated tenants. If the migration of a tenant fails, the other tenants are
    /// migrated nevertheless, and the next read of the registry retries the failed tenant.
    async fn migrate(&self) -> Result<(), store::Error> {
        for id in self.outdated().into_keys() {
            let (schema, now) = (Schema::of(&id), self.now().await);
            // An error would mean that the semaphore is closed, but no code closes it.
            let permit = self.migrating.acquire().await;
            let migrated = java_switch::upgrade_schema(&self.db, &id, &schema, now);
            let migrated = store::with_timeout(MIGRATION_TIMEOUT, migrated).await;
            drop(permit);
            let failure = match migrated {
                Ok(_) => {
                    match tenants::find_enabled(&self.db, &id).await? {
                        Some(enabled) => match self.insert_if_current(&self.db, &id, enabled).await
                        {
                            Ok(_) => {
                                info!(tenant = %id, "tenant registry: migrated the schema of a tenant")
                            }
                            Err(error) if error.is_schema_outdated() => {}
                            Err(error) => return Err(error),
                        },
                        None => self.evict(&id),
                    }
                    continue;
                }
                Err(error) => error,
            };
            warn!(tenant = %id, error = %ErrorChain(&failure), "tenant registry: could not migrate the schema of a tenant; retrying");
            let mut behind = self.outdated.write().unwrap_or_else(PoisonError::into_inner);
            if let Some(behind) = behind.get_mut(&id)
                && (!failure.is_transient_migration_error()
                    || behind.detected_at.elapsed() > MIGRATION_GRACE_TIME)
            {
                behind.failure = Some(ErrorChain(&failure).to_string());
            }
        }
        Ok(())
    }

    /// Returns the time of the database clock, which is comparable with times that other instances
    /// wrote. Falls back to the local clock.
    pub(super) async fn now(&self) -> DateTime<Utc> {
        store::now(&self.db).await.unwrap_or_else(|_| self.clock.now())
    }
}
