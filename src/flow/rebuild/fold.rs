//! What events say, folded in memory to one entry a loan and a fee/fine, as far as the budget allows.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    event::{Event, Fact},
    patron::{Fee, Loan},
};

/// What an entry takes, with its share of the tree.
const OF_LOAN: usize = size_of::<(Uuid, Loan)>() * 3 / 2;
const OF_FEE: usize = size_of::<(Uuid, Fee)>() * 3 / 2;

/// Folded events.
#[derive(Default)]
pub(super) struct Fold {
    pub(super) loans: BTreeMap<Uuid, Loan>,
    pub(super) fees: BTreeMap<Uuid, Fee>,
    /// Events that were folded.
    pub(super) events: u64,
}

impl Fold {
    /// Adds what an event says.
    pub(super) fn add(&mut self, event: &Event) {
        self.events += 1;
        if matches!(event.fact, Fact::BalanceChanged { .. }) {
            if let Some((id, said)) = Fee::said_by(event) {
                let known = self.fees.entry(id).or_default();
                *known = std::mem::take(known).merge(said);
            }
        } else if let Some((id, said)) = Loan::said_by(event) {
            let known = self.loans.entry(id).or_default();
            *known = std::mem::take(known).merge(said);
        }
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        self.loans.len() * OF_LOAN + self.fees.len() * OF_FEE
    }

    /// The first entries of it, for one statement.
    pub(super) fn split(&mut self, most: usize) -> Option<Self> {
        if self.loans.is_empty() && self.fees.is_empty() {
            return None;
        }
        let loans = first(&mut self.loans, most);
        let fees = first(&mut self.fees, most - loans.len());
        Some(Self { loans, fees, events: 0 })
    }
}

fn first<T>(of: &mut BTreeMap<Uuid, T>, most: usize) -> BTreeMap<Uuid, T> {
    let Some((next, _)) = of.iter().nth(most).map(|(id, _)| (*id, ())) else {
        return std::mem::take(of);
    };
    let rest = of.split_off(&next);
    std::mem::replace(of, rest)
}
