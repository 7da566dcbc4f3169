//! The placeholders in the message of a condition (docs/contract/insight.md#4-placeholders).

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::condition::{FEE_FINE_BALANCE, OVERDUE_ITEMS};
use super::{Condition, FeeFine, Limit, Loan, blocked_actions, measure};

/// A patron's items and the limit that they are compared with.
#[derive(Clone, Copy)]
struct Comparison<'a> {
    condition: &'a Condition,
    limit: Option<Decimal>,
    loans: &'a [Loan],
    fees: &'a [FeeFine],
    now: DateTime<Utc>,
}

/// Returns the message of a condition with the numbers of the patron in place of the placeholders. An inserted
/// number is never read again.
pub fn message(
    condition: &Condition,
    limit: &Limit,
    loans: &[Loan],
    fees: &[FeeFine],
    now: DateTime<Utc>,
) -> String {
    let mut rest = condition.message.as_str();
    if !rest.contains('{') {
        return rest.to_owned();
    }
    let values = Comparison { condition, limit: limit.value, loans, fees, now }.values();
    let mut message = String::new();
    loop {
        let places = values
            .iter()
            .filter_map(|(name, value)| Some((rest.find(name)?, name.len(), value.as_deref()?)));
        let Some((at, length, value)) = places.min_by_key(|place| place.0) else {
            return message + rest;
        };
        message.push_str(&rest[..at]);
        message.push_str(value);
        rest = &rest[at + length..];
    }
}

impl Comparison<'_> {
    /// Returns the placeholders with their values.
    fn values(&self) -> [(&'static str, Option<String>); 5] {
        let number_text = |number: Decimal| match self.is_balance() {
            true => amount_text(number),
            false => number.normalize().to_string(),
        };
        let overdue = measure(OVERDUE_ITEMS, self.loans, self.fees, self.now);
        [
            ("{measured}", self.measured().map(number_text)),
            ("{limit}", self.limit.map(number_text)),
            ("{toReturn}", Some(self.loans_to_return().to_string())),
            ("{toSettle}", Some(amount_text(self.amount_to_settle()))),
            ("{overdue}", overdue.map(|count| count.to_string())),
        ]
    }

    fn is_balance(&self) -> bool {
        self.condition.id == FEE_FINE_BALANCE
    }

    fn measured(&self) -> Option<Decimal> {
        measure(self.condition.id, self.loans, self.fees, self.now)
    }

    fn is_blocked(&self) -> bool {
        self.measured().zip(self.limit).is_some_and(|(measured, limit)| {
            blocked_actions(self.condition, measured, limit).contains(&true)
        })
    }

    /// Returns the number of loans that the patron returns, one after the other, until the limit blocks no
    /// action. If no returns suffice, the number counts all open loans.
    fn loans_to_return(&self) -> usize {
        if self.is_balance() {
            return 0;
        }
        let mut open = self.loans.to_vec();
        while (Comparison { loans: &open, ..*self }).is_blocked() {
            // A measure counts a loan if it counts the loan alone. The longest overdue loan comes first.
            let counted = open.iter().enumerate().filter(|(_, loan)| {
                let alone = Comparison { loans: &[**loan], fees: &[], ..*self };
                alone.measured().is_some_and(|count| !count.is_zero())
            });
            let Some((at, _)) = counted.max_by_key(|(_, loan)| loan.overdue_days(self.now)) else {
                return self.loans.len();
            };
            open.remove(at);
        }
        self.loans.len() - open.len()
    }

    /// Returns the amount that the patron pays until the limit blocks no action, at most the balance.
    fn amount_to_settle(&self) -> Decimal {
        match (self.measured(), self.limit) {
            (Some(balance), Some(limit)) if self.is_balance() && self.is_blocked() => {
                (balance - limit).min(balance.max(Decimal::ZERO))
            }
            _ => Decimal::ZERO,
        }
    }
}

/// Returns an exact amount. If the amount has decimals, the text has at least two.
fn amount_text(amount: Decimal) -> String {
    let exact = amount.normalize();
    if exact.scale() == 1 { format!("{exact}0") } else { exact.to_string() }
}
