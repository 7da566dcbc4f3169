//! What many events say together: one entry for each loan, fee/fine and patron, however many speak of it.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Fee, Loan, Register, latest};
use crate::event::{Event, Fact, Stamp, stamp::Horizon};

/// A batch of events, folded: merging is associative, so this says the same as they do one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct StateDelta {
    /// Of loans.
    pub loans: BTreeMap<Uuid, Loan>,
    /// Of fees/fines.
    pub fees: BTreeMap<Uuid, Fee>,
    /// Of patrons' groups.
    pub groups: BTreeMap<Uuid, Register<Option<String>>>,
    /// Loans that were opened before this are no more, whichever there were.
    pub loans_deleted_before: Option<Horizon>,
}

impl StateDelta {
    /// What these events say.
    pub fn from_events<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut delta = Self::default();
        events.into_iter().for_each(|event| delta.apply(event));
        delta
    }

    /// Adds what one more event says.
    pub fn apply(&mut self, event: &Event) {
        self.apply_fact(event.stamp, &event.fact);
    }

    /// Adds what is so as of a stamp.
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

    /// What is said by both.
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
