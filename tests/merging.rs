//! The laws of the merge (invariant I1), on the pure core.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use patron_blocks::{
    event::{Event, Fact, Stamp, stamp::Horizon},
    patron::{Fee, Grace, GraceUnit, Loan, OpenFee, OpenLoan, Said},
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

/// What is taken over from the module before (docs/decisions/0016): when that heard of the check-out, and
/// when it last wrote.
#[test]
fn what_was_held_before_us_is_open_as_it_was_held_unless_it_was_closed_since_it_was_opened() {
    let user = Uuid::from_u128(7);
    let at = |hour| Stamp::snapshot(noon() + TimeDelta::hours(hour), user);
    let (opened, last) = (at(0), at(2));
    let grace = Some(Grace { duration: 2, unit: GraceUnit::Days });
    let (lost, claimed_returned) = (true, false);
    let due =
        OpenLoan { user, due_date: Some(noon()), grace, recall: true, lost, claimed_returned };
    let claimed = OpenLoan { recall: false, lost: false, claimed_returned: true, ..due };
    let dueless = OpenLoan { due_date: None, grace: None, ..claimed };
    for open in [due, claimed, dueless] {
        let held = Loan::held(&open, opened, last);
        assert_eq!((held.open(None), held.newest()), (Some(open), Some(last)));
        let closed = |hour| Loan { closed: Some(at(hour)), ..Loan::default() };
        assert_eq!(held.clone().merge(closed(-1)).open(None), Some(open));
        for hour in [0, 1] {
            assert_eq!(held.clone().merge(closed(hour)).open(None), None);
        }
    }
    let link = Some(Uuid::from_u128(8));
    for (loan, fee_fine_type) in [(link, None), (None, link)] {
        let owed = OpenFee { user, balance: 12.into(), loan, fee_fine_type };
        let held = Fee::held(&owed, last);
        assert_eq!((held.open(None), held.newest()), (Some(owed), Some(last)));
    }
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
        prop_assert!(patrons.filter_map(|event| event.fact.subject()).all(|user| told.contains_key(&user)));
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
        let horizon = noon() - TimeDelta::days(days);
        for loan in known(&events).0.values() {
            let opened = [loan.check_out.map(|(said, _)| said), loan.snapshot.map(|(said, _)| said)];
            let open = loan.open(Some(Horizon::at(horizon)));
            let opened = opened.into_iter().flatten();
            let admitted = opened.map(|said| said.at()).any(|at| at >= horizon);
            prop_assert_eq!(open.is_some(), loan.open(None).is_some() && admitted);
        }
    }

    #[test]
    fn pruning_may_forget_what_is_not_open_once_all_that_was_said_of_it_is_old(
        events in happened(14), ms in 0..13_i64,
    ) {
        let before = noon() - TimeDelta::days(3) + TimeDelta::milliseconds(ms);
        let (kept, all) = (Horizon::at(before), Some(Horizon::at(noon())));
        let about = |id| events.iter().filter(move |event| event.fact.subject() == Some(id));
        let newest = |id| about(id).map(|event| event.stamp).max();
        let is_old = |id| about(id).all(|event| event.occurred_at < before);
        let (loans, fees) = known(&events);
        for (id, loan) in loans {
            prop_assert_eq!(loan.newest(), newest(id));
            prop_assert_eq!(loan.is_past(None, kept), is_old(id) && loan.open(None).is_none());
            prop_assert_eq!(loan.is_past(all, kept), is_old(id));
        }
        for (id, fee) in fees {
            prop_assert_eq!(fee.newest(), newest(id));
            prop_assert_eq!(fee.is_past(None, kept), is_old(id) && fee.open(None).is_none());
            prop_assert_eq!(fee.is_past(all, kept), is_old(id));
        }
    }
}
