//! Tenants: which ones are enabled, and enabling, disabling and purging them.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, OnceLock, PoisonError, RwLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use super::{parked::Parked, rebuild::Ask, switch, wakes::Wakes};
use crate::{
    blocks::Measure,
    clock::Clock,
    event::TenantId,
    figures::figures,
    store::{
        self, Db, Schema, conditions, iterations, migrate,
        rebuilds::{self, Request},
        shadow, tenant_jobs,
        tenants::{self, Knowledge},
    },
    telemetry::Chain,
};

/// How often the registry is read without being told: the net below `LISTEN`.
const RELOAD: Duration = Duration::from_secs(30);

/// How long to wait after the registry could not be read.
const RETRY: Duration = Duration::from_secs(2);

/// An enabled tenant.
#[derive(Debug)]
pub struct Tenant {
    /// Its id.
    pub id: TenantId,
    /// Since when it is enabled. Enabled again it may have been purged in between, and is another one.
    pub since: DateTime<Utc>,
    /// Its schema, with the statements that were filled in for it.
    pub schema: Arc<Schema>,
    knowledge: RwLock<Knowledge>,
}

impl Tenant {
    /// How much is known of what happened to its patrons.
    pub fn knowledge(&self) -> Knowledge {
        *self.knowledge.read().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What whoever reads the log must know of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A tenant was enabled: its topics may be new, and where reading begins is to be asked again, since
    /// records were passed by or what was kept of them was purged.
    Enabled(TenantId),
    /// Something about tenants or incidents, on this instance or another.
    Any,
}

type Tell = Box<dyn Fn(Change) + Send + Sync>;

/// The enabled tenants, as this instance knows them.
pub struct Tenants {
    db: Db,
    clock: Clock,
    known: RwLock<HashMap<TenantId, Arc<Tenant>>>,
    /// Whom to tell of changes.
    tell: OnceLock<Tell>,
    /// Whether the module's own tables are there.
    ready: watch::Sender<bool>,
    /// Somebody has asked for a rebuild.
    pub rebuild_asked: Notify,
    /// Something has happened to patrons of these.
    pub touched: Wakes,
    /// What was parked of these.
    pub parked: Arc<Parked>,
}

impl Tenants {
    /// Knows no tenant yet.
    pub fn new(db: Db, clock: Clock) -> Self {
        Self {
            db,
            clock,
            known: RwLock::default(),
            tell: OnceLock::new(),
            ready: watch::Sender::new(false),
            rebuild_asked: Notify::new(),
            touched: Wakes::default(),
            parked: Arc::default(),
        }
    }

    /// Whom to tell of changes; only the first one is.
    pub fn tell(&self, tell: impl Fn(Change) + Send + Sync + 'static) {
        let _ = self.tell.set(Box::new(tell));
    }

    /// Waits until the module's own tables are there, as this version needs them.
    pub async fn ready(&self) {
        // An error would say that the sender is gone, which is ours.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }

    fn changed(&self, change: Change) {
        if let Some(tell) = self.tell.get() {
            tell(change);
        }
    }

    /// The tenant, if it is enabled. One that is not known is looked up, so that no instance is behind
    /// another in enabling.
    pub async fn find(&self, id: &TenantId) -> Result<Option<Arc<Tenant>>, store::Error> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let mut enabled = tenants::enabled_as(&self.db, id).await;
        for _ in 0..self.db.size() {
            if enabled.as_ref().is_err_and(store::Error::is_of_a_dead_connection) {
                enabled = tenants::enabled_as(&self.db, id).await;
            }
        }
        Ok(enabled?.map(|enabled| self.remember(id, enabled)))
    }

    /// All tenants that are known as enabled.
    pub fn all(&self) -> Vec<Arc<Tenant>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    fn remember(&self, id: &TenantId, (since, knowledge): tenants::Enabled) -> Arc<Tenant> {
        let mut is_new = false;
        let tenant = {
            let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
            let known = known.entry(id.clone());
            let make = || {
                let (id, schema) = (id.clone(), Arc::new(Schema::of(id)));
                Arc::new(Tenant { id, since, schema, knowledge: RwLock::default() })
            };
            let tenant = known.or_insert_with(|| {
                is_new = true;
                make()
            });
            if tenant.since < since {
                is_new = true;
                *tenant = make();
            }
            *tenant.knowledge.write().unwrap_or_else(PoisonError::into_inner) = knowledge;
            tenant.clone()
        };
        if is_new {
            figures().hide(id, false);
            self.changed(Change::Enabled(id.clone()));
        }
        tenant
    }

    /// Forgets that a tenant is enabled; asked again, it is looked up.
    pub fn forget(&self, id: &TenantId) {
        let was_known = self.known.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        // A tenant that was never enabled has no figures, and a caller may name any number of them.
        if was_known.is_some() {
            figures().hide(id, true);
        }
    }

    /// Reads the registry anew.
    async fn reload(&self) -> Result<(), store::Error> {
        let enabled = tenants::enabled(&self.db).await?;
        for tenant in self.all().iter().filter(|tenant| !enabled.contains_key(&tenant.id)) {
            self.forget(&tenant.id);
        }
        for (id, enabled) in &enabled {
            self.remember(id, *enabled);
        }
        self.changed(Change::Any);
        Ok(())
    }

    /// Keeps up with what other instances enable and disable, until `stop`. Begins by migrating the
    /// module's schema and every enabled tenant's: two versions may share the database during a
    /// rollout, and whichever starts brings it up to date.
    pub async fn follow(self: Arc<Self>, listener: Db, stop: CancellationToken) {
        let mut migrated = HashSet::new();
        while !stop.is_cancelled() {
            let followed = stop.run_until_cancelled(self.listen(&listener, &mut migrated)).await;
            if let Some(Err(error)) = followed {
                warn!(error = %Chain(&error), "registry of tenants can't be read; trying again");
                stop.run_until_cancelled(tokio::time::sleep(RETRY)).await;
            }
        }
    }

    async fn listen(
        &self,
        listener: &Db,
        migrated: &mut HashSet<TenantId>,
    ) -> Result<(), store::Error> {
        migrate::module(&self.db).await?;
        self.ready.send_replace(true);
        let mut news = tenants::News::listen(listener).await?;
        loop {
            self.reload().await?;
            self.migrate(migrated).await;
            if let Ok(heard) = tokio::time::timeout(RELOAD, news.next()).await {
                heard?;
            }
        }
    }

    /// Migrates the tenants that this instance has not migrated yet. One tenant's trouble is not the
    /// others'; it is tried again when the registry is read the next time.
    async fn migrate(&self, migrated: &mut HashSet<TenantId>) {
        for tenant in self.all() {
            if migrated.contains(&tenant.id) {
                continue;
            }
            let now = self.clock.now();
            match switch::bring_up_to_date(&self.db, &tenant.id, &tenant.schema, now).await {
                Ok(_) => {
                    migrated.insert(tenant.id.clone());
                }
                Err(error) => {
                    warn!(tenant = %tenant.id, error = %Chain(&error), "tenant not migrated yet");
                }
            }
        }
    }

    /// Installs or upgrades: the same steps, each of which may be repeated. Gives what there is to say of
    /// them.
    pub async fn enable(
        &self,
        id: &TenantId,
        module_to: &str,
    ) -> Result<Vec<String>, store::Error> {
        let schema = Schema::of(id);
        migrate::module(&self.db).await?;
        let now = self.clock.now();
        let messages = switch::bring_up_to_date(&self.db, id, &schema, now).await?;
        let mut tx = store::begin(&self.db).await?;
        tenants::enter_alone(&mut tx, id).await?;
        for measure in Measure::ALL {
            conditions::seed(&mut *tx, &schema, measure.condition_id(), &seed(measure)).await?;
        }
        let was_enabled = tenants::enabled_since(&mut *tx, id).await?.is_some();
        tenants::set_enabled(&mut tx, id, true, module_to, now).await?;
        if !was_enabled {
            // What the topics hold of it was passed by until now.
            let filling = Uuid::new_v4();
            let request = Ask::filling().told();
            let asked = Request {
                tenant: id,
                request: &request,
                by: "enabling",
                at: now,
                together: Some("enabling"),
            };
            rebuilds::add(&mut *tx, filling, asked).await?;
            tenants::fill(&mut tx, id, filling).await?;
        }
        let enabled = tenants::enabled_as(&mut *tx, id).await?;
        store::commit(tx).await?;
        if let Some(enabled) = enabled {
            self.remember(id, enabled);
        }
        self.rebuild_asked.notify_one();
        info!(tenant = %id, module.id = module_to, "tenant enabled");
        Ok(messages)
    }

    /// Disables and keeps the data. A tenant that was never enabled stays so.
    pub async fn disable(&self, id: &TenantId, module_from: &str) -> Result<(), store::Error> {
        migrate::module(&self.db).await?;
        let mut tx = store::begin(&self.db).await?;
        tenants::enter_alone(&mut tx, id).await?;
        if tenants::enabled_since(&mut *tx, id).await?.is_some() {
            tenants::set_enabled(&mut tx, id, false, module_from, self.clock.now()).await?;
        }
        store::commit(tx).await?;
        self.forget(id);
        info!(tenant = %id, "tenant disabled");
        Ok(())
    }

    /// Disables and removes everything of the tenant.
    pub async fn purge(&self, id: &TenantId) -> Result<(), store::Error> {
        migrate::module(&self.db).await?;
        let mut tx = store::begin(&self.db).await?;
        tenants::enter_alone(&mut tx, id).await?;
        tenants::purge(&mut tx, id, &Schema::of(id)).await?;
        tenant_jobs::remove(&mut *tx, id, None).await?;
        iterations::forget_all(&mut tx, id).await?;
        for rebuild in rebuilds::forget_all(&mut tx, id).await? {
            shadow::remove(&mut *tx, &Schema::shadow(id, rebuild)).await?;
        }
        store::commit(tx).await?;
        self.forget(id);
        info!(tenant = %id, "tenant purged");
        Ok(())
    }
}

/// A condition as seeded: it blocks nothing until the library says so.
fn seed(measure: Measure) -> Value {
    json!({
        "id": measure.condition_id(),
        "name": measure.name(),
        "blockBorrowing": false,
        "blockRenewals": false,
        "blockRequests": false,
        "valueType": measure.value_type(),
        "message": "",
    })
}
