//! Comparison of a source with the stored state: differing rows, wrong counters, and the blocks that change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Instant,
};

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    context::{RebuildContext, RebuildError},
    plan::complete_from,
    read, report,
    request::Source,
    storage_modules,
};
use crate::{
    blocks::{self, Measures},
    clock,
    event::{Event, Stamp},
    patron::{Fee, Loan, OpenFee, OpenLoan},
    services::policy::Policy,
    store::{
        Schema, Tx,
        differences::{self, Difference},
        inbox_tail::{self, Tail},
        patrons,
        rows::{self, SnapshotHorizon, SubjectRow, SubjectRows},
        shadow,
    },
};

/// Loans and fees/fines per page.
const CANDIDATE_PAGE_ROWS: i64 = 500;

/// Patrons per page.
const PATRON_PAGE_ROWS: i64 = 200;

/// Records the differing rows, the wrong counters and the changed blocks.
pub(super) async fn compare(context: &RebuildContext) -> Result<(), RebuildError> {
    let schema = &context.tenant.schema;
    let mut tx = context.begin().await?;
    let state = load_complete_shadow(&mut tx, context).await?;
    differences::delete(&mut tx, schema, context.id).await?;
    let includes_closed = context.request.source != Source::Storage;
    let candidate_count =
        shadow::find_candidates(&mut tx, &context.shadow, context.request.scope, includes_closed)
            .await?;
    shadow::count_changed_groups(&mut tx, &context.shadow).await?;
    context.commit(tx).await?;
    context.progress.start_stage("comparing", u64::try_from(candidate_count).unwrap_or_default());
    let mut after = Uuid::nil();
    loop {
        let began = Instant::now();
        let mut tx = context.begin().await?;
        // A crash of the database empties the candidates; the reloaded state reveals the crash.
        load_complete_shadow(&mut tx, context).await?;
        let candidates =
            shadow::candidates_page(&mut tx, &context.shadow, after, CANDIDATE_PAGE_ROWS).await?;
        let Some((last, _)) = candidates.last() else { break };
        after = *last;
        let (loans, fees) = split_loans_and_fees(&candidates);
        let targets = TargetState::load(&mut tx, context, &state, &loans, &fees).await?;
        differences::insert(&mut tx, schema, context.id, &targets.differences()).await?;
        context.commit(tx).await?;
        context.progress.add(candidates.len() as u64);
        context.throttle.rest_after(began).await;
    }
    compare_counters(context).await?;
    compare_blocks(context).await
}

/// Loads the state of the shadow. Returns `ShadowLost` if the shadow does not contain the complete source.
pub(super) async fn load_complete_shadow(
    tx: &mut Tx,
    context: &RebuildContext,
) -> Result<shadow::ShadowState, RebuildError> {
    let state = shadow::load_state(tx, &context.shadow).await?;
    let mut state = state.filter(|state| state.is_complete).ok_or(RebuildError::ShadowLost)?;
    // With these requests, `reconcile` drops no register of a current row: the coverage is `Coverage::NONE`.
    if context.request.source == Source::Storage || context.request.fill {
        return Ok(state);
    }
    // The inbox contains every event since the read started, unless some events were removed.
    let (extent, began) =
        (context.inbox_extent(tx).await?, state.read_started_at + read::INBOX_LOOKBACK);
    if let Some(gone) = extent.removed_until
        && gone > began
    {
        return Err(RebuildError::Fatal(format!(
            "the rebuild read the source at {}, and the inbox lacks some later events, up to {}; request a \
             new rebuild",
            clock::format_instant(began),
            clock::format_instant(gone),
        )));
    }
    if context.request.source == Source::Topics {
        // Events that arrived over HTTP are in the inbox only.
        state.coverage.http = state.coverage.http.max(Some(complete_from(extent.complete_since())));
    }
    Ok(state)
}

/// Splits subjects into the ids of loans and the ids of fees/fines.
pub(super) fn split_loans_and_fees(subjects: &[(Uuid, bool)]) -> (Vec<Uuid>, Vec<Uuid>) {
    let of = |wanted| {
        subjects.iter().filter(move |(_, is_loan)| *is_loan == wanted).map(|(id, _)| *id).collect()
    };
    (of(true), of(false))
}

async fn compare_counters(context: &RebuildContext) -> Result<(), RebuildError> {
    let mut users = patrons::list_drifted(context.db(), &context.tenant.schema).await?;
    users.retain(|user| context.request.scope.includes(*user));
    if users.is_empty() {
        return Ok(());
    }
    let none = vec![0; users.len()];
    let mut tx = context.begin().await?;
    differences::insert_patrons(
        &mut tx,
        &context.tenant.schema,
        context.id,
        &users,
        (&none, &none),
        true,
    )
    .await?;
    context.commit(tx).await
}

/// Records the blocking conditions before and after the rebuild, for each patron with a difference.
async fn compare_blocks(context: &RebuildContext) -> Result<(), RebuildError> {
    let mut tx = context.begin().await?;
    let policy = Policy::load(&mut tx, &context.tenant.schema).await?;
    drop(tx);
    let (no_items, mut offset) = (OpenItems::default(), 0);
    loop {
        let began = Instant::now();
        let mut tx = context.begin().await?;
        let schema = &context.tenant.schema;
        load_complete_shadow(&mut tx, context).await?;
        let page =
            differences::list_patrons(&mut *tx, schema, context.id, PATRON_PAGE_ROWS, offset)
                .await?;
        if page.is_empty() {
            return Ok(());
        }
        let users: Vec<Uuid> = page.iter().map(|patron| patron.user_id).collect();
        let now = context.clock.now();
        let groups: HashMap<Uuid, String> = patrons::load_groups(&mut tx, schema, &users).await?;
        let (before, after) = load_open_items(&mut tx, context, &users).await?;
        let evaluate_patron = |user: Uuid| {
            let group = groups.get(&user).map(|group| &**group);
            let current =
                before.get(&user).unwrap_or(&no_items).to_block_summary(&policy, group, now);
            let target =
                after.get(&user).unwrap_or(&no_items).to_block_summary(&policy, group, now);
            (user, current, target)
        };
        let block_summaries: Vec<_> = users.into_iter().map(evaluate_patron).collect();
        differences::set_block_summaries(&mut tx, schema, context.id, &block_summaries).await?;
        context.commit(tx).await?;
        offset += PATRON_PAGE_ROWS;
        context.throttle.rest_after(began).await;
    }
}

/// The open loans and fees/fines of one patron.
#[derive(Default)]
struct OpenItems {
    loans: BTreeMap<Uuid, OpenLoan>,
    fees: BTreeMap<Uuid, OpenFee>,
}

impl OpenItems {
    /// Returns the open loans and the blocks for the report. If the patron group is unknown, the blocks are
    /// unknown: only the API requests groups from mod-users.
    fn to_block_summary(
        &self,
        policy: &Policy,
        group: Option<&str>,
        now: DateTime<Utc>,
    ) -> differences::BlockSummary {
        let blocked = group.map(|group| self.blocking_conditions(policy, group, now));
        differences::BlockSummary { open_loans: self.loans.len(), blocked }
    }

    /// Returns the conditions that block at least one action.
    fn blocking_conditions(&self, policy: &Policy, group: &str, now: DateTime<Utc>) -> Vec<String> {
        let loans = self.loans.iter().map(|(id, loan)| (*id, loan));
        let measures = Measures::compute(loans, self.fees.values(), now);
        let limits = policy.limits_of(group);
        let findings = blocks::evaluate(&measures, limits, &policy.conditions);
        let blocking = findings.iter().filter(|finding| !finding.blocked.is_empty());
        let names: BTreeSet<String> =
            blocking.map(|finding| finding.condition.id.to_string()).collect();
        names.into_iter().collect()
    }
}

type OpenItemsByPatron = BTreeMap<Uuid, OpenItems>;

/// Loads the open items of `users`: the current items first, then the target items.
async fn load_open_items(
    tx: &mut Tx,
    context: &RebuildContext,
    users: &[Uuid],
) -> Result<(OpenItemsByPatron, OpenItemsByPatron), RebuildError> {
    let schema = &context.tenant.schema;
    let state = load_complete_shadow(tx, context).await?;
    let mut subjects = rows::open_subjects(tx, schema, users).await?;
    let differing = differences::list_significant(tx, schema, context.id, users).await?;
    subjects.extend(differing.iter());
    subjects.sort();
    subjects.dedup();
    let differing_ids: BTreeSet<Uuid> = differing.iter().map(|(subject, _)| *subject).collect();
    let (loans, fees) = split_loans_and_fees(&subjects);
    let targets = TargetState::load(tx, context, &state, &loans, &fees).await?;
    let (mut before, mut after) = (OpenItemsByPatron::new(), OpenItemsByPatron::new());
    for (id, pair) in &targets.loans {
        let current_loan = pair.current.open_loan();
        // A row without a significant difference counts the same before and after the rebuild.
        let target_loan =
            if differing_ids.contains(id) { pair.target.open_loan() } else { current_loan };
        for (open, standings) in [(current_loan, &mut before), (target_loan, &mut after)] {
            if let Some(open) = open {
                standings.entry(open.user).or_default().loans.insert(*id, open);
            }
        }
    }
    for (id, pair) in &targets.fees {
        let current_fee = pair.current.open_fee();
        let target_fee =
            if differing_ids.contains(id) { pair.target.open_fee() } else { current_fee };
        for (open, standings) in [(current_fee, &mut before), (target_fee, &mut after)] {
            if let Some(open) = open {
                standings.entry(open.user).or_default().fees.insert(*id, open);
            }
        }
    }
    Ok((before, after))
}

/// A current row and its target row.
pub(super) struct Pair<T> {
    pub(super) current: SubjectRow<T>,
    pub(super) target: SubjectRow<T>,
}

/// Pairs of current and target rows, by the id of the loan or fee/fine.
pub(super) struct TargetState {
    pub(super) loans: BTreeMap<Uuid, Pair<Loan>>,
    pub(super) fees: BTreeMap<Uuid, Pair<Fee>>,
}

impl TargetState {
    /// Computes the pairs from the stored rows, the shadow rows and the inbox events since the read. For
    /// source inbox, all inbox events count.
    pub(super) async fn load(
        tx: &mut Tx,
        context: &RebuildContext,
        state: &shadow::ShadowState,
        loans: &[Uuid],
        fees: &[Uuid],
    ) -> Result<Self, RebuildError> {
        let schema: &Schema = &context.tenant.schema;
        let mut source_loans = rows::load_loans(tx, &context.shadow, loans).await?;
        let mut source_fees = rows::load_fees(tx, &context.shadow, fees).await?;
        let all: Vec<Uuid> = loans.iter().chain(fees).copied().collect();
        let tail = match context.request.source {
            Source::Inbox => Tail::All,
            Source::Topics | Source::Storage => Tail::Since(state.read_started_at),
        };
        for stored in inbox_tail::events(tx, &context.shadow, &all, tail).await? {
            if let Some(event) = read::decode_inbox_event(&stored)? {
                merge_event(&mut source_loans, Loan::from_event, &event, Loan::merge);
                merge_event(&mut source_fees, Fee::from_event, &event, Fee::merge);
            }
        }
        let mut live_loans = rows::load_loans(tx, schema, loans).await?;
        let mut live_fees = rows::load_fees(tx, schema, fees).await?;
        let covered = &state.coverage;
        let mut loans =
            reconcile_rows(loans, &mut source_loans, &mut live_loans, |source, current| {
                Loan::reconcile(source, current, covered)
            });
        let mut fees = reconcile_rows(fees, &mut source_fees, &mut live_fees, |source, current| {
            Fee::reconcile(source, current, covered)
        });
        if context.request.source == Source::Storage {
            let unread = shadow::unreadable_among(tx, &context.shadow, &all).await?;
            let at = state.read_started_at - storage_modules::CLOCK_SKEW_MAX;
            retain_unread(&unread, Stamp::from_snapshot(at, context.id), &mut loans, &mut fees);
        }
        let owner = |loan: &Loan| loan.opening().map(|(_, user)| user);
        let debtor = |fee: &Fee| fee.user.map(|(_, user)| user);
        let mut users: Vec<Uuid> = Vec::new();
        users.extend(loans.values().filter_map(|pair| owner(&pair.target.state)));
        users.extend(fees.values().filter_map(|pair| debtor(&pair.target.state)));
        let mut horizons = SnapshotHorizon::default();
        for schema in [schema, &*context.shadow] {
            rows::load_snapshot_horizon(tx, schema, &users, &mut horizons).await?;
        }
        for row in loans.values_mut().map(|pair| &mut pair.target) {
            row.horizon = row.prune_horizon.max(horizons.for_loan(owner(&row.state)));
        }
        for row in fees.values_mut().map(|pair| &mut pair.target) {
            row.horizon = row.prune_horizon.max(horizons.for_fee(debtor(&row.state)));
        }
        Ok(Self { loans, fees })
    }

    /// Returns the differences of all unequal pairs.
    pub(super) fn differences(&self) -> Vec<Difference> {
        let loans = self.loans.iter().filter_map(|(id, pair)| report::loan_difference(*id, pair));
        let fees = self.fees.iter().filter_map(|(id, pair)| report::fee_difference(*id, pair));
        loans.chain(fees).collect()
    }
}

/// Preserves the open state of records that a storage module returned in an unreadable form.
fn retain_unread(
    unread: &[Uuid],
    stamp: Stamp,
    loans: &mut BTreeMap<Uuid, Pair<Loan>>,
    fees: &mut BTreeMap<Uuid, Pair<Fee>>,
) {
    for id in unread {
        if let Some(pair) = loans.get_mut(id)
            && let Some(open) = pair.current.open_loan()
            && pair.target.state.opening().is_none_or(|(known_stamp, _)| known_stamp < stamp)
        {
            pair.target.state.snapshot = Some((stamp, open.user));
        }
        if let Some(pair) = fees.get_mut(id)
            && let Some((known_stamp, balance)) = pair.current.state.balance
            && pair.current.open_fee().is_some()
            && known_stamp < stamp
        {
            pair.target.state.balance = Some((stamp, balance));
        }
    }
}

fn merge_event<T: Default>(
    rows: &mut SubjectRows<T>,
    from_event: fn(&Event) -> Option<(Uuid, T)>,
    event: &Event,
    merge: fn(T, T) -> T,
) {
    if let Some((id, state)) = from_event(event) {
        let row = rows.entry(id).or_default();
        row.state = merge(std::mem::take(&mut row.state), state);
    }
}

/// Pairs each current row with its target row; the caller adds the snapshot horizon. A target row gets the
/// earlier prune horizon of the two rows, because an old open loan is never pruned.
fn reconcile_rows<T: Default + Clone + PartialEq>(
    ids: &[Uuid],
    source: &mut SubjectRows<T>,
    live: &mut SubjectRows<T>,
    reconciled: impl Fn(T, T) -> T,
) -> BTreeMap<Uuid, Pair<T>> {
    let mut pairs = BTreeMap::new();
    for id in ids {
        let (current, source_row) = (live.remove(id), source.remove(id));
        let pruned = match (&current, &source_row) {
            (Some(current), Some(source_row)) => {
                current.prune_horizon.min(source_row.prune_horizon)
            }
            (Some(one), None) | (None, Some(one)) => one.prune_horizon,
            (None, None) => None,
        };
        let current = current.unwrap_or_default();
        let known = reconciled(source_row.unwrap_or_default().state, current.state.clone());
        pairs.insert(
            *id,
            Pair {
                current,
                target: SubjectRow { state: known, prune_horizon: pruned, horizon: None },
            },
        );
    }
    pairs
}

impl SubjectRow<Loan> {
    /// Returns the loan if it is open under the row's horizon.
    pub(super) fn open_loan(&self) -> Option<OpenLoan> {
        self.state.as_open(self.horizon)
    }
}

impl SubjectRow<Fee> {
    /// Returns the fee/fine if it is open under the row's horizon.
    pub(super) fn open_fee(&self) -> Option<OpenFee> {
        self.state.as_open(self.horizon)
    }
}
