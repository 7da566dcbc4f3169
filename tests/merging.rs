//! The laws of the merge (invariant I1), on the pure core.

use std::collections::BTreeMap;

use patron_blocks::{
    event::{Event, Fact, stamp::Horizon},
    patron::{Fee, Loan, Said},
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::history::{arrived, arriving, at_desks, happened, noon};

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
        prop_assert_eq!(Said::by(&happened), Said::by(&arrived));
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
        let (before, after, all) = (Said::by(before), Said::by(after), Said::by(&events));
        prop_assert_eq!(before.clone().merge(after.clone()), all.clone());
        prop_assert_eq!(after.merge(before), all.clone());
        prop_assert_eq!(all.clone().merge(all.clone()), all);
    }

    #[test]
    fn a_patron_belongs_to_the_group_that_was_told_last(events in happened(14)) {
        let told = Said::by(&events).groups;
        let newest = |user: &Uuid| {
            let of_user = events.iter().filter_map(|event| match &event.fact {
                Fact::GroupTold { user: of, group } if of == user => Some((event.stamp, group.clone())),
                _ => None,
            });
            of_user.max_by_key(|(stamp, _)| *stamp)
        };
        for (user, register) in &told {
            prop_assert_eq!(register, &newest(user));
        }
        let patrons = events.iter().filter(|e| matches!(e.fact, Fact::GroupTold { .. }));
        prop_assert!(patrons.map(|event| event.fact.subject()).all(|user| told.contains_key(&user)));
    }

    #[test]
    fn a_closed_loan_stays_closed_whatever_business_event_comes(
        (happened, arrived) in at_desks(14).prop_flat_map(arriving),
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
        for loan in known(&events).0.values() {
            let (Some(closed), true) = (loan.closed, loan.open(None).is_some()) else { continue };
            prop_assert!(loan.snapshot.is_some_and(|(said, _)| said > closed));
        }
    }

    #[test]
    fn a_loan_that_nothing_opened_counts_for_nobody(events in happened(14)) {
        for (id, loan) in known(&events).0 {
            let nothing = loan.check_out.is_none() && loan.snapshot.is_none();
            prop_assert!(!(nothing && loan.open(None).is_some()), "{}", id);
        }
    }

    #[test]
    fn evidence_older_than_the_horizon_opens_nothing(events in happened(14), days in 0..6_i64) {
        let horizon = noon() - chrono::TimeDelta::days(days);
        for loan in known(&events).0.values() {
            let opened = [loan.check_out.map(|(said, _)| said), loan.snapshot.map(|(said, _)| said)];
            let open = loan.open(Some(Horizon::at(horizon)));
            let opened = opened.into_iter().flatten();
            let admitted = opened.map(|said| said.at()).any(|at| at >= horizon);
            prop_assert_eq!(open.is_some(), loan.open(None).is_some() && admitted);
        }
    }
}
