//! Tenants: which ones are enabled, and whose schemas are at the version of this instance.

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

use super::{parked::DeadLetterBytes, switch, wakes::Wakeups};
use crate::{
    clock::Clock,
    event::TenantId,
    logging::ErrorChain,
    metrics::metrics,
    store::{
        self, Db, Schema, migrate,
        tenants::{self, Completeness},
    },
};

/// How often the registry is read without being told: the net below `LISTEN`.
const RELOAD_INTERVAL: Duration = Duration::from_secs(30);

/// How long to wait after the registry could not be read, and until a tenant is migrated again.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// How long records of a tenant that is being migrated wait in the log. Then those of tenant collections are
/// parked, to be retried: other tenants share their topics.
const MIGRATION_GRACE_TIME: Duration = Duration::from_secs(10);

/// How long the registry may take to be read, and a migration to end: after it the connection counts as dead.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(60);
const MIGRATION_TIMEOUT: Duration = Duration::from_secs(6 * 60 * 60);

/// Ids that are no enabled tenant's are remembered so long and so many, for requests.
const UNKNOWN_TENANT_TTL: Duration = Duration::from_secs(1);
const UNKNOWN_TENANTS_MAX: u64 = 10_000;

/// A tenant whose tables can't be read is looked at so seldom.
const RECHECK_INTERVAL: Duration = Duration::from_secs(5);

/// An enabled tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// When it was enabled: the identity of the enabling, which an upgrade keeps. Enabled again it may have
    /// been purged in between, and is another one.
    pub enabled_at: DateTime<Utc>,
    /// Its schema, with the statements that were filled in for it.
    pub schema: Arc<Schema>,
    completeness: RwLock<Completeness>,
}

impl Tenant {
    /// How much is known of what happened to its patrons.
    pub fn completeness(&self) -> Completeness {
        *self.completeness.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What whoever reads the log must know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TenantChange {
    /// A tenant was enabled: its topics may be new, and where reading begins is to be asked again, since
    /// records were passed by or what was kept of them was purged.
    Enabled(TenantId),
    /// Something about tenants or incidents, on this instance or another.
    Any,
}

/// An enabled tenant whose schema is not at this version.
struct OutdatedTenant {
    detected_at: Instant,
    /// Why the last migration failed, unless it may succeed in a moment.
    failure: Option<String>,
}

type ChangeListener = Box<dyn Fn(TenantChange) + Send + Sync>;

/// The enabled tenants, as this instance knows them: those whose schema is at its version, and those behind.
pub struct TenantRegistry {
    pub(super) db: Db,
    clock: Clock,
    known: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    /// Enabled tenants whose schema is not at this version.
    outdated: RwLock<BTreeMap<TenantId, OutdatedTenant>>,
    /// A migration takes one of the writers' connections, so there is one at a time.
    pub(super) migrating: Semaphore,
    /// A tenant was found to be behind.
    outdated_found: Notify,
    /// Ids that were looked up in vain, with the number of changes before the look-up: what was read before
    /// a change is never found after it.
    unknown: Cache<(TenantId, u64), ()>,
    changes: AtomicU64,
    /// Tenants that were looked at once more a moment ago.
    rechecked: Cache<TenantId, ()>,
    /// Whom to tell of changes.
    listener: OnceLock<ChangeListener>,
    /// Whether the module's own tables are there.
    ready: watch::Sender<bool>,
    /// Whether the migration of every enabled tenant was tried once.
    caught_up: watch::Sender<bool>,
    /// Somebody has asked for a rebuild.
    pub rebuild_requested: Notify,
    /// Something has happened to patrons of these.
    pub patron_changes: Wakeups,
    /// What was parked of these.
    pub dead_letter_bytes: Arc<DeadLetterBytes>,
}

impl TenantRegistry {
    /// Knows no tenant yet.
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

    /// Whom to tell of changes; only the first one is.
    pub fn subscribe(&self, listener: impl Fn(TenantChange) + Send + Sync + 'static) {
        let _ = self.listener.set(Box::new(listener));
    }

    /// Waits until the module's own tables are there, as this version needs them.
    pub async fn ready(&self) {
        // An error would say that the sender is gone, which is ours.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    /// Whether the migration of every enabled tenant was tried once. Until then a topic of a tenant
    /// collection is not read: records of tenants that are behind would hold it again and again.
    pub fn is_caught_up(&self) -> bool {
        *self.caught_up.borrow()
    }

    /// Enabled tenants whose schema is not at this version, and why the last migration failed, if one did.
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

    /// The tenant, if it is enabled. One that is not known is looked up, so that no instance is behind
    /// another in enabling. Fails while the tenant's schema is not at this version
    /// ([`store::Error::is_of_a_version_behind`]).
    pub async fn find(&self, id: &TenantId) -> Result<Option<Arc<Tenant>>, store::Error> {
        match self.known(id) {
            None => self.look_up(&self.db, id).await,
            known => Ok(known),
        }
    }

    /// As [`Tenants::find`], for a request: an unknown id is looked up over the request's connections, and
    /// seldom. An event must not rely on this: the id may have been enabled within the last second.
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

    /// Remembers an enabled tenant once its schema is seen at this version.
    async fn insert_if_current(
        &self,
        db: &Db,
        id: &TenantId,
        enabled: tenants::Enabling,
    ) -> Result<Arc<Tenant>, store::Error> {
        let schema = Schema::of(id);
        if switch::is_current(db, &schema).await? {
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

    /// All tenants that are known as enabled.
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
                Arc::new(Tenant { id, enabled_at, schema, completeness: RwLock::default() })
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
            metrics().set_hidden(id, false);
            self.notify(TenantChange::Enabled(id.clone()));
        }
        tenant
    }

    /// Looks at a tenant once more whose tables could not be read: an older instance may have made it anew. At most
    /// once in some seconds.
    pub async fn recheck(&self, db: &Db, id: &TenantId) -> Result<(), store::Error> {
        let Some(known) = self.known(id) else { return Ok(()) };
        if self.rechecked.get(id).await.is_some() {
            return Ok(());
        }
        self.rechecked.insert(id.clone(), ()).await;
        let enabled = tenants::find_enabled(db, id).await?;
        if enabled.is_some_and(|(enabled_at, _)| enabled_at == known.enabled_at)
            && switch::is_current(db, &known.schema).await?
        {
            return Ok(());
        }
        self.evict(id);
        self.look_up(db, id).await.map(|_| ())
    }

    /// Forgets that a tenant is enabled; asked again, it is looked up.
    pub fn evict(&self, id: &TenantId) {
        let was_known = self.known.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.changes.fetch_add(1, Ordering::Relaxed);
        // A tenant that was never enabled has no figures, and a caller may name any number of them.
        if was_known.is_some() {
            metrics().set_hidden(id, true);
        }
    }

    /// Reads the registry anew, and looks at the schema of each tenant that is new here.
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
                    // A tenant that was made anew is served as what it is now.
                    Err(error) if error.is_schema_outdated() => self.evict(id),
                    Err(error) => return Err(error),
                },
            }
        }
        self.notify(TenantChange::Any);
        Ok(())
    }

    /// Keeps up with what other instances enable and disable, until `stop`. Begins by migrating the
    /// module's schema and every enabled tenant's: two versions may share the database during a
    /// rollout, and whichever starts brings it up to date.
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

    /// Migrates the tenants that are behind. One tenant's trouble is not the others'; it is tried again
    /// when the registry is read the next time.
    async fn migrate(&self) -> Result<(), store::Error> {
        for id in self.outdated().into_keys() {
            let (schema, now) = (Schema::of(&id), self.now().await);
            // An error would say that the semaphore is closed, which nobody does.
            let permit = self.migrating.acquire().await;
            let migrated = switch::upgrade_schema(&self.db, &id, &schema, now);
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

    /// The time by the database's clock, with which what other instances and modules wrote is compared.
    pub(super) async fn now(&self) -> DateTime<Utc> {
        store::now(&self.db).await.unwrap_or_else(|_| self.clock.now())
    }
}
