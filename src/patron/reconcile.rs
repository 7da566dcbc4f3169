//! What a loan or fee/fine is to be, from what a source says of it and what is known here: the rule of a
//! rebuild. Merging alone could not take back what was never said.

use super::{Fee, Loan, Register};
use crate::event::{Stamp, stamp::Horizon};

/// Whether a source that holds everything since `complete_since` (`None`: since ever) would have to know
/// what was said with this stamp. What a module held, rather than what happened, is in no log.
fn is_covered(said: &Stamp, complete_since: Option<Horizon>) -> bool {
    !said.is_snapshot() && complete_since.is_none_or(|since| since.admits(said))
}

fn beyond<T>(register: Register<T>, complete_since: Option<Horizon>) -> Register<T> {
    register.filter(|(said, _)| !is_covered(said, complete_since))
}

impl Loan {
    /// What is known here and can't be in the source.
    fn beyond(self, complete_since: Option<Horizon>) -> Self {
        let mut kept = Self {
            check_out: beyond(self.check_out, complete_since),
            snapshot: beyond(self.snapshot, complete_since),
            due: beyond(self.due, complete_since),
            lost: beyond(self.lost, complete_since),
            claimed_returned: beyond(self.claimed_returned, complete_since),
            closed: self.closed.filter(|said| !is_covered(said, complete_since)),
            named: None,
        };
        if kept.newest().is_some() {
            kept.named = self.named;
        }
        kept
    }

    /// The loan as it is to be: what the source says, merged with what is known here and can't be in the
    /// source, which holds everything since `complete_since`. What is known here and would have to be in
    /// the source and isn't was never said.
    pub fn reconciled(source: Self, here: Self, complete_since: Option<Horizon>) -> Self {
        source.merge(here.beyond(complete_since))
    }
}

impl Fee {
    fn beyond(self, complete_since: Option<Horizon>) -> Self {
        Self {
            balance: beyond(self.balance, complete_since),
            fee_fine_type: beyond(self.fee_fine_type, complete_since),
            user: beyond(self.user, complete_since),
        }
    }

    /// As [`Loan::reconciled`].
    pub fn reconciled(source: Self, here: Self, complete_since: Option<Horizon>) -> Self {
        source.merge(here.beyond(complete_since))
    }
}
