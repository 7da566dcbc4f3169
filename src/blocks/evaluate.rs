//! Evaluates a patron: compares measures with limits.

use std::{cmp::Ordering, collections::HashSet};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::Value;
use uuid::Uuid;

use super::{Actions, Condition, Limit, Measure};
use crate::patron::{OpenFee, OpenLoan, overdue_days};

/// The measures of a patron at one instant, which limits are compared with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Measures {
    /// Open loans, including those claimed returned.
    pub open_loans: i64,
    /// Open fees/fines.
    pub open_fees_fines: i64,
    /// Open loans that are not claimed returned, including lost and overdue ones.
    pub charged_out: i64,
    /// Lost loans among `charged_out`.
    pub lost: i64,
    /// Overdue loans among `charged_out`.
    pub overdue: i64,
    /// Recalled loans among `overdue`.
    pub overdue_recalls: i64,
    /// Days overdue of the recalled loans among `overdue`, in ascending order. An evaluation needs only the last
    /// one; needs and messages need all.
    pub recall_days: Vec<i64>,
    /// Sum of the open balances; excludes fees/fines whose loan is claimed returned.
    pub fee_fine_balance: Decimal,
}

impl Measures {
    /// Measures the loans and fees/fines of one patron at `now`. The SQL of `store/state/patrons.rs` must agree
    /// with this definition.
    pub fn compute<'a>(
        loans: impl IntoIterator<Item = (Uuid, &'a OpenLoan)>,
        fees: impl IntoIterator<Item = &'a OpenFee>,
        now: DateTime<Utc>,
    ) -> Self {
        let mut measures = Self::default();
        let mut claimed_returned = HashSet::new();
        for (id, loan) in loans {
            measures.open_loans += 1;
            if loan.claimed_returned {
                claimed_returned.insert(id);
            } else {
                measures.add_loan(loan, now);
            }
        }
        for fee in fees {
            measures.open_fees_fines += 1;
            // A fee/fine does not count while its loan is claimed returned.
            if !fee.loan.is_some_and(|loan| claimed_returned.contains(&loan)) {
                measures.fee_fine_balance += fee.balance;
            }
        }
        measures.recall_days.sort_unstable();
        measures
    }

    fn add_loan(&mut self, loan: &OpenLoan, now: DateTime<Utc>) {
        self.charged_out += 1;
        self.lost += i64::from(loan.lost);
        let Some(due_date) = loan.due_date else { return };
        if loan.overdue_from().is_some_and(|from| from <= now) {
            self.overdue += 1;
            if loan.recall {
                self.overdue_recalls += 1;
                self.recall_days.push(overdue_days(due_date, loan.grace, now));
            }
        }
    }

    /// Returns whether the patron has no open loan and no open fee/fine; such a patron has no summary and
    /// no block.
    pub fn is_empty(&self) -> bool {
        self.open_loans == 0 && self.open_fees_fines == 0
    }

    /// Returns the measured number of a condition.
    pub fn value_of(&self, measure: Measure) -> MeasuredValue {
        match measure {
            Measure::ChargedOut => MeasuredValue::Count(self.charged_out),
            Measure::LostItems => MeasuredValue::Count(self.lost),
            Measure::OverdueItems => MeasuredValue::Count(self.overdue),
            Measure::OverdueRecalls => MeasuredValue::Count(self.overdue_recalls),
            Measure::RecallOverdueDays => {
                // 0 without an overdue recall.
                MeasuredValue::Count(self.recall_days.last().copied().unwrap_or_default())
            }
            Measure::FeeFineBalance => MeasuredValue::Money(self.fee_fine_balance),
        }
    }
}

/// A measured number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MeasuredValue {
    /// A number of items or days.
    Count(i64),
    /// An exact sum of money.
    Money(Decimal),
}

impl MeasuredValue {
    /// Returns the JSON number.
    pub fn to_json(self) -> Value {
        match self {
            Self::Count(count) => count.into(),
            Self::Money(sum) => decimal_to_json(sum),
        }
    }
}

/// Returns the JSON number with the exact digits; a double would change the amount.
pub fn decimal_to_json(amount: Decimal) -> Value {
    serde_json::from_str(&amount.normalize().to_string()).unwrap_or_default()
}

/// The result for one limit of the patron group.
#[derive(Debug, Clone, PartialEq)]
pub struct Finding<'a> {
    /// The limit.
    pub limit: &'a Limit,
    /// Its condition.
    pub condition: &'a Condition,
    /// The measured number; `None` if the condition is not one of the six.
    pub measured: Option<MeasuredValue>,
    /// The actions for which the limit is reached, whatever the condition blocks.
    pub reached: Actions,
    /// The actions that are reached and that the condition blocks.
    pub blocked: Actions,
}

/// Compares `measures` with every limit, in the order of `limits`. Skips a limit without a known condition;
/// the other limits still count.
pub fn evaluate<'a>(
    measures: &Measures,
    limits: impl IntoIterator<Item = &'a Limit>,
    conditions: &'a [Condition],
) -> Vec<Finding<'a>> {
    if measures.is_empty() {
        return Vec::new();
    }
    let finding = |limit: &'a Limit| {
        let condition = conditions.iter().find(|c| Some(c.id) == limit.condition)?;
        let measure = Measure::from_condition_id(condition.id);
        let measured = measure.map(|measure| measures.value_of(measure));
        let reached = match (measure, measured, limit.value) {
            // Without an overdue recall this limit is never reached; "0 days" needs an overdue recall.
            (Some(Measure::RecallOverdueDays), ..) if measures.overdue_recalls == 0 => {
                Actions::NONE
            }
            (Some(measure), Some(measured), Some(value)) => {
                reached_actions(measure, measured, value)
            }
            _ => Actions::NONE,
        };
        let blocked = reached.intersection(condition.blocks);
        Some(Finding { limit, condition, measured, reached, blocked })
    };
    limits.into_iter().filter_map(finding).collect()
}

fn reached_actions(measure: Measure, measured: MeasuredValue, limit: f64) -> Actions {
    let compared = match measured {
        // Counts are far below 2^53, so the conversion is exact.
        MeasuredValue::Count(count) => (count as f64).partial_cmp(&limit),
        // A limit outside the range of decimals is above or below every sum.
        MeasuredValue::Money(sum) => match Limit::exact_decimal(limit) {
            Some(limit) => Some(sum.cmp(&limit)),
            None => 0.0.partial_cmp(&limit),
        },
    };
    match (measure, compared) {
        (_, Some(Ordering::Greater)) => Actions::ALL,
        // A check-out would exceed the limit; a renewal or a request adds no item.
        (Measure::ChargedOut, Some(Ordering::Equal)) => {
            Actions { borrowing: true, ..Actions::NONE }
        }
        _ => Actions::NONE,
    }
}
