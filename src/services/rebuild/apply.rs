//! Application of the differences, a few patrons at a time.
//!
//! Each step is one short transaction under the tenant's exclusive lock. The step computes the target rows
//! again, so the rows include every event since the comparison. After its step, a patron is correct.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use tokio::time::sleep;
use tracing::warn;
use uuid::Uuid;

use super::{
    context::RebuildContext,
    diff::Pair,
    error::RebuildError,
    read,
    request::Source,
    target_state::{TargetState, load_complete_shadow, split_loans_and_fees},
};
use crate::{
    blocks::Cause,
    event::Stamp,
    logging::ErrorChain,
    patron::Scope,
    store::{
        Tx, Verdict,
        ingest::inbox,
        messages::pending_patrons,
        rebuild::{differences, shadow},
        state::rows::{self, SubjectRow, SubjectRows},
        tenants,
    },
};

/// Maximum number of loans and fees/fines per step, unless one patron alone has more.
const STEP_ROWS_MAX: i32 = 500;

/// Maximum number of patrons per step.
const STEP_PATRONS_MAX: i64 = 200;

/// Maximum number of patron groups per step.
const STEP_GROUPS_MAX: i64 = 2000;

/// Maximum wait for the exclusive lock. Later writers queue behind the waiting step.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Delay before the first retry of a step; each retry doubles the delay.
const RETRY_DELAY: Duration = Duration::from_millis(100);
/// Maximum number of retries of one step.
const RETRIES_MAX: u32 = 7;

/// A part of the application; `apply` runs each stage in steps.
#[derive(Debug, Clone, Copy)]
enum Stage {
    /// Differences that change neither a count nor a block.
    Insignificant,
    /// Differences and wrong counters of patrons.
    Patrons,
    /// Patron groups of patrons after this id. The group with the greater stamp wins, as in ingest.
    Groups(Uuid),
    /// Snapshot horizons, which apply to evidence that arrives later.
    Horizons,
    Done,
}

/// Applies all differences that are not applied yet.
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

/// Runs one step and returns the next stage.
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
            // A horizon also closes old evidence that arrives later. Unreadable open records have no row that
            // protects them, so the stored horizon stays unchanged if the source has such records.
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

/// Begins a transaction under the tenant's exclusive lock. Fails if the tenant is disabled.
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

/// Applies a page of insignificant differences, of any patron. Returns `true` if more may remain.
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
    // If later events made a difference significant, the step of the patron applies that difference.
    let counts: Vec<_> =
        targets.differences().into_iter().filter(differences::Difference::is_significant).collect();
    differences::replace(tx, schema, context.id, &counts).await?;
    targets.loans.retain(|_, pair| pair.current.open_loan() == pair.target.open_loan());
    targets.fees.retain(|_, pair| pair.current.open_fee() == pair.target.open_fee());
    write_rows(tx, context, state, &mut targets).await?;
    Ok(true)
}

/// Applies all differences, counters and groups of a page of patrons. Returns `true` if more may remain.
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

/// Writes the changed rows. If the topics contain events that the inbox lacks, records a gap in the inbox up
/// to the newest of these events. Without the gap, the next rebuild from the inbox would drop these events.
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
            // All of these events were written before the read started, whatever time they bear.
            let until = lacking.at() + TimeDelta::milliseconds(1);
            inbox::record_removal(
                tx,
                schema,
                until.min(state.read_started_at + read::INBOX_LOOKBACK),
            )
            .await?;
        }
    }
    rows::replace(tx, schema, &changed_rows(&targets.loans)).await?;
    Ok(rows::replace(tx, schema, &changed_rows(&targets.fees)).await?)
}

/// Copies the horizon of a tenant snapshot to each row that the snapshot closes. The row stays closed even if
/// the tenant's horizon is not stored.
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

/// Loads the differences of `users` and, transitively, of every patron who owns or will own one of the rows.
/// Each step thus corrects all affected patrons at once.
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

/// Returns the patrons that fit into one step, at least one.
fn take_step_patrons(unapplied: Vec<(Uuid, i32)>) -> Vec<Uuid> {
    let mut subjects = 0;
    let fits = |(index, (_, differences)): &(usize, (Uuid, i32))| {
        subjects += differences;
        *index == 0 || subjects <= STEP_ROWS_MAX
    };
    unapplied.into_iter().enumerate().take_while(fits).map(|(_, (user, _))| user).collect()
}

/// Returns the stamps that target rows have and current rows lack, without the stamps of snapshots.
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
