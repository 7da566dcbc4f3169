//! Writes the settings of a tenant, for the HTTP interface and for the console.

use serde_json::Value;
use uuid::Uuid;

use crate::{
    http::{ApiError, AppState, extract::tenant::TenantRequest},
    services::tenants::Tenant,
    store::{
        self, Db,
        settings::records::{self, Collection},
    },
};

/// Who writes the settings of which tenant.
#[derive(Clone, Copy)]
pub(crate) struct SettingsWriter<'a> {
    pub(crate) state: &'a AppState,
    pub(crate) db: &'a Db,
    pub(crate) tenant: &'a Tenant,
    /// The acting user, for the metadata.
    pub(crate) by: Option<&'a str>,
}

impl SettingsWriter<'_> {
    /// Returns the stored record, if it exists.
    pub(super) async fn find(
        &self,
        collection: &Collection,
        id: Uuid,
    ) -> Result<Option<Value>, ApiError> {
        let schema = &self.tenant.schema;
        let found =
            store::read(self.db, async |db| records::find(db, schema, collection, id).await);
        Ok(found.await?)
    }

    /// Makes evaluations load the settings again. A write that failed may have reached the database.
    pub(super) fn invalidate(&self) {
        self.state.evaluator.policies.invalidate(&self.tenant.id);
    }
}

impl TenantRequest {
    /// Returns the writer of the settings of this tenant.
    pub(super) fn settings_writer(&self) -> SettingsWriter<'_> {
        let Self { state, db, tenant, acting_user, .. } = self;
        SettingsWriter { state, db, tenant, by: acting_user.as_deref() }
    }
}
