//! The laws of the merge (invariant I1 of ARCHITECTURE.md), on the pure core.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use patron_blocks::{
    event::{Event, Fact, Grace, GraceUnit, Stamp, stamp::Horizon},
    patron::{Fee, Loan, OpenFee, OpenLoan, StateDelta},
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::support::history::{
    business_history, event_history, history_with_arrivals, noon, with_arrivals,
};

/// Returns the loans and the fees/fines after `events`.
pub(crate) fn fold_events(events: &[Event]) -> (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>) {
    let (mut loans, mut fees) = (BTreeMap::<_, Loan>::new(), BTreeMap::<_, Fee>::new());
    for event in events {
        if let Some((id, change)) = Loan::from_event(event) {
            let known = loans.entry(id).or_default();
            *known = known.clone().merge(change);
        }
        if let Some((id, change)) = Fee::from_event(event) {
            let known = fees.entry(id).or_default();
            *known = known.clone().merge(change);
        }
    }
    (loans, fees)
}

/// Merges two maps by key.
pub(crate) fn merge_maps<T: Clone + Default>(
    a: &BTreeMap<Uuid, T>,
    b: &BTreeMap<Uuid, T>,
    merge: impl Fn(T, T) -> T,
) -> BTreeMap<Uuid, T> {
    let mut joined = a.clone();
    for (id, change) in b {
        let known = joined.entry(*id).or_default();
        *known = merge(known.clone(), change.clone());
    }
    joined
}

/// A snapshot of the Java module (docs/decisions/0016) has two times: of the check-out's arrival, and of
/// the last write.
#[test]
fn snapshot_reopens_only_loans_closed_before_it() {
    let user = Uuid::from_u128(7);
    let at = |hour| Stamp::from_snapshot(noon() + TimeDelta::hours(hour), user);
    let (opened, last) = (at(0), at(2));
    let grace = Some(Grace { duration: 2, unit: GraceUnit::Days });
    let (lost, claimed_returned) = (true, false);
    let due =
        OpenLoan { user, due_date: Some(noon()), grace, recall: true, lost, claimed_returned };
    let claimed = OpenLoan { recall: false, lost: false, claimed_returned: true, ..due };
    let dueless = OpenLoan { due_date: None, grace: None, ..claimed };
    for open in [due, claimed, dueless] {
        let snapshot = Loan::from_snapshot(&open, opened, last);
        assert_eq!((snapshot.as_open(None), snapshot.newest_stamp()), (Some(open), Some(last)));
        let closed = |hour| Loan { closed: Some(at(hour)), ..Loan::default() };
        assert_eq!(snapshot.clone().merge(closed(-1)).as_open(None), Some(open));
        for hour in [0, 1] {
            assert_eq!(snapshot.clone().merge(closed(hour)).as_open(None), None);
        }
    }
    let link = Some(Uuid::from_u128(8));
    for (loan, fee_fine_type) in [(link, None), (None, link)] {
        let owed = OpenFee { user, balance: 12.into(), loan, fee_fine_type };
        let snapshot = Fee::from_snapshot(&owed, last);
        assert_eq!((snapshot.as_open(None), snapshot.newest_stamp()), (Some(owed), Some(last)));
    }
}

proptest! {
    #[test]
    fn order_and_repetition_change_nothing((ordered, arrived) in history_with_arrivals(14)) {
        prop_assert_eq!(fold_events(&ordered), fold_events(&arrived));
        prop_assert_eq!(StateDelta::from_events(&ordered), StateDelta::from_events(&arrived));
    }

    #[test]
    fn history_may_be_split_into_batches_anywhere(events in event_history(14), cut in 0..14_usize) {
        let (before, after) = events.split_at(cut.min(events.len()));
        let ((loans_a, fees_a), (loans_b, fees_b)) = (fold_events(before), fold_events(after));
        let (loans, fees) = fold_events(&events);
        prop_assert_eq!(merge_maps(&loans_a, &loans_b, Loan::merge), loans.clone());
        prop_assert_eq!(merge_maps(&loans_b, &loans_a, Loan::merge), loans);
        prop_assert_eq!(merge_maps(&fees_a, &fees_b, Fee::merge), fees.clone());
        prop_assert_eq!(merge_maps(&fees_b, &fees_a, Fee::merge), fees);
        let (before, after, all) = (StateDelta::from_events(before), StateDelta::from_events(after), StateDelta::from_events(&events));
        prop_assert_eq!(before.clone().merge(after.clone()), all.clone());
        prop_assert_eq!(after.merge(before), all.clone());
        prop_assert_eq!(all.clone().merge(all.clone()), all);
    }

    #[test]
    fn latest_patron_group_wins(events in event_history(14)) {
        let groups = StateDelta::from_events(&events).groups;
        let newest = |user: &Uuid| {
            let of_user = events.iter().filter_map(|event| match &event.fact {
                Fact::PatronGroupChanged { user: of, group } if of == user => Some((event.stamp, group.clone())),
                _ => None,
            });
            of_user.max_by_key(|(stamp, _)| *stamp)
        };
        for (user, register) in &groups {
            prop_assert_eq!(register, &newest(user));
        }
        let patrons = events.iter().filter(|e| matches!(e.fact, Fact::PatronGroupChanged { .. }));
        prop_assert!(patrons.filter_map(|event| event.fact.subject()).all(|user| groups.contains_key(&user)));
    }

    #[test]
    fn closed_loan_stays_closed_after_business_events(
        (ordered, arrived) in business_history(14).prop_flat_map(with_arrivals),
    ) {
        let ids: Vec<Uuid> = fold_events(&ordered).0.iter()
            .filter(|(_, loan)| loan.closed.is_some()).map(|(id, _)| *id).collect();
        let (loans, _) = fold_events(&arrived);
        for id in ids {
            prop_assert_eq!(loans[&id].as_open(None), None);
        }
    }

    #[test]
    fn only_a_later_open_snapshot_reopens_a_loan(events in event_history(14)) {
        for loan in fold_events(&events).0.values() {
            let (Some(closed), true) = (loan.closed, loan.as_open(None).is_some()) else { continue };
            prop_assert!(loan.snapshot.is_some_and(|(stamp, _)| stamp > closed));
        }
    }

    #[test]
    fn loan_without_opening_fact_counts_for_no_patron(events in event_history(14)) {
        for (id, loan) in fold_events(&events).0 {
            let nothing = loan.check_out.is_none() && loan.snapshot.is_none();
            prop_assert!(!(nothing && loan.as_open(None).is_some()), "{}", id);
        }
    }

    #[test]
    fn evidence_before_horizon_opens_nothing(events in event_history(14), days in 0..6_i64) {
        let horizon = noon() - TimeDelta::days(days);
        for loan in fold_events(&events).0.values() {
            let opened = [loan.check_out.map(|(stamp, _)| stamp), loan.snapshot.map(|(stamp, _)| stamp)];
            let open = loan.as_open(Some(Horizon::at(horizon)));
            let opened = opened.into_iter().flatten();
            let admitted = opened.map(|stamp| stamp.at()).any(|at| at >= horizon);
            prop_assert_eq!(open.is_some(), loan.as_open(None).is_some() && admitted);
        }
    }

    #[test]
    fn pruning_removes_only_closed_records_with_old_facts(
        events in event_history(14), ms in 0..13_i64,
    ) {
        let before = noon() - TimeDelta::days(3) + TimeDelta::milliseconds(ms);
        let (cutoff, all) = (Horizon::at(before), Some(Horizon::at(noon())));
        let about = |id| events.iter().filter(move |event| event.fact.subject() == Some(id));
        let newest = |id| about(id).map(|event| event.stamp).max();
        let is_old = |id| about(id).all(|event| event.occurred_at < before);
        let (loans, fees) = fold_events(&events);
        for (id, loan) in loans {
            prop_assert_eq!(loan.newest_stamp(), newest(id));
            prop_assert_eq!(loan.is_prunable(None, cutoff), is_old(id) && loan.as_open(None).is_none());
            prop_assert_eq!(loan.is_prunable(all, cutoff), is_old(id));
        }
        for (id, fee) in fees {
            prop_assert_eq!(fee.newest_stamp(), newest(id));
            prop_assert_eq!(fee.is_prunable(None, cutoff), is_old(id) && fee.as_open(None).is_none());
            prop_assert_eq!(fee.is_prunable(all, cutoff), is_old(id));
        }
    }
}
