//! The target state: the rows that the stored rows become, from the shadow and from later events.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    context::RebuildContext,
    diff::{self, Pair},
    error::RebuildError,
    read::{self, plan::complete_from},
    request::Source,
};
use crate::{
    clock,
    event::{Event, Stamp},
    patron::{Fee, Loan},
    services::storage_page::CLOCK_SKEW_MAX,
    store::{
        Schema, Tx,
        ingest::inbox_tail::{self, Tail},
        rebuild::{differences::Difference, shadow},
        state::rows::{self, SnapshotHorizon, SubjectRow, SubjectRows},
    },
};

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
    let (loans, fees): (Vec<_>, Vec<_>) = subjects.iter().partition(|(_, is_loan)| *is_loan);
    let ids = |subjects: Vec<&(Uuid, bool)>| subjects.into_iter().map(|(id, _)| *id).collect();
    (ids(loans), ids(fees))
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
        let mut source_loans = rows::load(tx, &context.shadow, loans).await?;
        let mut source_fees = rows::load(tx, &context.shadow, fees).await?;
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
        let mut live_loans = rows::load(tx, schema, loans).await?;
        let mut live_fees = rows::load(tx, schema, fees).await?;
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
            let snapshot_at = state.read_started_at - CLOCK_SKEW_MAX;
            let stamp = Stamp::from_snapshot(snapshot_at, context.id);
            retain_unread(&unread, stamp, &mut loans, &mut fees);
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
        let loans = self.loans.iter().filter_map(|(id, pair)| diff::loan_difference(*id, pair));
        let fees = self.fees.iter().filter_map(|(id, pair)| diff::fee_difference(*id, pair));
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

/// Pairs each current row with its target row; the caller adds the snapshot horizon. The target row gets the
/// lower prune horizon of the two rows. Housekeeping never deletes open rows, so a newer prune horizon must
/// not close an old open row.
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
            (Some(row), None) | (None, Some(row)) => row.prune_horizon,
            (None, None) => None,
        };
        let current = current.unwrap_or_default();
        let state = reconciled(source_row.unwrap_or_default().state, current.state.clone());
        pairs.insert(
            *id,
            Pair { current, target: SubjectRow { state, prune_horizon: pruned, horizon: None } },
        );
    }
    pairs
}
