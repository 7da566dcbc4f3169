//! Putting right what differs, a few patrons at a time: each step is one short transaction in which nobody
//! else writes the tenant's rows, and what is to be put is worked out anew in it. So whatever came in since
//! the differences were found is in it, and a patron is right from that step on.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use tokio::time::sleep;
use tracing::warn;
use uuid::Uuid;

use super::{
    ask::Source,
    compare::{Pair, Targets, divide, whole},
    read,
    work::{Failure, Work},
};
use crate::{
    blocks::Cause,
    event::Stamp,
    patron::Scope,
    store::{
        Tx, Verdict, differences, inbox,
        rows::{self, Row, Rows},
        shadow, telling, tenants,
    },
    telemetry::Chain,
};

/// Loans and fees/fines in one step, unless one patron alone has more.
const STEP: i32 = 500;

/// Patrons in one step.
const PATRONS: i64 = 200;

/// Patrons whose groups are told at once.
const GROUPS: i64 = 2000;

/// How long to wait for those who write at the moment. Whoever comes later waits behind us.
const WAIT: Duration = Duration::from_secs(2);

/// How long to let them be when that was not enough: twice as long each time, for so many times.
const LET_BE: Duration = Duration::from_millis(100);
const TRIES: u32 = 7;

/// What is done to a tenant as a whole, in steps.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// What differs in nothing that counts.
    Hidden,
    /// What differs of patrons.
    Patrons,
    /// Patron groups, which are merged as any are that a topic tells: the later one counts.
    Groups(Uuid),
    /// What complete snapshots say of what is still to come.
    Horizons,
    Done,
}

/// Puts right what is not right yet.
pub(super) async fn apply(work: &Work) -> Result<(), Failure> {
    let summary = differences::summary(work.db(), &work.tenant.schema, work.id).await?;
    let left = summary.patrons - summary.applied;
    work.progress.begin("applying", u64::try_from(left).unwrap_or_default());
    let (mut stage, mut tries) = (Stage::Hidden, 0);
    while !matches!(stage, Stage::Done) {
        let began = Instant::now();
        match step(work, stage).await {
            Ok(next) => (stage, tries) = (next, 0),
            Err(Failure::Store(error)) if error.verdict() == Verdict::Retry && tries < TRIES => {
                warn!(tenant = %work.tenant.id, rebuild.id = %work.id, error = %Chain(&error),
                    "rebuild: could not apply a page of differences; retrying");
                sleep(LET_BE * 2_u32.pow(tries)).await;
                tries += 1;
            }
            Err(failure) => return Err(failure),
        }
        work.pace.keep(began).await;
    }
    Ok(())
}

/// One step, and what comes after it.
async fn step(work: &Work, stage: Stage) -> Result<Stage, Failure> {
    let mut tx = enter(work).await?;
    let state = whole(&mut tx, work).await?;
    let next = match stage {
        Stage::Hidden if put_hidden(&mut tx, work, &state).await? => Stage::Hidden,
        Stage::Hidden => Stage::Patrons,
        Stage::Patrons if put_patrons(&mut tx, work, &state).await? => Stage::Patrons,
        Stage::Patrons => Stage::Groups(Uuid::nil()),
        Stage::Groups(after) => {
            let last = shadow::tell_groups(&mut tx, &work.shadow, after, GROUPS).await?;
            last.map_or(Stage::Horizons, Stage::Groups)
        }
        Stage::Horizons => {
            // A horizon closes old evidence that is still to come as well. What the source names as open and
            // can't be read has no row to protect it, so then the horizon stays as it was.
            if !shadow::is_unread_left_out(&mut tx, &work.shadow).await? {
                shadow::settle(&mut tx, &work.shadow, &work.tenant.schema, work.ask.scope).await?;
            }
            Stage::Done
        }
        Stage::Done => Stage::Done,
    };
    work.commit(tx).await?;
    Ok(next)
}

/// A transaction in which nobody else writes the tenant's rows.
async fn enter(work: &Work) -> Result<Tx, Failure> {
    let mut tx = work.begin().await?;
    tenants::wait_at_most(&mut tx, WAIT).await?;
    tenants::enter_alone(&mut tx, &work.tenant.id).await?;
    telling::because(&mut tx, Cause::Rebuild).await?;
    if tenants::enabled_since(&mut *tx, &work.tenant.id).await?.is_none() {
        return Err(Failure::Refused("the tenant was disabled meanwhile".to_owned()));
    }
    Ok(tx)
}

/// Puts some rows that differ in nothing that counts, whosever they are. Tells whether there may be more.
async fn put_hidden(tx: &mut Tx, work: &Work, state: &shadow::State) -> Result<bool, Failure> {
    let schema = &work.tenant.schema;
    let hidden = differences::hidden(tx, schema, work.id, STEP.into()).await?;
    if hidden.is_empty() {
        return Ok(false);
    }
    let (loans, fees) = divide(&hidden);
    let mut targets = Targets::of(tx, work, state, &loans, &fees).await?;
    let all: Vec<Uuid> = hidden.into_iter().map(|(subject, _)| subject).collect();
    differences::set_hidden_applied(tx, schema, work.id, &all).await?;
    // What counts by now, after what came in, is put with all else of its patron.
    let counts: Vec<_> =
        targets.differences().into_iter().filter(differences::Difference::counts).collect();
    differences::replace(tx, schema, work.id, &counts).await?;
    targets.loans.retain(|_, pair| pair.here.open_loan() == pair.there.open_loan());
    targets.fees.retain(|_, pair| pair.here.open_fee() == pair.there.open_fee());
    put(tx, work, state, &mut targets).await?;
    Ok(true)
}

/// Puts all that differs of some patrons, and their groups. Tells whether there may be more.
async fn put_patrons(tx: &mut Tx, work: &Work, state: &shadow::State) -> Result<bool, Failure> {
    let schema = &work.tenant.schema;
    let users = next(differences::unapplied(tx, schema, work.id, PATRONS).await?);
    if users.is_empty() {
        return Ok(false);
    }
    let (users, mut targets) = with_owners(tx, work, state, users).await?;
    put(tx, work, state, &mut targets).await?;
    rows::recount(tx, schema, &users).await?;
    shadow::tell_groups_of(tx, &work.shadow, &users).await?;
    differences::set_applied(tx, schema, work.id, &users, work.clock.now()).await?;
    work.progress.add(users.len() as u64);
    Ok(true)
}

/// Puts what differs in place. What topics say of it and the inbox lacks is noted: the inbox is not believed about the
/// time until then, or the next rebuild from it would take that for never said.
async fn put(
    tx: &mut Tx,
    work: &Work,
    state: &shadow::State,
    targets: &mut Targets,
) -> Result<(), Failure> {
    let schema = &work.tenant.schema;
    if work.ask.scope == Scope::Tenant && shadow::is_unread_left_out(tx, &work.shadow).await? {
        close_for_good(targets);
    }
    if work.ask.source == Source::Topics {
        let mut news = news(&targets.loans, |loan| loan.stamps().collect());
        news.extend(self::news(&targets.fees, |fee| fee.stamps().collect()));
        if let Some(lacking) = inbox::lacks(tx, schema, &news).await? {
            // All of it was written before reading began, whatever time it bears.
            let until = lacking.at() + TimeDelta::milliseconds(1);
            inbox::note_gone(tx, schema, until.min(state.read_from + read::MARGIN)).await?;
        }
    }
    rows::put_loans(tx, schema, &changed(&targets.loans)).await?;
    Ok(rows::put_fees(tx, schema, &changed(&targets.fees)).await?)
}

/// What a snapshot of the tenant closes stays closed, also where its horizon is not stored for what is to come.
fn close_for_good(targets: &mut Targets) {
    for Pair { here, there } in targets.loans.values_mut() {
        if here.open_loan().is_some() && there.open_loan().is_none() {
            there.pruned = there.horizon;
        }
    }
    for Pair { here, there } in targets.fees.values_mut() {
        if here.open_fee().is_some() && there.open_fee().is_none() {
            there.pruned = there.horizon;
        }
    }
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
        let differing = differences::counting(tx, schema, work.id, &users).await?;
        let (loans, fees) = divide(&differing);
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

/// What rows are to rest on and do not yet, but for states that no event told.
fn news<T>(
    pairs: &BTreeMap<Uuid, Pair<T>>,
    stamps: impl Fn(&T) -> Vec<Stamp>,
) -> Vec<(Uuid, Stamp)> {
    let mut news = Vec::new();
    for (id, pair) in pairs {
        let here = stamps(&pair.here.known);
        let there = stamps(&pair.there.known).into_iter();
        let is_news = |stamp: &Stamp| !here.contains(stamp) && !stamp.is_snapshot();
        news.extend(there.filter(is_news).map(|stamp| (*id, stamp)));
    }
    news
}

fn changed<T: Clone + PartialEq>(pairs: &BTreeMap<Uuid, Pair<T>>) -> Rows<T> {
    let changed = pairs.iter().filter(|(_, pair)| pair.here != pair.there);
    changed.map(|(id, pair)| (*id, Row::clone(&pair.there))).collect()
}
