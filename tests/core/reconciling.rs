//! The rule of a rebuild, on the pure core. The source's records apply, records outside its coverage
//! remain, and current records that a covering source lacks are removed.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use patron_blocks::{
    event::{Event, stamp::Horizon},
    patron::{Coverage, Fee, Loan},
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::{
    core::merging::fold_events,
    support::history::{event_history, noon},
};

type State = (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>);

/// Reconciles all loans and fees/fines. The fallback user has no stamp and has no effect once the loan
/// was opened, so it is left out.
fn reconciled(source: State, here: State, since: Option<Horizon>) -> State {
    let covered = Coverage { log: since, http: since };
    let (mut loans, mut fees) = State::default();
    for id in source.0.keys().chain(here.0.keys()) {
        let of = |known: &State| known.0.get(id).cloned().unwrap_or_default();
        let loan = Loan::reconcile(of(&source), of(&here), &covered);
        loans.insert(*id, Loan { fallback_user: None, ..loan });
    }
    for id in source.1.keys().chain(here.1.keys()) {
        let of = |known: &State| known.1.get(id).cloned().unwrap_or_default();
        fees.insert(*id, Fee::reconcile(of(&source), of(&here), &covered));
    }
    (loans, fees)
}

/// Returns the state after `events`, without fallback users.
fn expected_state(events: &[Event]) -> State {
    let (loans, fees) = fold_events(events);
    (loans.into_iter().map(|(id, loan)| (id, Loan { fallback_user: None, ..loan })).collect(), fees)
}

fn without_empty((mut loans, mut fees): State) -> State {
    loans.retain(|_, loan| *loan != Loan::default());
    fees.retain(|_, fee| *fee != Fee::default());
    (loans, fees)
}

proptest! {
    #[test]
    fn complete_source_replaces_the_current_state(
        (all, others) in (event_history(14), event_history(14)),
    ) {
        let state = reconciled(fold_events(&all), fold_events(&others), None);
        prop_assert_eq!(without_empty(state), expected_state(&all));
    }

    #[test]
    fn reconcile_retains_older_facts_and_drops_unconfirmed_ones(
        (all, others, days) in (event_history(14), event_history(14), -6..6_i64),
    ) {
        let since = Horizon::at(noon() + TimeDelta::hours(days * 8));
        let admitted = |events: &[Event]| {
            let new = events.iter().filter(|event| since.admits(&event.stamp));
            new.cloned().collect::<Vec<_>>()
        };
        // The current state contains all true events, and false events since the start of the coverage.
        let here = [all.clone(), admitted(&others)].concat();
        let state = reconciled(fold_events(&admitted(&all)), fold_events(&here), Some(since));
        // A register has one value, so a false newer value has erased the true older one permanently.
        let hidden = |id: &Uuid| admitted(&others).iter().any(|event| event.fact.subject() == Some(*id));
        let (mut found, mut expected) = (without_empty(state), expected_state(&all));
        for (loans, fees) in [&mut found, &mut expected] {
            loans.retain(|id, _| !hidden(id));
            fees.retain(|id, _| !hidden(id));
        }
        prop_assert_eq!(found, expected);
    }
}
