//! Enabling, upgrading, disabling and purging of tenants.

pub mod java_switch;
pub mod jobs;

use serde_json::{Value, json};
use tracing::info;
use uuid::Uuid;

use super::{rebuild::RebuildRequest, tenants::TenantRegistry};
use crate::{
    blocks::Measure,
    event::TenantId,
    store::{
        self, Schema,
        jobs::{JobKind, Lease, NewJob},
        migrate,
        rebuild::shadow,
        settings::conditions,
        tenants,
    },
};

/// Largest number of retries of an enabling while another instance migrates the same tenant. Each
/// retry lasts about ten seconds.
const BUSY_RETRIES_MAX: usize = 60;

impl TenantRegistry {
    /// Enables or upgrades a tenant with idempotent steps. Returns messages for the operator.
    pub async fn enable(
        &self,
        id: &TenantId,
        module_to: &str,
    ) -> Result<Vec<String>, store::Error> {
        self.enable_for(id, module_to, None).await
    }

    /// Enables a tenant like [`TenantRegistry::enable`], for a tenant job. If the job's lease is
    /// lost, or a purge deleted the job, the function returns [`store::Error::LeaseLost`] and enables
    /// nothing.
    pub async fn enable_for(
        &self,
        id: &TenantId,
        module_to: &str,
        job: Option<(Uuid, Lease)>,
    ) -> Result<Vec<String>, store::Error> {
        let schema = Schema::of(id);
        migrate::module(&self.db).await?;
        let messages = self.migrate_for(id, &schema).await?;
        let now = self.now().await;
        let mut tx = store::begin(&self.db).await?;
        tenants::lock_exclusive(&mut tx, id).await?;
        // A purge may have deleted the job and the schema since the migration. The transaction is short, so the row
        // lock delays the heartbeat of the job only for a moment.
        if let Some((job, lease)) = job
            && !store::jobs::is_lease_valid(&mut tx, job, lease).await?
        {
            return Err(store::Error::LeaseLost);
        }
        for measure in Measure::ALL {
            conditions::seed(
                &mut *tx,
                &schema,
                measure.condition_id(),
                &default_condition(measure),
            )
            .await?;
        }
        let was_enabled = tenants::enabled_since(&mut *tx, id).await?.is_some();
        tenants::set_enabled(&mut tx, id, true, module_to, now).await?;
        if !was_enabled {
            // Until now, ingest skipped the records of this tenant.
            let initial_fill_id = Uuid::new_v4();
            let request = RebuildRequest::initial_fill().to_json();
            let rebuild = NewJob {
                kind: JobKind::Rebuild,
                tenant: id,
                request: &request,
                requested_by: "enabling",
                read_group: Some("enabling"),
                started: None,
            };
            store::jobs::insert(&mut *tx, initial_fill_id, rebuild).await?;
            tenants::start_initial_fill(&mut tx, id, initial_fill_id).await?;
        }
        let enabled = tenants::find_enabled(&mut *tx, id).await?;
        store::commit(tx).await?;
        if let Some(enabled) = enabled {
            self.insert(id, enabled);
        }
        self.rebuild_requested.notify_one();
        info!(tenant = %id, module.id = module_to, "tenant: enabled");
        Ok(messages)
    }

    /// Disables a tenant and retains its data. Has no effect on a tenant that is not enabled.
    pub async fn disable(&self, id: &TenantId, module_from: &str) -> Result<(), store::Error> {
        migrate::module(&self.db).await?;
        let mut tx = store::begin(&self.db).await?;
        tenants::lock_exclusive(&mut tx, id).await?;
        if tenants::enabled_since(&mut *tx, id).await?.is_some() {
            tenants::set_enabled(&mut tx, id, false, module_from, self.now().await).await?;
        }
        store::commit(tx).await?;
        self.evict(id);
        info!(tenant = %id, "tenant: disabled");
        Ok(())
    }

    /// Disables a tenant and deletes all of its data.
    pub async fn purge(&self, id: &TenantId) -> Result<(), store::Error> {
        migrate::module(&self.db).await?;
        let mut tries = 0;
        loop {
            match self.delete_data(id).await {
                Err(error) if error.is_deadlock() && tries < store::DEADLOCK_RETRIES_MAX => {
                    tries += 1
                }
                done => break done?,
            }
        }
        self.evict(id);
        info!(tenant = %id, "tenant: purged");
        Ok(())
    }

    /// Deletes all data of a tenant in one transaction.
    async fn delete_data(&self, id: &TenantId) -> Result<(), store::Error> {
        let mut tx = store::begin(&self.db).await?;
        tenants::lock_exclusive(&mut tx, id).await?;
        // A running rebuild locks in the same order: its shadow, the tenant, its row.
        for rebuild in store::jobs::list_ids(&mut tx, JobKind::Rebuild, id).await? {
            shadow::remove(&mut *tx, &Schema::shadow(id, rebuild)).await?;
        }
        tenants::purge(&mut tx, id, &Schema::of(id)).await?;
        let kinds = [JobKind::Tenant, JobKind::SummaryExport, JobKind::Rebuild];
        store::jobs::delete_all(&mut tx, id, &kinds).await?;
        store::commit(tx).await
    }

    /// Migrates a tenant's schema for its enabling. Retries while another instance migrates it.
    async fn migrate_for(
        &self,
        id: &TenantId,
        schema: &Schema,
    ) -> Result<Vec<String>, store::Error> {
        let mut tries = 0;
        loop {
            // An error would mean that the semaphore is closed, but no code closes it.
            let permit = self.migrating.acquire().await;
            let now = self.now().await;
            let migrated = java_switch::upgrade_schema(&self.db, id, schema, now).await;
            drop(permit);
            match migrated {
                Err(store::Error::MigrationBusy { .. }) if tries < BUSY_RETRIES_MAX => tries += 1,
                migrated => return migrated,
            }
        }
    }
}

/// Returns the initial condition of a measure, which blocks no action.
fn default_condition(measure: Measure) -> Value {
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
