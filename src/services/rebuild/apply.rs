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
    compare::{Pair, TargetState, load_complete_shadow, split_loans_and_fees},
    context::{RebuildContext, RebuildError},
    read,
    request::Source,
};
use crate::{
    blocks::Cause,
    event::Stamp,
    logging::ErrorChain,
    patron::Scope,
    store::{
        Tx, Verdict, differences, inbox, pending_patrons,
        rows::{self, SubjectRow, SubjectRows},
        shadow, tenants,
    },
};

/// Loans and fees/fines in one step, unless one patron alone has more.
const STEP_ROWS_MAX: i32 = 500;

/// Patrons in one step.
const STEP_PATRONS_MAX: i64 = 200;

/// Patrons whose groups are told at once.
const STEP_GROUPS_MAX: i64 = 2000;

/// How long to wait for those who write at the moment. Whoever comes later waits behind us.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long to let them be when that was not enough: twice as long each time, for so many times.
const RETRY_DELAY: Duration = Duration::from_millis(100);
const RETRIES_MAX: u32 = 7;

/// What is done to a tenant as a whole, in steps.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// What differs in nothing that counts.
    Insignificant,
    /// What differs of patrons.
    Patrons,
    /// Patron groups, which are merged as any are that a topic tells: the later one counts.
    Groups(Uuid),
    /// What complete snapshots say of what is still to come.
    Horizons,
    Done,
}

/// Puts right what is not right yet.
pub(super) async fn apply(context: &RebuildContext) -> Result<(), RebuildError> {
    let summary = differences::summarize(context.db(), &context.tenant.schema, context.id).await?;
    let left = summary.patrons - summary.applied;
    context.progress.start_stage("applying", u64::try_from(left).unwrap_or_default());
    let (mut stage, mut tries) = (Stage::Insignificant, 0);
    while !matches!(stage, Stage::Done) {
        let began = Instant::now();
        match step(context, stage).await {
            Ok(next) => (stage, tries) = (next, 0),
            Err(RebuildError::Store(error))
                if error.verdict() == Verdict::Retry && tries < RETRIES_MAX =>
            {
                warn!(tenant = %context.tenant.id, rebuild.id = %context.id, error = %ErrorChain(&error),
                    "rebuild: could not apply a page of differences; retrying");
                sleep(RETRY_DELAY * 2_u32.pow(tries)).await;
                tries += 1;
            }
            Err(failure) => return Err(failure),
        }
        context.throttle.rest_after(began).await;
    }
    Ok(())
}

/// One step, and what comes after it.
async fn step(context: &RebuildContext, stage: Stage) -> Result<Stage, RebuildError> {
    let mut tx = begin_exclusive(context).await?;
    let state = load_complete_shadow(&mut tx, context).await?;
    let next = match stage {
        Stage::Insignificant if apply_insignificant(&mut tx, context, &state).await? => {
            Stage::Insignificant
        }
        Stage::Insignificant => Stage::Patrons,
        Stage::Patrons if apply_patrons(&mut tx, context, &state).await? => Stage::Patrons,
        Stage::Patrons => Stage::Groups(Uuid::nil()),
        Stage::Groups(after) => {
            let last =
                shadow::apply_groups_page(&mut tx, &context.shadow, after, STEP_GROUPS_MAX).await?;
            last.map_or(Stage::Horizons, Stage::Groups)
        }
        Stage::Horizons => {
            // A horizon closes old evidence that is still to come as well. What the source names as open and
            // can't be read has no row to protect it, so then the horizon stays as it was.
            if !shadow::would_close_unreadable(&mut tx, &context.shadow).await? {
                shadow::apply_horizon(
                    &mut tx,
                    &context.shadow,
                    &context.tenant.schema,
                    context.request.scope,
                )
                .await?;
            }
            Stage::Done
        }
        Stage::Done => Stage::Done,
    };
    context.commit(tx).await?;
    Ok(next)
}

/// A transaction in which nobody else writes the tenant's rows.
async fn begin_exclusive(context: &RebuildContext) -> Result<Tx, RebuildError> {
    let mut tx = context.begin().await?;
    tenants::set_lock_timeout(&mut tx, LOCK_TIMEOUT).await?;
    tenants::lock_exclusive(&mut tx, &context.tenant.id).await?;
    pending_patrons::set_cause(&mut tx, Cause::Rebuild).await?;
    if tenants::enabled_since(&mut *tx, &context.tenant.id).await?.is_none() {
        return Err(RebuildError::Fatal("the tenant was disabled meanwhile".to_owned()));
    }
    Ok(tx)
}

/// Puts some rows that differ in nothing that counts, whosever they are. Tells whether there may be more.
async fn apply_insignificant(
    tx: &mut Tx,
    context: &RebuildContext,
    state: &shadow::ShadowState,
) -> Result<bool, RebuildError> {
    let schema = &context.tenant.schema;
    let insignificant =
        differences::list_insignificant(tx, schema, context.id, STEP_ROWS_MAX.into()).await?;
    if insignificant.is_empty() {
        return Ok(false);
    }
    let (loans, fees) = split_loans_and_fees(&insignificant);
    let mut targets = TargetState::load(tx, context, state, &loans, &fees).await?;
    let all: Vec<Uuid> = insignificant.into_iter().map(|(subject, _)| subject).collect();
    differences::set_insignificant_applied(tx, schema, context.id, &all).await?;
    // What counts by now, after what came in, is put with all else of its patron.
    let counts: Vec<_> =
        targets.differences().into_iter().filter(differences::Difference::is_significant).collect();
    differences::replace(tx, schema, context.id, &counts).await?;
    targets.loans.retain(|_, pair| pair.current.open_loan() == pair.target.open_loan());
    targets.fees.retain(|_, pair| pair.current.open_fee() == pair.target.open_fee());
    write_rows(tx, context, state, &mut targets).await?;
    Ok(true)
}

/// Puts all that differs of some patrons, and their groups. Tells whether there may be more.
async fn apply_patrons(
    tx: &mut Tx,
    context: &RebuildContext,
    state: &shadow::ShadowState,
) -> Result<bool, RebuildError> {
    let schema = &context.tenant.schema;
    let users = take_step_patrons(
        differences::list_unapplied(tx, schema, context.id, STEP_PATRONS_MAX).await?,
    );
    if users.is_empty() {
        return Ok(false);
    }
    let (users, mut targets) = load_with_owners(tx, context, state, users).await?;
    write_rows(tx, context, state, &mut targets).await?;
    rows::recount(tx, schema, &users).await?;
    shadow::apply_groups_of_patrons(tx, &context.shadow, &users).await?;
    differences::set_applied(tx, schema, context.id, &users, context.clock.now()).await?;
    context.progress.add(users.len() as u64);
    Ok(true)
}

/// Puts what differs in place. What topics say of it and the inbox lacks is noted: the inbox is not believed about the
/// time until then, or the next rebuild from it would take that for never said.
async fn write_rows(
    tx: &mut Tx,
    context: &RebuildContext,
    state: &shadow::ShadowState,
    targets: &mut TargetState,
) -> Result<(), RebuildError> {
    let schema = &context.tenant.schema;
    if context.request.scope == Scope::Tenant
        && shadow::would_close_unreadable(tx, &context.shadow).await?
    {
        prune_closed(targets);
    }
    if context.request.source == Source::Topics {
        let mut stamps = new_stamps(&targets.loans, |loan| loan.stamps().collect());
        stamps.extend(self::new_stamps(&targets.fees, |fee| fee.stamps().collect()));
        if let Some(lacking) = inbox::newest_missing_stamp(tx, schema, &stamps).await? {
            // All of it was written before reading began, whatever time it bears.
            let until = lacking.at() + TimeDelta::milliseconds(1);
            inbox::record_removal(
                tx,
                schema,
                until.min(state.read_started_at + read::INBOX_LOOKBACK),
            )
            .await?;
        }
    }
    rows::replace_loans(tx, schema, &changed_rows(&targets.loans)).await?;
    Ok(rows::replace_fees(tx, schema, &changed_rows(&targets.fees)).await?)
}

/// What a snapshot of the tenant closes stays closed, also where its horizon is not stored for what is to come.
fn prune_closed(targets: &mut TargetState) {
    for Pair { current, target } in targets.loans.values_mut() {
        if current.open_loan().is_some() && target.open_loan().is_none() {
            target.prune_horizon = target.horizon;
        }
    }
    for Pair { current, target } in targets.fees.values_mut() {
        if current.open_fee().is_some() && target.open_fee().is_none() {
            target.prune_horizon = target.horizon;
        }
    }
}

/// What differs of these patrons, and of those whose loans and fees/fines these were or are to be, and so on:
/// each of them is right at once, or as before.
async fn load_with_owners(
    tx: &mut Tx,
    context: &RebuildContext,
    state: &shadow::ShadowState,
    mut users: Vec<Uuid>,
) -> Result<(Vec<Uuid>, TargetState), RebuildError> {
    loop {
        let schema = &context.tenant.schema;
        let differing = differences::list_significant(tx, schema, context.id, &users).await?;
        let (loans, fees) = split_loans_and_fees(&differing);
        let targets = TargetState::load(tx, context, state, &loans, &fees).await?;
        let mut all: BTreeSet<Uuid> = users.iter().copied().collect();
        for pair in targets.loans.values() {
            let open = [pair.current.open_loan(), pair.target.open_loan()];
            all.extend(open.into_iter().flatten().map(|loan| loan.user));
        }
        for pair in targets.fees.values() {
            let open = [pair.current.open_fee(), pair.target.open_fee()];
            all.extend(open.into_iter().flatten().map(|fee| fee.user));
        }
        if all.len() == users.len() {
            return Ok((users, targets));
        }
        users = all.into_iter().collect();
    }
}

/// As many patrons as go into one step, one at least.
fn take_step_patrons(of: Vec<(Uuid, i32)>) -> Vec<Uuid> {
    let mut subjects = 0;
    let fits = |(n, (_, more)): &(usize, (Uuid, i32))| {
        subjects += more;
        *n == 0 || subjects <= STEP_ROWS_MAX
    };
    of.into_iter().enumerate().take_while(fits).map(|(_, (user, _))| user).collect()
}

/// What rows are to rest on and do not yet, but for states that no event told.
fn new_stamps<T>(
    pairs: &BTreeMap<Uuid, Pair<T>>,
    stamps: impl Fn(&T) -> Vec<Stamp>,
) -> Vec<(Uuid, Stamp)> {
    let mut new = Vec::new();
    for (id, pair) in pairs {
        let current = stamps(&pair.current.state);
        let target = stamps(&pair.target.state).into_iter();
        let is_new = |stamp: &Stamp| !current.contains(stamp) && !stamp.is_snapshot();
        new.extend(target.filter(is_new).map(|stamp| (*id, stamp)));
    }
    new
}

fn changed_rows<T: Clone + PartialEq>(pairs: &BTreeMap<Uuid, Pair<T>>) -> SubjectRows<T> {
    let changed = pairs.iter().filter(|(_, pair)| pair.current != pair.target);
    changed.map(|(id, pair)| (*id, SubjectRow::clone(&pair.target))).collect()
}
