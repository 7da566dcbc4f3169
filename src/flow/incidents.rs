//! What operators do about incidents.

use chrono::{DateTime, Utc};
use tracing::info;
use uuid::Uuid;

use crate::{
    event::TenantId,
    store::{self, Db, incidents, tenants},
};

/// Resolves an open incident, of a tenant or of any; a stopped partition goes on, on whichever instance
/// it is. Tells whether there was one.
pub async fn resolve(
    db: &Db,
    tenant: Option<&TenantId>,
    id: Uuid,
    by: &str,
    now: DateTime<Utc>,
) -> Result<bool, store::Error> {
    let mut tx = store::begin(db).await?;
    let resolved = incidents::resolve(&mut tx, tenant, id, by, now).await?;
    if resolved {
        tenants::announce(&mut tx, "incident").await?;
    }
    store::commit(tx).await?;
    if resolved {
        info!(incident.id = %id, by, "incident resolved");
    }
    Ok(resolved)
}
