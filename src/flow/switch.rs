//! Switching a tenant in place from the Java module of the same name, and back (docs/decisions/0016).
//!
//! Each way is one transaction under the tenant's migration lock: summaries, what is known, and the views
//! that others built change together or not at all, and nobody sees a patron without them (invariant I5).

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
        summary::{self, Oddity},
    },
    patron::{Fee, Loan},
    store::{
        self, Db, Schema, Tx,
        dependents::Dependents,
        iterations,
        java::{self, Row},
        merge, migrate, rebuilds, shadow, tenants,
    },
};

/// How long to wait for whoever reads the summaries at this moment. Everybody who comes later waits
/// behind us, so this is short, and the request may be repeated.
const WAIT: Duration = Duration::from_secs(20);

/// How old a closing may be to be taken over: older check-outs are not in a log any more.
const CLOSINGS: TimeDelta = TimeDelta::days(60);

/// The name that both modules give to the relation that others build on.
const SUMMARIES: &str = "user_summary";

/// Brings a tenant's schema up to date, whatever it holds: nothing, an older version's tables, or those
/// that the Java module left. May be repeated, and asked for by many at once. Returns what there is to
/// say of it.
pub async fn bring_up_to_date(
    db: &Db,
    tenant: &TenantId,
    schema: &Schema,
    now: DateTime<Utc>,
) -> Result<Vec<String>, store::Error> {
    let mut messages = Vec::new();
    if java::left(db, schema).await?.in_place {
        let mut tx = store::begin(db).await?;
        tenants::lock_for_upheaval(&mut tx, tenant, WAIT).await?;
        messages = take_over(&mut tx, tenant, schema, now).await?;
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
    Ok(migrate::is_current(db, schema).await? && !java::left(db, schema).await?.in_place)
}

/// Makes the Java module's state ours, unless somebody else just did.
async fn take_over(
    tx: &mut Tx,
    tenant: &TenantId,
    schema: &Schema,
    now: DateTime<Utc>,
) -> Result<Vec<String>, store::Error> {
    let left = java::left(&mut **tx, schema).await?;
    if !left.in_place {
        return Ok(Vec::new());
    }
    java::require_rights(tx, schema).await?;
    left.lock(tx, schema).await?;
    let views = Dependents::of(tx, schema, SUMMARIES).await?;
    views.take_down(tx).await?;
    left.step_aside(tx, schema).await?;
    migrate::within(tx, schema).await?;

    let newest = left.gather_times(tx, schema).await?;
    let mut taken = Taken { otherwise: newest.unwrap_or(now).min(now), now, ..Taken::default() };
    java::open(tx, schema).await?;
    loop {
        let rows = java::next(tx).await?;
        if rows.is_empty() {
            break;
        }
        taken.take(tx, schema, &rows).await?;
    }
    left.finish(tx, schema, now - CLOSINGS).await?;
    java::take_positions(tx, schema, tenant).await?;
    views.put_up(tx).await?;
    Ok(taken.messages(views.count()))
}

/// What was taken over so far.
#[derive(Default)]
struct Taken {
    now: DateTime<Utc>,
    /// When the module last wrote anything, for patrons of whom it has kept no event.
    otherwise: DateTime<Utc>,
    summaries: usize,
    loans: usize,
    fees: usize,
    odd: BTreeMap<Oddity, usize>,
}

impl Taken {
    async fn take(
        &mut self,
        tx: &mut Tx,
        schema: &Schema,
        rows: &[Row],
    ) -> Result<(), store::Error> {
        let summaries: Vec<_> = rows.iter().map(|row| summary::read(&row.json)).collect();
        let named =
            summaries.iter().flat_map(|s| s.user.into_iter().chain(s.loans.keys().copied()));
        let times: HashMap<Uuid, DateTime<Utc>> =
            java::times(tx, schema, &named.collect::<Vec<_>>()).await?.into_iter().collect();
        let (mut loans, mut fees) = (BTreeMap::new(), BTreeMap::new());
        for (row, summary) in rows.iter().zip(&summaries) {
            for odd in &summary.odd {
                *self.odd.entry(*odd).or_default() += 1;
            }
            let Some(user) = summary.user else { continue };
            self.summaries += 1;
            let written = times.get(&user).copied().max(row.written_at);
            let known = Stamp::snapshot(written.unwrap_or(self.otherwise).min(self.now), user);
            for (id, open) in &summary.loans {
                // Of a check-out that was not kept we know nothing but that any closing is later.
                let opened = times.get(id).map_or(DateTime::UNIX_EPOCH, |at| *at.min(&self.now));
                let loan = Loan::held(open, Stamp::snapshot(opened, user), known);
                add(&mut loans, *id, loan, Loan::merge);
            }
            for (id, open) in &summary.fees {
                add(&mut fees, *id, Fee::held(open, known), Fee::merge);
            }
        }
        self.loans += loans.len();
        // What a remainder of doubles was rounded to owes nothing.
        self.fees += fees.values().filter(|fee| fee.open(None).is_some()).count();
        merge::merge(tx, schema, &loans, &fees).await
    }

    fn messages(&self, views: usize) -> Vec<String> {
        let Self { summaries, loans, fees, .. } = self;
        let mut messages = vec![format!(
            "taken over from the Java module: {summaries} summaries with {loans} open loans and {fees} \
             open fees/fines"
        )];
        messages.extend(self.odd.iter().map(|(odd, times)| format!("{times} {}", odd.told())));
        if views > 0 {
            messages.push(format!("{views} views of others read the new summaries"));
        }
        messages
    }
}

/// Enters what is known of a loan or fee/fine beside what another summary said of it.
fn add<T: Default>(all: &mut BTreeMap<Uuid, T>, id: Uuid, known: T, merge: fn(T, T) -> T) {
    let before = all.remove(&id).unwrap_or_default();
    all.insert(id, merge(before, known));
}

/// Gives a tenant's tables back to the Java module with what is known now, and disables the tenant here.
/// Whatever else we kept of it goes, but how far we have read: taken over again, it begins with what the
/// Java module knows then, and reading goes on from there.
/// Returns how many summaries there are.
pub async fn give_back(
    db: &Db,
    tenant: &TenantId,
    module_id: &str,
    now: DateTime<Utc>,
) -> Result<u64, store::Error> {
    let schema = Schema::of(tenant);
    migrate::module(db).await?;
    let mut tx = store::begin(db).await?;
    tenants::lock_for_upheaval(&mut tx, tenant, WAIT).await?;
    tenants::enter_alone(&mut tx, tenant).await?;
    let left = java::left(&mut *tx, &schema).await?;
    if !left.aside || left.in_place {
        return Err(store::Error::NothingToGiveBack(schema.name().to_owned()));
    }
    java::require_rights(&mut tx, &schema).await?;
    // In this order a rebuild takes its locks, too: of its shadow, of the tenant, of its row.
    for rebuild in rebuilds::ids(&mut tx, tenant).await? {
        shadow::remove(&mut *tx, &Schema::shadow(tenant, rebuild)).await?;
    }
    let views = Dependents::of(&mut tx, &schema, SUMMARIES).await?;
    views.take_down(&mut tx).await?;
    let summaries = java::come_back(&mut tx, &schema).await?;
    views.put_up(&mut tx).await?;
    java::leave(&mut tx, &schema, tenant).await?;
    rebuilds::forget_all(&mut tx, tenant).await?;
    iterations::forget_all(&mut tx, tenant).await?;
    tenants::set_enabled(&mut tx, tenant, false, module_id, now).await?;
    store::commit(tx).await?;
    Ok(summaries)
}
