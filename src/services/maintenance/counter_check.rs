//! The counter check: compares the stored counters with a recount (invariant I4 of ARCHITECTURE.md).

use std::{fmt, time::Duration};

use uuid::Uuid;

use crate::{
    config::DatabaseConfig,
    event::TenantId,
    store::{
        self, Db, LockTimeout, PoolSettings, Schema,
        state::{patrons, rows},
        tenants,
    },
};

/// The result of the check for one tenant.
#[derive(Debug)]
pub struct CounterReport {
    /// The checked tenant.
    pub tenant: TenantId,
    /// Patrons with counters that differ from the recount.
    pub wrong: Vec<Uuid>,
    /// `true` if the check has repaired these counters.
    pub repaired: bool,
}

impl fmt::Display for CounterReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let repaired = if self.repaired { ", repaired" } else { "" };
        write!(f, "{}: {} patrons with wrong counters{repaired}", self.tenant, self.wrong.len())?;
        self.wrong.iter().try_for_each(|user| write!(f, "\n  {user}"))
    }
}

/// Largest number of patrons per repair transaction.
const REPAIR_PATRONS_MAX: usize = 500;

/// Checks one tenant, or all enabled tenants. One statement reads each tenant, so concurrent events
/// cause no false findings. With `repair`, sets wrong counters to the recount.
pub async fn check(
    database: &DatabaseConfig,
    tenant: Option<&str>,
    repair: bool,
) -> Result<Vec<CounterReport>, store::Error> {
    let db = store::pool(
        &database.login,
        PoolSettings {
            name: "mod-patron-blocks check",
            max_connections: 1,
            acquire_timeout: Duration::from_secs(5),
            statement_timeout: database.statement_timeout,
            verify_on_release: false,
        },
    );
    let mut enabled: Vec<_> = tenants::list_enabled(&db).await?.into_keys().collect();
    enabled.retain(|id| tenant.is_none_or(|tenant| id.as_str() == tenant));
    enabled.sort();
    let mut reports = Vec::new();
    for tenant in enabled {
        let schema = Schema::of(&tenant);
        let wrong = patrons::list_drifted(&db, &schema).await?;
        if repair {
            for users in wrong.chunks(REPAIR_PATRONS_MAX) {
                repair_counters(&db, &tenant, &schema, users, LockTimeout::Normal).await?;
            }
        }
        reports.push(CounterReport { tenant, wrong, repaired: repair });
    }
    Ok(reports)
}

/// Repairs counters under the exclusive tenant lock, because a concurrent writer would make the
/// recount wrong again. Fails if the lock is not available within `lock_timeout`.
pub async fn repair_counters(
    db: &Db,
    tenant: &TenantId,
    schema: &Schema,
    users: &[Uuid],
    lock_timeout: LockTimeout,
) -> Result<(), store::Error> {
    let mut tx = store::begin_with_lock_timeout(db, lock_timeout).await?;
    tenants::lock_exclusive(&mut tx, tenant).await?;
    rows::recount(&mut tx, schema, users).await?;
    store::commit(tx).await
}
