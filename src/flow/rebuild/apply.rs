//! Putting right what differs, a few patrons at a time: each step is one short transaction in which nobody
//! else writes the tenant's rows, and what is to be put is worked out anew in it. So whatever came in since
//! the differences were found is in it, and a patron is right from that step on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use uuid::Uuid;

use super::{
    compare::{Pair, Targets, divide, whole},
    work::{Failure, Work},
};
use crate::store::{
    self, Tx, Verdict, differences,
    rows::{self, Row, Rows},
    shadow, tenants,
};

/// Loans and fees/fines in one step, unless one patron alone has more.
const STEP: i32 = 500;

/// Patrons in one step.
const PATRONS: i64 = 200;

/// How long to wait for those who write at the moment. Whoever comes later waits behind us.
const WAIT: Duration = Duration::from_secs(2);

/// How long to let them be when that was not enough.
const LET_BE: Duration = Duration::from_millis(200);

/// Patrons whose groups are told at once.
const GROUPS: i64 = 2000;

/// Puts right what is not right yet.
pub(super) async fn apply(work: &Work) -> Result<(), Failure> {
    tell_groups(work).await?;
    put_right(work).await?;
    settle(work).await
}

/// Groups are merged as any are that a topic tells: the later one counts.
async fn tell_groups(work: &Work) -> Result<(), Failure> {
    let mut after = Some(Uuid::nil());
    while let Some(last) = after {
        let began = Instant::now();
        let mut tx = work.begin().await?;
        whole(&mut tx, work).await?;
        after = shadow::tell_groups(&mut tx, &work.shadow, last, GROUPS).await?;
        store::commit(tx).await?;
        work.pace.keep(began).await;
    }
    Ok(())
}

/// Has hold for what is still to come what a complete snapshot says: what it does not name has ended.
async fn settle(work: &Work) -> Result<(), Failure> {
    loop {
        let settled = async {
            let mut tx = enter(work).await?;
            whole(&mut tx, work).await?;
            let of = work.ask.user.unwrap_or(Uuid::nil());
            shadow::settle(&mut tx, &work.shadow, &work.tenant.schema, of).await?;
            Ok(store::commit(tx).await?)
        };
        match settled.await {
            Err(Failure::Store(error)) if error.verdict() == Verdict::Retry => sleep(LET_BE).await,
            done => return done,
        }
    }
}

/// A transaction in which nobody else writes the tenant's rows.
async fn enter(work: &Work) -> Result<Tx, Failure> {
    let mut tx = work.begin().await?;
    tenants::wait_at_most(&mut tx, WAIT).await?;
    tenants::enter_alone(&mut tx, &work.tenant.id).await?;
    if tenants::enabled_since(&mut *tx, &work.tenant.id).await? != Some(work.tenant.since) {
        return Err(Failure::Refused("the tenant was disabled or purged meanwhile".to_owned()));
    }
    Ok(tx)
}

async fn put_right(work: &Work) -> Result<(), Failure> {
    let summary = differences::summary(work.db(), &work.tenant.schema, work.id).await?;
    let left = summary.patrons - summary.applied;
    work.progress.begin("applying", u64::try_from(left).unwrap_or_default());
    loop {
        let began = Instant::now();
        match step(work).await {
            Ok(0) => return Ok(()),
            Ok(patrons) => work.progress.add(patrons),
            Err(Failure::Store(error)) if error.verdict() == Verdict::Retry => {
                tracing::debug!(error = %crate::telemetry::Chain(&error), "a step has to wait");
                sleep(LET_BE).await;
            }
            Err(failure) => return Err(failure),
        }
        work.pace.keep(began).await;
    }
}

/// One step: tells how many patrons are right after it who may not have been before.
async fn step(work: &Work) -> Result<u64, Failure> {
    let schema = &work.tenant.schema;
    let mut tx = enter(work).await?;
    let state = whole(&mut tx, work).await?;
    let users = next(differences::unapplied(&mut tx, schema, work.id, PATRONS).await?);
    if users.is_empty() {
        return Ok(0);
    }
    let (users, targets) = with_owners(&mut tx, work, &state, users).await?;
    rows::put_loans(&mut tx, schema, &changed(&targets.loans)).await?;
    rows::put_fees(&mut tx, schema, &changed(&targets.fees)).await?;
    rows::recount(&mut tx, schema, &users).await?;
    differences::set_applied(&mut tx, schema, work.id, &users, work.clock.now()).await?;
    store::commit(tx).await?;
    Ok(users.len() as u64)
}

/// What differs of these patrons, and of those whose loans and fees/fines these were or are to be, and so on:
/// each of them is right at once, or as before.
async fn with_owners(
    tx: &mut Tx,
    work: &Work,
    state: &shadow::State,
    mut users: Vec<Uuid>,
) -> Result<(Vec<Uuid>, Targets), Failure> {
    loop {
        let schema = &work.tenant.schema;
        let differing = differences::of_patrons(&mut **tx, schema, work.id, &users).await?;
        let subjects: Vec<(Uuid, bool)> =
            differing.iter().map(|d| (d.subject, d.is_loan)).collect();
        let (loans, fees) = divide(&subjects);
        let targets = Targets::of(tx, work, state, &loans, &fees).await?;
        let mut all: BTreeSet<Uuid> = users.iter().copied().collect();
        for pair in targets.loans.values() {
            let open = [pair.here.open_loan(), pair.there.open_loan()];
            all.extend(open.into_iter().flatten().map(|loan| loan.user));
        }
        for pair in targets.fees.values() {
            let open = [pair.here.open_fee(), pair.there.open_fee()];
            all.extend(open.into_iter().flatten().map(|fee| fee.user));
        }
        if all.len() == users.len() {
            return Ok((users, targets));
        }
        users = all.into_iter().collect();
    }
}

/// As many patrons as go into one step, one at least.
fn next(of: Vec<(Uuid, i32)>) -> Vec<Uuid> {
    let mut subjects = 0;
    let fits = |(n, (_, more)): &(usize, (Uuid, i32))| {
        subjects += more;
        *n == 0 || subjects <= STEP
    };
    of.into_iter().enumerate().take_while(fits).map(|(_, (user, _))| user).collect()
}

fn changed<T: Clone + PartialEq>(pairs: &BTreeMap<Uuid, Pair<T>>) -> Rows<T> {
    let changed = pairs.iter().filter(|(_, pair)| pair.here != pair.there);
    changed.map(|(id, pair)| (*id, Row::clone(&pair.there))).collect()
}
