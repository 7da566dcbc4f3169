//! Resolution of incidents by operators.

use chrono::{DateTime, Utc};
use serde_json::json;
use tracing::info;
use uuid::Uuid;

use crate::{
    event::TenantId,
    services::operator_actions::ActEnd,
    store::{self, Db, ingest::incidents, tenants},
};

/// The result of a request to resolve an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The incident is resolved.
    Resolved,
    /// No open incident has this id.
    NotOpen,
    /// The incident is about a shared topic, so a tenant cannot resolve it.
    Shared,
}

impl Resolution {
    /// Returns the end of the act, for the log of acts.
    pub fn act_end(&self) -> ActEnd {
        match self {
            Self::Resolved => ActEnd::done(json!({})),
            Self::NotOpen => ActEnd::rejected("no open incident has this id"),
            Self::Shared => ActEnd::rejected("the incident is about a topic of several tenants"),
        }
    }
}

/// Resolves an open incident of one tenant, or of any with `None`. If the incident stopped a
/// partition, the instance that owns the partition resumes it. Incidents of shared topics require
/// `None`, which only the command line sends, because they resume records of several tenants.
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
