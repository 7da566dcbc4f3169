//! Folds many events to one entry per loan, fee/fine and patron.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Fee, Loan, Register, latest};
use crate::event::{Event, Fact, Stamp, stamp::Horizon};

/// The changes of a set of events, folded. Merging is associative, so one delta has the same effect as its
/// events one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateDelta {
    /// Changes of loans, by loan id.
    pub loans: BTreeMap<Uuid, Loan>,
    /// Changes of fees/fines, by fee/fine id.
    pub fees: BTreeMap<Uuid, Fee>,
    /// Patron groups, by patron id.
    pub groups: BTreeMap<Uuid, Register<Option<String>>>,
    /// Horizon of a deletion of all loans: every loan that was opened earlier is closed.
    pub loans_deleted_before: Option<Horizon>,
}

impl StateDelta {
    /// Folds these events.
    pub fn from_events<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut delta = Self::default();
        events.into_iter().for_each(|event| delta.apply(event));
        delta
    }

    /// Adds one event.
    pub fn apply(&mut self, event: &Event) {
        self.apply_fact(event.stamp, &event.fact);
    }

    /// Adds a fact with its stamp.
    pub fn apply_fact(&mut self, stamp: Stamp, fact: &Fact) {
        match fact {
            Fact::CheckedOut { .. }
            | Fact::CheckedIn { .. }
            | Fact::LoanClosed { .. }
            | Fact::Lost { .. }
            | Fact::ClaimedReturned { .. }
            | Fact::DueDateChanged { .. }
            | Fact::LoanSnapshot { .. }
            | Fact::LoanSnapshotClosed { .. } => {
                if let Some((id, loan)) = Loan::from_fact(stamp, fact) {
                    self.loans.entry(id).or_default().merge_from(&loan);
                }
            }
            Fact::BalanceChanged { .. } => {
                if let Some((id, fee)) = Fee::from_fact(stamp, fact) {
                    self.fees.entry(id).or_default().merge_from(&fee);
                }
            }
            Fact::AllLoansDeleted => {
                self.loans_deleted_before =
                    self.loans_deleted_before.max(Some(Horizon::at(stamp.at())));
            }
            Fact::PatronGroupChanged { user, group } => {
                let known = self.groups.entry(*user).or_default();
                *known = latest(known.take(), Some((stamp, group.clone())));
            }
        }
    }

    /// Merges two deltas.
    pub fn merge(mut self, other: Self) -> Self {
        for (id, loan) in other.loans {
            self.loans.entry(id).or_default().merge_from(&loan);
        }
        for (id, fee) in other.fees {
            self.fees.entry(id).or_default().merge_from(&fee);
        }
        for (id, group) in other.groups {
            let known = self.groups.entry(id).or_default();
            *known = latest(known.take(), group);
        }
        self.loans_deleted_before = self.loans_deleted_before.max(other.loans_deleted_before);
        self
    }
}
