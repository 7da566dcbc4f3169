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
    history::{happened, noon},
    merging::known,
};

type Known = (BTreeMap<Uuid, Loan>, BTreeMap<Uuid, Fee>);

/// Reconciles all of it. Who was named beside a loan has no stamp and decides nothing once the loan was
/// opened; it is left out.
fn reconciled(source: Known, here: Known, since: Option<Horizon>) -> Known {
    let covered = Coverage { log: since, http: since };
    let (mut loans, mut fees) = Known::default();
    for id in source.0.keys().chain(here.0.keys()) {
        let of = |known: &Known| known.0.get(id).cloned().unwrap_or_default();
        let loan = Loan::reconciled(of(&source), of(&here), &covered);
        loans.insert(*id, Loan { named: None, ..loan });
    }
    for id in source.1.keys().chain(here.1.keys()) {
        let of = |known: &Known| known.1.get(id).cloned().unwrap_or_default();
        fees.insert(*id, Fee::reconciled(of(&source), of(&here), &covered));
    }
    (loans, fees)
}

/// As told by `events`, without what is left out above, and without what nothing is known of.
fn told(events: &[Event]) -> Known {
    let (loans, fees) = known(events);
    (loans.into_iter().map(|(id, loan)| (id, Loan { named: None, ..loan })).collect(), fees)
}

fn without_nothing((mut loans, mut fees): Known) -> Known {
    loans.retain(|_, loan| *loan != Loan::default());
    fees.retain(|_, fee| *fee != Fee::default());
    (loans, fees)
}

proptest! {
    #[test]
    fn a_source_that_holds_everything_stands_whatever_is_known_here(
        (all, others) in (happened(14), happened(14)),
    ) {
        let all_told = reconciled(known(&all), known(&others), None);
        prop_assert_eq!(without_nothing(all_told), told(&all));
    }

    #[test]
    fn what_is_older_than_the_source_is_kept_and_what_was_never_said_since_is_not(
        (all, others, days) in (happened(14), happened(14), -6..6_i64),
    ) {
        let since = Horizon::at(noon() + TimeDelta::hours(days * 8));
        let admitted = |events: &[Event]| {
            let new = events.iter().filter(|event| since.admits(&event.stamp));
            new.cloned().collect::<Vec<_>>()
        };
        // Known here is all that happened, and what didn't since then.
        let here = [all.clone(), admitted(&others)].concat();
        let all_told = reconciled(known(&admitted(&all)), known(&here), Some(since));
        // A register has one value: a bogus newer one has hidden the right older one for good.
        let hidden = |id: &Uuid| admitted(&others).iter().any(|event| event.fact.subject() == Some(*id));
        let (mut found, mut expected) = (without_nothing(all_told), told(&all));
        for (loans, fees) in [&mut found, &mut expected] {
            loans.retain(|id, _| !hidden(id));
            fees.retain(|id, _| !hidden(id));
        }
        prop_assert_eq!(found, expected);
    }
}
