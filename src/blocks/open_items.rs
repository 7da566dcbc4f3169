//! The open items of one patron, the input of evaluation and of explanations.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Measures;
use crate::patron::{OpenFee, OpenLoan};

/// The open loans and fees/fines of one patron, by id.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OpenItems {
    /// The open loans, including those claimed returned.
    pub loans: BTreeMap<Uuid, OpenLoan>,
    /// The open fees/fines, including those of loans claimed returned.
    pub fees: BTreeMap<Uuid, OpenFee>,
}

impl OpenItems {
    /// Measures the items at `now`.
    pub fn measures(&self, now: DateTime<Utc>) -> Measures {
        Measures::compute(self.loans.iter().map(|(id, loan)| (*id, loan)), self.fees.values(), now)
    }

    /// Returns whether a fee/fine counts: it does not count while its loan is claimed returned.
    pub fn counts(&self, fee: &OpenFee) -> bool {
        let loan = fee.loan.and_then(|loan| self.loans.get(&loan));
        !loan.is_some_and(|loan| loan.claimed_returned)
    }
}
