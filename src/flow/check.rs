//! The check of invariant I4: stored counters against a recount.

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::{
    config::DatabaseConfig,
    event::TenantId,
    store::{self, PoolSettings, Schema, patrons, tenants},
};

/// One tenant's outcome.
#[derive(Debug)]
pub struct Report {
    /// The tenant.
    pub tenant: TenantId,
    /// Patrons whose counters are not what a recount gives.
    pub wrong: Vec<Uuid>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} patrons with wrong counters", self.tenant, self.wrong.len())?;
        self.wrong.iter().try_for_each(|user| write!(f, "\n  {user}"))
    }
}

/// Recounts one tenant, or all that are enabled. Each is read in one statement, so events that arrive
/// meanwhile can't make a difference.
pub async fn check(
    database: &DatabaseConfig,
    tenant: Option<&str>,
) -> Result<Vec<Report>, store::Error> {
    let db = store::pool(
        &database.login,
        PoolSettings {
            name: "mod-patron-blocks check",
            most: 1,
            wait: Duration::from_secs(5),
            statement: database.statement,
            suspicious: false,
        },
    );
    let mut enabled: Vec<_> = tenants::enabled(&db).await?.into_keys().collect();
    enabled.retain(|id| tenant.is_none_or(|tenant| id.as_str() == tenant));
    enabled.sort();
    let mut reports = Vec::new();
    for tenant in enabled {
        let wrong = patrons::drift(&db, &Schema::of(&tenant)).await?;
        reports.push(Report { tenant, wrong });
    }
    Ok(reports)
}
