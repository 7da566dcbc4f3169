//! The laws of the merge (invariant I1), on the pure core.

use std::collections::BTreeMap;

use patron_blocks::{
    event::{Event, stamp::Horizon},
    patron::{Due, Fee, Loan},
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::history::{arrived, happened, noon};

/// What is known after `events`, by loan and by fee/fine.
pub(crate) fn known(events: &[Event]) -> (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>) {
    let (mut loans, mut fees) = (BTreeMap::<_, Loan>::new(), BTreeMap::<_, Fee>::new());
    for event in events {
        if let Some((id, said)) = Loan::said_by(event) {
            let known = loans.entry(id).or_default();
            *known = known.clone().merge(said);
        }
        if let Some((id, said)) = Fee::said_by(event) {
            let known = fees.entry(id).or_default();
            *known = known.clone().merge(said);
        }
    }
    (loans, fees)
}

/// As [`known`], with every check-out without a grace period told by an open snapshot instead: storage
/// modules know no grace. No event makes snapshots yet; the merge and the tables must know them.
pub(crate) fn known_by_snapshots(events: &[Event]) -> (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>) {
    let (mut loans, fees) = (BTreeMap::<_, Loan>::new(), known(events).1);
    for event in events {
        let Some((id, said)) = Loan::said_by(event) else { continue };
        let said = match said.check_out {
            Some((at, out)) if out.grace.is_none() => Loan {
                snapshot: Some((at, out.user)),
                due: Some((at, Due { date: out.due_date, by_recall: false })),
                lost: Some((at, false)),
                claimed_returned: Some((at, false)),
                ..Loan::default()
            },
            _ => said,
        };
        let known = loans.entry(id).or_default();
        *known = known.clone().merge(said);
    }
    (loans, fees)
}

/// What is known by whoever knows of both.
pub(crate) fn join<T: Clone + Default>(
    a: &BTreeMap<Uuid, T>,
    b: &BTreeMap<Uuid, T>,
    merge: impl Fn(T, T) -> T,
) -> BTreeMap<Uuid, T> {
    let mut joined = a.clone();
    for (id, said) in b {
        let known = joined.entry(*id).or_default();
        *known = merge(known.clone(), said.clone());
    }
    joined
}

proptest! {
    #[test]
    fn order_and_repetition_change_nothing((happened, arrived) in arrived(14)) {
        prop_assert_eq!(known(&happened), known(&arrived));
        prop_assert_eq!(known_by_snapshots(&happened), known_by_snapshots(&arrived));
    }

    #[test]
    fn a_history_may_be_cut_into_batches_anywhere(events in happened(14), cut in 0..14_usize) {
        let (before, after) = events.split_at(cut.min(events.len()));
        let ((loans_a, fees_a), (loans_b, fees_b)) = (known(before), known(after));
        let (loans, fees) = known(&events);
        prop_assert_eq!(join(&loans_a, &loans_b, Loan::merge), loans.clone());
        prop_assert_eq!(join(&loans_b, &loans_a, Loan::merge), loans);
        prop_assert_eq!(join(&fees_a, &fees_b, Fee::merge), fees.clone());
        prop_assert_eq!(join(&fees_b, &fees_a, Fee::merge), fees);
    }

    #[test]
    fn a_closed_loan_stays_closed_whatever_business_event_comes(
        (happened, arrived) in arrived(14),
    ) {
        let ids: Vec<Uuid> = known(&happened).0.iter()
            .filter(|(_, loan)| loan.closed.is_some()).map(|(id, _)| *id).collect();
        let (loans, _) = known(&arrived);
        for id in ids {
            prop_assert_eq!(loans[&id].open(None), None);
        }
    }

    #[test]
    fn only_an_open_snapshot_with_a_later_stamp_reopens_a_loan(events in happened(14)) {
        for loan in known_by_snapshots(&events).0.values() {
            let (Some(closed), true) = (loan.closed, loan.open(None).is_some()) else { continue };
            prop_assert!(loan.snapshot.is_some_and(|(said, _)| said > closed));
        }
    }

    #[test]
    fn a_loan_that_nothing_opened_counts_for_nobody(events in happened(14)) {
        for (id, loan) in known(&events).0 {
            prop_assert_eq!(loan.check_out.is_none() && loan.open(None).is_some(), false, "{}", id);
        }
    }

    #[test]
    fn evidence_older_than_the_horizon_opens_nothing(events in happened(14), days in 0..6_i64) {
        let horizon = noon() - chrono::TimeDelta::days(days);
        for loan in known(&events).0.values() {
            let newest = events.iter().filter(|e| loan.check_out.is_some_and(|(said, _)| said == e.stamp));
            let open = loan.open(Some(Horizon::at(horizon)));
            let admitted = newest.clone().any(|event| event.occurred_at >= horizon);
            prop_assert_eq!(open.is_some(), loan.open(None).is_some() && admitted);
        }
    }
}
