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
    fn covers(&self, stamp: &Stamp) -> bool {
        let since = if stamp.is_http() { self.http } else { self.log };
        !stamp.is_snapshot() && since.is_none_or(|since| since.admits(stamp))
    }

    fn uncovered<T>(&self, register: Register<T>) -> Register<T> {
        register.filter(|(stamp, _)| !self.covers(stamp))
    }
}

impl Loan {
    /// What is known here and can't be in the source.
    fn uncovered(self, coverage: &Coverage) -> Self {
        let mut uncovered = Self {
            check_out: coverage.uncovered(self.check_out),
            snapshot: coverage.uncovered(self.snapshot),
            due: coverage.uncovered(self.due),
            lost: coverage.uncovered(self.lost),
            claimed_returned: coverage.uncovered(self.claimed_returned),
            closed: self.closed.filter(|stamp| !coverage.covers(stamp)),
            fallback_user: None,
        };
        if uncovered.newest_stamp().is_some() {
            uncovered.fallback_user = self.fallback_user;
        }
        uncovered
    }

    /// The loan as it is to be: what the source says, merged with what is known here and can't be in the
    /// source. What is known here and would have to be in the source and isn't was never said.
    pub fn reconcile(source: Self, current: Self, coverage: &Coverage) -> Self {
        source.merge(current.uncovered(coverage))
    }
}

impl Fee {
    fn uncovered(self, coverage: &Coverage) -> Self {
        Self {
            balance: coverage.uncovered(self.balance),
            fee_fine_type: coverage.uncovered(self.fee_fine_type),
            user: coverage.uncovered(self.user),
        }
    }

    /// As [`Loan::reconciled`].
    pub fn reconcile(source: Self, current: Self, coverage: &Coverage) -> Self {
        source.merge(current.uncovered(coverage))
    }
}
