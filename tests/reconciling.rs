//! The rule of a rebuild, on the pure core: what a source says stands, what it can't know is kept, and what
//! it would have to know and doesn't was never said.

use std::collections::BTreeMap;

use chrono::TimeDelta;
use patron_blocks::{
    event::{Event, stamp::Horizon},
    patron::{Coverage, Fee, Loan},
};
use proptest::prelude::*;
use uuid::Uuid;

use crate::{
    history::{event_history, noon},
    merging::fold_events,
};

type State = (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>);

/// Reconciles all of it. Who was named beside a loan has no stamp and decides nothing once the loan was
/// opened; it is left out.
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

/// As told by `events`, without what is left out above, and without what nothing is known of.
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
    fn reconcile_keeps_older_facts_and_drops_unconfirmed_ones(
        (all, others, days) in (event_history(14), event_history(14), -6..6_i64),
    ) {
        let since = Horizon::at(noon() + TimeDelta::hours(days * 8));
        let admitted = |events: &[Event]| {
            let new = events.iter().filter(|event| since.admits(&event.stamp));
            new.cloned().collect::<Vec<_>>()
        };
        // Known here is all that happened, and what didn't since then.
        let here = [all.clone(), admitted(&others)].concat();
        let state = reconciled(fold_events(&admitted(&all)), fold_events(&here), Some(since));
        // A register has one value: a bogus newer one has hidden the right older one for good.
        let hidden = |id: &Uuid| admitted(&others).iter().any(|event| event.fact.subject() == Some(*id));
        let (mut found, mut expected) = (without_empty(state), expected_state(&all));
        for (loans, fees) in [&mut found, &mut expected] {
            loans.retain(|id, _| !hidden(id));
            fees.retain(|id, _| !hidden(id));
        }
        prop_assert_eq!(found, expected);
    }
}
