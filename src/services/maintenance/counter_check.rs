//! The counter check: compares the stored counters with a recount (invariant I4 of ARCHITECTURE.md).

use std::fmt;

use uuid::Uuid;

use crate::{
    event::TenantId,
    store::{
        self, Db, LockTimeout, Schema,
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
/// cause no false findings.
pub async fn check(db: &Db, tenant: Option<&TenantId>) -> Result<Vec<CounterReport>, store::Error> {
    let mut enabled: Vec<_> = tenants::list_enabled(db).await?.into_keys().collect();
    enabled.retain(|id| tenant.is_none_or(|tenant| id == tenant));
    enabled.sort();
    let mut reports = Vec::new();
    for tenant in enabled {
        let wrong = patrons::list_drifted(db, &Schema::of(&tenant)).await?;
        reports.push(CounterReport { tenant, wrong, repaired: false });
    }
    Ok(reports)
}

/// Sets the wrong counters of a report to the recount.
pub async fn repair(db: &Db, report: &CounterReport) -> Result<(), store::Error> {
    let (tenant, schema) = (&report.tenant, Schema::of(&report.tenant));
    for users in report.wrong.chunks(REPAIR_PATRONS_MAX) {
        repair_counters(db, tenant, &schema, users, LockTimeout::Normal).await?;
    }
    Ok(())
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
