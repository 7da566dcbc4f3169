//! The Java switch: takes over a tenant's tables from the Java module of the same name, or gives them
//! back (docs/decisions/0016).
//!
//! Each direction is one transaction under the tenant's maintenance lock. Summaries, state and
//! dependent views change together or not at all, so every reader sees each patron with blocks
//! (invariant I5 of ARCHITECTURE.md).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tracing::info;
use uuid::Uuid;

use crate::{
    event::{Stamp, TenantId},
    patron::{
        Fee, Loan,
        java_summary::{self, SummaryDefect},
    },
    store::{
        self, Db, Schema, Tx,
        java::{self, SummaryRow, dependent_views::DependentViews},
        jobs::{self, JobKind},
        migrate,
        rebuild::shadow,
        state::merge,
        tenants,
    },
};

/// Longest wait for current readers of the summaries. Later readers queue behind the lock request, so
/// the limit is short; the caller may retry.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// Greatest age of a closed loan or fee/fine that is taken over. Older check-outs are no longer in
/// any log.
const CLOSING_AGE_MAX: TimeDelta = TimeDelta::days(60);

/// The relation that both modules name alike and that views of other programs depend on.
const SUMMARY_RELATION: &str = "user_summary";

/// Brings a tenant's schema up to date: an empty one, an older version's, or the Java module's. The
/// call is idempotent and safe to run concurrently. Returns messages for the operator.
pub async fn upgrade_schema(
    db: &Db,
    tenant: &TenantId,
    schema: &Schema,
    now: DateTime<Utc>,
) -> Result<Vec<String>, store::Error> {
    let mut messages = Vec::new();
    if java::find_tables(db, schema).await?.has_summaries {
        let mut tx = store::begin(db).await?;
        tenants::lock_for_maintenance(&mut tx, tenant, LOCK_TIMEOUT).await?;
        messages = migrate_from_java(&mut tx, tenant, schema, now).await?;
        store::commit(tx).await?;
        for message in &messages {
            info!(%tenant, "{message}");
        }
    }
    migrate::tenant(db, tenant, schema).await?;
    Ok(messages)
}

/// Returns whether a tenant's schema is at this version and contains no tables of the Java module to
/// take over.
pub async fn is_current(db: &Db, schema: &Schema) -> Result<bool, store::Error> {
    Ok(migrate::is_current(db, schema).await?
        && !java::find_tables(db, schema).await?.has_summaries)
}

/// Takes over the Java module's state, unless another instance has just done so.
async fn migrate_from_java(
    tx: &mut Tx,
    tenant: &TenantId,
    schema: &Schema,
    now: DateTime<Utc>,
) -> Result<Vec<String>, store::Error> {
    let java_tables = java::find_tables(&mut **tx, schema).await?;
    if !java_tables.has_summaries {
        return Ok(Vec::new());
    }
    java::require_rights(tx, schema).await?;
    java_tables.lock_summaries(tx, schema).await?;
    let views = DependentViews::find(tx, schema, SUMMARY_RELATION).await?;
    views.drop_views(tx).await?;
    java_tables.rename_summaries(tx, schema).await?;
    migrate::tenant_in_transaction(tx, schema).await?;

    let newest = java_tables.collect_times(tx, schema).await?;
    let mut counts = MigrationCounts {
        last_written_at: newest.unwrap_or(now).min(now),
        now,
        ..MigrationCounts::default()
    };
    java::open_summaries(tx, schema).await?;
    loop {
        let rows = java::next_summaries(tx).await?;
        if rows.is_empty() {
            break;
        }
        counts.merge_rows(tx, schema, &rows).await?;
    }
    java_tables.finish(tx, schema, now - CLOSING_AGE_MAX).await?;
    java::restore_positions(tx, schema, tenant).await?;
    views.recreate(tx).await?;
    Ok(counts.messages(views.count()))
}

/// Counts of the rows that were taken over.
#[derive(Default)]
struct MigrationCounts {
    now: DateTime<Utc>,
    /// When the Java module last wrote anything; used for patrons without a stored event.
    last_written_at: DateTime<Utc>,
    summaries: usize,
    loans: usize,
    fees: usize,
    skipped_rows: BTreeMap<SummaryDefect, usize>,
}

impl MigrationCounts {
    async fn merge_rows(
        &mut self,
        tx: &mut Tx,
        schema: &Schema,
        rows: &[SummaryRow],
    ) -> Result<(), store::Error> {
        let summaries: Vec<_> = rows.iter().map(|row| java_summary::parse(&row.json)).collect();
        let ids = summaries.iter().flat_map(|s| s.user.into_iter().chain(s.loans.keys().copied()));
        let times: HashMap<Uuid, DateTime<Utc>> =
            java::load_times(tx, schema, &ids.collect::<Vec<_>>()).await?.into_iter().collect();
        let (mut loans, mut fees) = (BTreeMap::new(), BTreeMap::new());
        for (row, summary) in rows.iter().zip(&summaries) {
            for reason in &summary.defects {
                *self.skipped_rows.entry(*reason).or_default() += 1;
            }
            let Some(user) = summary.user else { continue };
            self.summaries += 1;
            let written_at = times.get(&user).copied().max(row.written_at);
            let stamp = Stamp::from_snapshot(
                written_at.unwrap_or(self.last_written_at).min(self.now),
                user,
            );
            for (id, open) in &summary.loans {
                // If the check-out event is missing, the check-out gets the earliest time, so any
                // closing is later.
                let opened = times.get(id).map_or(DateTime::UNIX_EPOCH, |at| *at.min(&self.now));
                let loan = Loan::from_snapshot(open, Stamp::from_snapshot(opened, user), stamp);
                merge_into(&mut loans, *id, loan, Loan::merge);
            }
            for (id, open) in &summary.fees {
                merge_into(&mut fees, *id, Fee::from_snapshot(open, stamp), Fee::merge);
            }
        }
        self.loans += loans.len();
        // A fee/fine that rounds to a zero balance is not open.
        self.fees += fees.values().filter(|fee| fee.as_open(None).is_some()).count();
        merge::merge(tx, schema, &loans, &fees).await
    }

    fn messages(&self, views: usize) -> Vec<String> {
        let Self { summaries, loans, fees, .. } = self;
        let mut messages = vec![format!(
            "taken over from the Java module: {summaries} summaries with {loans} open loans and {fees} \
             open fees/fines"
        )];
        messages.extend(
            self.skipped_rows
                .iter()
                .map(|(reason, times)| format!("{times} {}", reason.description())),
        );
        if views > 0 {
            messages.push(format!("{views} views of other roles were moved to the new summaries"));
        }
        messages
    }
}

/// Merges a loan or fee/fine with the one of another summary.
fn merge_into<T: Default>(
    all: &mut BTreeMap<Uuid, T>,
    id: Uuid,
    addition: T,
    merge: fn(T, T) -> T,
) {
    let before = all.remove(&id).unwrap_or_default();
    all.insert(id, merge(before, addition));
}

/// Gives a tenant's tables back to the Java module with the current state, and disables the tenant.
/// Deletes all other data of the tenant, except the positions. A later switch starts with the Java
/// module's state at that time, and reading continues at these positions. Returns the number of
/// summaries.
pub async fn return_to_java(
    db: &Db,
    tenant: &TenantId,
    module_id: &str,
    now: DateTime<Utc>,
) -> Result<u64, store::Error> {
    migrate::module(db).await?;
    let mut tries = 0;
    loop {
        match restore_java_tables(db, tenant, module_id, now).await {
            Err(error) if error.is_deadlock() && tries < store::DEADLOCK_RETRIES_MAX => tries += 1,
            done => return done,
        }
    }
}

/// Restores the tables in one transaction. Returns the number of summaries.
async fn restore_java_tables(
    db: &Db,
    tenant: &TenantId,
    module_id: &str,
    now: DateTime<Utc>,
) -> Result<u64, store::Error> {
    let schema = Schema::of(tenant);
    let mut tx = store::begin(db).await?;
    tenants::lock_for_maintenance(&mut tx, tenant, LOCK_TIMEOUT).await?;
    tenants::lock_exclusive(&mut tx, tenant).await?;
    let java_tables = java::find_tables(&mut *tx, &schema).await?;
    if !java_tables.is_migrated || java_tables.has_summaries {
        return Err(store::Error::NothingToReturn(schema.name().to_owned()));
    }
    java::require_rights(&mut tx, &schema).await?;
    // A rebuild locks in the same order: its shadow, the tenant, its row.
    for rebuild in jobs::list_ids(&mut tx, JobKind::Rebuild, tenant).await? {
        shadow::remove(&mut *tx, &Schema::shadow(tenant, rebuild)).await?;
    }
    let views = DependentViews::find(&mut tx, &schema, SUMMARY_RELATION).await?;
    views.drop_views(&mut tx).await?;
    let summaries = java::restore_summaries(&mut tx, &schema).await?;
    views.recreate(&mut tx).await?;
    java::drop_own_objects(&mut tx, &schema, tenant).await?;
    let kinds = [JobKind::Rebuild, JobKind::SummaryExport];
    jobs::delete_all(&mut tx, tenant, &kinds).await?;
    tenants::set_enabled(&mut tx, tenant, false, module_id, now).await?;
    store::commit(tx).await?;
    Ok(summaries)
}
