//! What operators do about incidents.

use chrono::{DateTime, Utc};
use tracing::info;
use uuid::Uuid;

use crate::{
    event::TenantId,
    store::{self, Db, incidents, tenants},
};

/// What became of a request to resolve an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It is resolved.
    Resolved,
    /// No such incident is open.
    NotOpen,
    /// It is about a topic that tenants share, and so no tenant's to resolve.
    Shared,
}

/// Resolves an open incident, of a tenant or of any; a stopped partition goes on, on whichever instance
/// it is. What is about a topic of all tenants is for the command line, where no tenant is named: it lets
/// records of others go on.
pub async fn resolve(
    db: &Db,
    tenant: Option<&TenantId>,
    id: Uuid,
    by: &str,
    now: DateTime<Utc>,
) -> Result<Resolution, store::Error> {
    let mut tx = store::begin(db).await?;
    let resolved = incidents::resolve(&mut tx, tenant, id, by, now).await?;
    if !resolved {
        let shared = tenant.is_some() && incidents::is_of_shared_topic(&mut tx, id).await?;
        return Ok(if shared { Resolution::Shared } else { Resolution::NotOpen });
    }
    tenants::notify(&mut tx, "incident").await?;
    store::commit(tx).await?;
    info!(incident.id = %id, by, "incident: resolved by an operator");
    Ok(Resolution::Resolved)
}
