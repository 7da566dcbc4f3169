//! Switching a tenant in place from the Java module of the same name, and back (docs/decisions/0016).
//!
//! Each way is one transaction under the tenant's migration lock: summaries, what is known, and the
//! views that others built change together or not at all, and nobody sees a patron without them
//! (invariant I5 of ARCHITECTURE.md).

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use chrono::{DateTime, TimeDelta, Utc};
use tracing::info;
use uuid::Uuid;

use crate::{
    event::{
        Stamp, TenantId,
        summary::{self, SummaryDefect},
    },
    patron::{Fee, Loan},
    store::{
        self, Db, Schema, Tx,
        dependent_views::DependentViews,
        exports,
        java::{self, SummaryRow},
        merge, migrate, rebuilds, shadow, tenants,
    },
};

/// How long to wait for whoever reads the summaries at this moment. Everybody who comes later waits
/// behind us, so this is short, and the request may be repeated.
const LOCK_TIMEOUT: Duration = Duration::from_secs(20);

/// How old a closing may be to be taken over: older check-outs are not in a log any more.
const CLOSING_AGE_MAX: TimeDelta = TimeDelta::days(60);

/// The name that both modules give to the relation that others build on.
const SUMMARY_RELATION: &str = "user_summary";

/// Brings a tenant's schema up to date, whatever it holds: nothing, an older version's tables, or those
/// that the Java module left. May be repeated, and asked for by many at once. Returns what there is to
/// say of it.
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

/// Whether a tenant's schema is at this version, with nothing of the Java module's to take over.
pub async fn is_current(db: &Db, schema: &Schema) -> Result<bool, store::Error> {
    Ok(migrate::is_current(db, schema).await?
        && !java::find_tables(db, schema).await?.has_summaries)
}

/// Makes the Java module's state ours, unless somebody else just did.
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

/// What was taken over so far.
#[derive(Default)]
struct MigrationCounts {
    now: DateTime<Utc>,
    /// When the module last wrote anything, for patrons of whom it has kept no event.
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
        let summaries: Vec<_> = rows.iter().map(|row| summary::parse(&row.json)).collect();
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
                // Of a check-out that was not kept we know nothing but that any closing is later.
                let opened = times.get(id).map_or(DateTime::UNIX_EPOCH, |at| *at.min(&self.now));
                let loan = Loan::from_snapshot(open, Stamp::from_snapshot(opened, user), stamp);
                merge_into(&mut loans, *id, loan, Loan::merge);
            }
            for (id, open) in &summary.fees {
                merge_into(&mut fees, *id, Fee::from_snapshot(open, stamp), Fee::merge);
            }
        }
        self.loans += loans.len();
        // What a remainder of doubles was rounded to owes nothing.
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
            messages.push(format!("{views} views of others read the new summaries"));
        }
        messages
    }
}

/// Enters what is known of a loan or fee/fine beside what another summary said of it.
fn merge_into<T: Default>(
    all: &mut BTreeMap<Uuid, T>,
    id: Uuid,
    addition: T,
    merge: fn(T, T) -> T,
) {
    let before = all.remove(&id).unwrap_or_default();
    all.insert(id, merge(before, addition));
}

/// Gives a tenant's tables back to the Java module with what is known now, and disables the tenant here.
/// Whatever else we kept of it goes, but how far we have read: taken over again, it begins with what the
/// Java module knows then, and reading goes on from there.
/// Returns how many summaries there are.
pub async fn return_to_java(
    db: &Db,
    tenant: &TenantId,
    module_id: &str,
    now: DateTime<Utc>,
) -> Result<u64, store::Error> {
    let schema = Schema::of(tenant);
    migrate::module(db).await?;
    let mut tx = store::begin(db).await?;
    tenants::lock_for_maintenance(&mut tx, tenant, LOCK_TIMEOUT).await?;
    tenants::lock_exclusive(&mut tx, tenant).await?;
    let java_tables = java::find_tables(&mut *tx, &schema).await?;
    if !java_tables.is_migrated || java_tables.has_summaries {
        return Err(store::Error::NothingToReturn(schema.name().to_owned()));
    }
    java::require_rights(&mut tx, &schema).await?;
    // In this order a rebuild takes its locks, too: of its shadow, of the tenant, of its row.
    for rebuild in rebuilds::list_ids(&mut tx, tenant).await? {
        shadow::remove(&mut *tx, &Schema::shadow(tenant, rebuild)).await?;
    }
    let views = DependentViews::find(&mut tx, &schema, SUMMARY_RELATION).await?;
    views.drop_views(&mut tx).await?;
    let summaries = java::restore_summaries(&mut tx, &schema).await?;
    views.recreate(&mut tx).await?;
    java::drop_own_objects(&mut tx, &schema, tenant).await?;
    rebuilds::delete_all(&mut tx, tenant).await?;
    exports::delete_all(&mut tx, tenant).await?;
    tenants::set_enabled(&mut tx, tenant, false, module_id, now).await?;
    store::commit(tx).await?;
    Ok(summaries)
}
