//! The distance between a patron and a limit: the number at which a limit is reached, and the returns or the
//! payment that a reached limit requires (docs/contract/insight.md#2-explanations).

use rust_decimal::Decimal;

use super::{Action, Finding, Limit, Measure, MeasuredValue, Measures};

/// The number at which a limit is reached for one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// The limit is reached at this number of items or days.
    Count(i64),
    /// The limit is reached above this sum.
    Above(Decimal),
}

/// What has to happen before one limit no longer blocks one action.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// The patron returns this number of the loans that the limit counts. If the limit counts fewer, no
    /// returns suffice.
    Returns(i64),
    /// The patron returns all overdue recalls with more days than the limit: this number of loans.
    LongRecalls(i64),
    /// The patron pays this amount. If the balance is lower, no payment suffices.
    Payment(Decimal),
    /// No return and no payment suffices.
    Impossible,
}

/// Returns the greatest count that does not reach the limit. It is at least -1, which no count equals.
fn greatest_allowed(measure: Measure, limit: f64, action: Action) -> i64 {
    let allowed = match (measure, action) {
        // A check-out would exceed the limit; a renewal or a request adds no item.
        (Measure::ChargedOut, Action::Borrowing) => limit.ceil() - 1.0,
        _ => limit.floor(),
    };
    // The cast saturates at the greatest integer.
    allowed.max(-1.0) as i64
}

impl Finding<'_> {
    /// Returns the number at which the limit is reached for `action`, whether or not the condition blocks the
    /// action; `None` if the limit is never reached.
    pub fn threshold(&self, action: Action) -> Option<Threshold> {
        let (measure, limit) = (self.measure()?, self.limit.value?);
        match measure {
            Measure::FeeFineBalance => Limit::exact_decimal(limit).map(Threshold::Above),
            // Only an overdue recall reaches this limit, and its first day counts as 1.
            Measure::RecallOverdueDays => {
                let allowed = greatest_allowed(measure, limit, action);
                Some(Threshold::Count(allowed.saturating_add(1).max(1)))
            }
            _ => {
                let allowed = greatest_allowed(measure, limit, action);
                Some(Threshold::Count(allowed.saturating_add(1)))
            }
        }
    }

    /// Returns the need of this limit for `action`; `None` if the limit does not block the action.
    pub fn need(&self, action: Action, measures: &Measures) -> Option<Need> {
        if !self.blocked.contains(action) {
            return None;
        }
        let (measure, limit) = (self.measure()?, self.limit.value?);
        Some(match (measure, self.measured?) {
            (Measure::RecallOverdueDays, _) => {
                let long = measures.recall_days.iter().filter(|days| **days as f64 > limit);
                Need::LongRecalls(long.count() as i64)
            }
            (_, MeasuredValue::Count(count)) => {
                Need::Returns(count - greatest_allowed(measure, limit, action))
            }
            (_, MeasuredValue::Money(balance)) => Limit::exact_decimal(limit)
                .and_then(|limit| balance.checked_sub(limit))
                .map_or(Need::Impossible, Need::Payment),
        })
    }

    /// Returns the number of loans to return so that the limit blocks no action: the greatest of the actions'
    /// numbers. If no returns suffice, the patron has to return all open loans.
    pub fn loans_to_return(&self, measures: &Measures) -> i64 {
        let counted = |need| match (need, self.measured) {
            (Need::Returns(loans), Some(MeasuredValue::Count(counted))) if loans > counted => {
                measures.open_loans
            }
            (Need::Returns(loans) | Need::LongRecalls(loans), _) => loans,
            (Need::Payment(_) | Need::Impossible, _) => 0,
        };
        let needs = self.blocked.iter().filter_map(|action| self.need(action, measures));
        needs.map(counted).max().unwrap_or_default()
    }

    /// Returns the amount to pay so that the limit blocks no action. If no payment suffices, the patron has to
    /// pay the whole balance.
    pub fn amount_to_pay(&self, measures: &Measures) -> Decimal {
        let balance = measures.fee_fine_balance;
        let amount = |need| match need {
            Need::Payment(amount) => amount.min(balance.max(Decimal::ZERO)),
            Need::Impossible => balance.max(Decimal::ZERO),
            Need::Returns(_) | Need::LongRecalls(_) => Decimal::ZERO,
        };
        let needs = self.blocked.iter().filter_map(|action| self.need(action, measures));
        needs.map(amount).max().unwrap_or_default()
    }

    /// Returns the measure of the condition; `None` if the condition is not one of the six.
    pub fn measure(&self) -> Option<Measure> {
        Measure::from_condition_id(self.condition.id)
    }
}
