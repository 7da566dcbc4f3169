//! What a loan or fee/fine is to be, from what a source says of it and what is known here: the rule of a
//! rebuild. Merging alone could not take back what was never said.

use super::{Fee, Loan, Register};
use crate::event::{Stamp, stamp::Horizon};

/// Since when a source holds everything that was said; `None`: since ever. What a module held, rather than
/// what happened, is in no source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// By records of a log.
    pub log: Option<Horizon>,
    /// Over HTTP, which is in no log.
    pub http: Option<Horizon>,
}

impl Coverage {
    /// Of a source that speaks for itself alone: nothing follows from what it doesn't say.
    pub const NONE: Self = Self { log: Some(Horizon::NEVER), http: Some(Horizon::NEVER) };

    /// Whether the source would have to know what was said with this stamp.
    fn has(&self, said: &Stamp) -> bool {
        let since = if said.is_called() { self.http } else { self.log };
        !said.is_snapshot() && since.is_none_or(|since| since.admits(said))
    }

    fn beyond<T>(&self, register: Register<T>) -> Register<T> {
        register.filter(|(said, _)| !self.has(said))
    }
}

impl Loan {
    /// What is known here and can't be in the source.
    fn beyond(self, covered: &Coverage) -> Self {
        let mut kept = Self {
            check_out: covered.beyond(self.check_out),
            snapshot: covered.beyond(self.snapshot),
            due: covered.beyond(self.due),
            lost: covered.beyond(self.lost),
            claimed_returned: covered.beyond(self.claimed_returned),
            closed: self.closed.filter(|said| !covered.has(said)),
            named: None,
        };
        if kept.newest().is_some() {
            kept.named = self.named;
        }
        kept
    }

    /// The loan as it is to be: what the source says, merged with what is known here and can't be in the
    /// source. What is known here and would have to be in the source and isn't was never said.
    pub fn reconciled(source: Self, here: Self, covered: &Coverage) -> Self {
        source.merge(here.beyond(covered))
    }
}

impl Fee {
    fn beyond(self, covered: &Coverage) -> Self {
        Self {
            balance: covered.beyond(self.balance),
            fee_fine_type: covered.beyond(self.fee_fine_type),
            user: covered.beyond(self.user),
        }
    }

    /// As [`Loan::reconciled`].
    pub fn reconciled(source: Self, here: Self, covered: &Coverage) -> Self {
        source.merge(here.beyond(covered))
    }
}
