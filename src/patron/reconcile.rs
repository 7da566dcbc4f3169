//! The rule of a rebuild: computes the target row of a loan or fee/fine from the source, the current row
//! and the coverage. A merge alone could not remove a state that no event supports.

use super::{Fee, Loan, Register};
use crate::event::{Stamp, stamp::Horizon};

/// The horizons since when a source contains every event; `None` means since ever. No source contains
/// states of snapshots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Coverage {
    /// Since when the source contains the records of the log.
    pub log: Option<Horizon>,
    /// Since when the source contains HTTP events, which are in no log.
    pub http: Option<Horizon>,
}

impl Coverage {
    /// The coverage of a source whose missing events prove nothing.
    pub const NONE: Self = Self { log: Some(Horizon::NEVER), http: Some(Horizon::NEVER) };

    /// Returns whether the source would contain an event with this stamp.
    fn covers(&self, stamp: &Stamp) -> bool {
        let since = if stamp.is_http() { self.http } else { self.log };
        !stamp.is_snapshot() && since.is_none_or(|since| since.admits(stamp))
    }

    fn uncovered<T>(&self, register: Register<T>) -> Register<T> {
        register.filter(|(stamp, _)| !self.covers(stamp))
    }
}

impl Loan {
    /// Returns the registers that the source can't contain.
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

    /// Returns the target loan: the source's registers, merged with the current registers that the source
    /// can't contain. A current register that the source should contain but does not is dropped.
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

    /// Returns the target fee/fine, by the rule of [`Loan::reconcile`].
    pub fn reconcile(source: Self, current: Self, coverage: &Coverage) -> Self {
        source.merge(current.uncovered(coverage))
    }
}
