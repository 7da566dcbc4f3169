//! The instant at which time alone reaches a limit: a loan becomes overdue, or an overdue recall becomes a day
//! older (docs/contract/evaluation.md#4-overdue).

use chrono::{DateTime, Utc};

use super::{Finding, Measure};
use crate::patron::{OpenLoan, more_than_days_from};

/// An open loan with a due date that is not claimed returned. Time alone changes the measures that count it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatedLoan {
    /// The due date.
    pub due_date: DateTime<Utc>,
    /// The first instant at which the loan is overdue.
    pub overdue_from: DateTime<Utc>,
    /// Whether the loan is recalled.
    pub recall: bool,
}

impl DatedLoan {
    /// Returns the dates of an open loan; `None` if the loan is claimed returned or has no due date.
    pub fn from_open_loan(loan: &OpenLoan) -> Option<Self> {
        let (due_date, overdue_from) = (loan.due_date?, loan.overdue_from()?);
        (!loan.claimed_returned).then_some(Self { due_date, overdue_from, recall: loan.recall })
    }

    /// Returns the first instant at which the overdue recall has more days than `limit`; `None` if no calendar
    /// has the instant.
    fn exceeds_days_from(&self, limit: f64) -> Option<DateTime<Utc>> {
        // The cast saturates; no calendar has that many days.
        let days = limit.floor().max(0.0) as i64;
        Some(more_than_days_from(self.due_date, days)?.max(self.overdue_from))
    }
}

impl Finding<'_> {
    /// Returns the first instant at which time alone reaches the limit. Returns `None` if the limit is reached
    /// already, blocks nothing, or has a measure that time does not change. `loans` has at least the patron's
    /// loans that become overdue until the instant, also those that are overdue already.
    pub fn reached_by_time(&self, loans: &[DatedLoan]) -> Option<DateTime<Utc>> {
        let (measure, limit) = (self.measure()?, self.limit.value?);
        if !self.reached.is_empty() || self.condition.blocks.is_empty() {
            return None;
        }
        let recalled = || loans.iter().filter(|loan| loan.recall);
        match measure {
            Measure::OverdueItems => exceeded_at(loans.iter(), limit),
            Measure::OverdueRecalls => exceeded_at(recalled(), limit),
            Measure::RecallOverdueDays => {
                recalled().filter_map(|loan| loan.exceeds_days_from(limit)).min()
            }
            Measure::ChargedOut | Measure::LostItems | Measure::FeeFineBalance => None,
        }
    }
}

/// Returns the first instant at which more of the loans are overdue than `limit`; `None` if there are too few.
fn exceeded_at<'a>(
    loans: impl Iterator<Item = &'a DatedLoan>,
    limit: f64,
) -> Option<DateTime<Utc>> {
    let mut overdue_from: Vec<_> = loans.map(|loan| loan.overdue_from).collect();
    overdue_from.sort();
    // The cast saturates: no patron has that many loans.
    let last_allowed = limit.floor().max(0.0) as usize;
    overdue_from.get(last_allowed).copied()
}
