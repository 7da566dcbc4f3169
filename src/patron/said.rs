//! What many events say together: one entry for each loan, fee/fine and patron, however many speak of it.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{Fee, Loan, Register, latest};
use crate::event::{Event, Fact, Stamp, stamp::Horizon};

/// A batch of events, folded: merging is associative, so this says the same as they do one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// Of loans.
    pub loans: BTreeMap<Uuid, Loan>,
    /// Of fees/fines.
    pub fees: BTreeMap<Uuid, Fee>,
    /// Of patrons' groups.
    pub groups: BTreeMap<Uuid, Register<Option<String>>>,
    /// Loans that were opened before this are no more, whichever there were.
    pub no_loans_before: Option<Horizon>,
}

impl Said {
    /// What these events say.
    pub fn by<'a>(events: impl IntoIterator<Item = &'a Event>) -> Self {
        let mut said = Self::default();
        events.into_iter().for_each(|event| said.hear(event));
        said
    }

    /// Adds what one more event says.
    pub fn hear(&mut self, event: &Event) {
        self.learn(event.stamp, &event.fact);
    }

    /// Adds what is so as of a stamp.
    pub fn learn(&mut self, stamp: Stamp, fact: &Fact) {
        match fact {
            Fact::CheckedOut { .. }
            | Fact::CheckedIn { .. }
            | Fact::LoanClosed { .. }
            | Fact::Lost { .. }
            | Fact::ClaimedReturned { .. }
            | Fact::DueDateChanged { .. }
            | Fact::LoanHeld { .. }
            | Fact::LoanEnded { .. } => {
                if let Some((id, said)) = Loan::said(stamp, fact) {
                    self.loans.entry(id).or_default().hear(&said);
                }
            }
            Fact::BalanceChanged { .. } => {
                if let Some((id, said)) = Fee::said(stamp, fact) {
                    self.fees.entry(id).or_default().hear(&said);
                }
            }
            Fact::AllLoansDeleted => {
                self.no_loans_before = self.no_loans_before.max(Some(Horizon::at(stamp.at())));
            }
            Fact::GroupTold { user, group } => {
                let known = self.groups.entry(*user).or_default();
                *known = latest(known.take(), Some((stamp, group.clone())));
            }
        }
    }

    /// What is said by both.
    pub fn merge(mut self, other: Self) -> Self {
        for (id, said) in other.loans {
            self.loans.entry(id).or_default().hear(&said);
        }
        for (id, said) in other.fees {
            self.fees.entry(id).or_default().hear(&said);
        }
        for (id, said) in other.groups {
            let known = self.groups.entry(id).or_default();
            *known = latest(known.take(), said);
        }
        self.no_loans_before = self.no_loans_before.max(other.no_loans_before);
        self
    }
}
