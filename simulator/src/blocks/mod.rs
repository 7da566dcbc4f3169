//! Computes the blocks of a patron from the written rules, with arithmetic of its own. The code prefers
//! correctness to speed.

mod message;
#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use message::message;

use crate::model::{self, Account, GracePeriod, Interval};

/// The ids of the six conditions.
pub mod condition {
    use uuid::{Uuid, uuid};

    /// Maximum number of items charged out.
    pub const ITEMS_CHARGED_OUT: Uuid = uuid!("3d7c52dc-c732-4223-8bf8-e5917801386f");
    /// Maximum number of lost items.
    pub const LOST_ITEMS: Uuid = uuid!("72b67965-5b73-4840-bc0b-be8f3f6e047e");
    /// Maximum number of overdue items.
    pub const OVERDUE_ITEMS: Uuid = uuid!("584fbd4f-6a34-4730-a6ca-73a6a6a9d845");
    /// Maximum number of overdue recalls.
    pub const OVERDUE_RECALLS: Uuid = uuid!("e5b45031-a202-4abb-917b-e1df9346fe2c");
    /// Recall overdue by maximum number of days.
    pub const RECALL_OVERDUE_DAYS: Uuid = uuid!("08530ac4-07f2-48e6-9dda-a97bc2bf7053");
    /// Maximum outstanding fee/fine balance.
    pub const FEE_FINE_BALANCE: Uuid = uuid!("cf7a0d5f-a327-4ca1-aa9e-dc55ec006b8a");
}

/// A condition with the actions that it may block, as the service returns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// One of the ids in [`condition`].
    pub id: Uuid,
    /// The name for staff.
    pub name: String,
    /// Whether the condition may block borrowing.
    #[serde(default)]
    pub block_borrowing: bool,
    /// Whether the condition may block renewals.
    #[serde(default)]
    pub block_renewals: bool,
    /// Whether the condition may block requests.
    #[serde(default)]
    pub block_requests: bool,
    /// `Integer` or `Double`.
    pub value_type: String,
    /// The message for staff at the desk, possibly with placeholders.
    #[serde(default)]
    pub message: String,
}

impl Condition {
    /// Returns the actions that the condition may block: borrowing, renewals, requests.
    pub fn flags(&self) -> [bool; 3] {
        [self.block_borrowing, self.block_renewals, self.block_requests]
    }
}

/// The value of a condition for one patron group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// The id of the limit.
    pub id: Uuid,
    /// The patron group of the limit.
    pub patron_group_id: String,
    /// The condition of the limit.
    pub condition_id: Uuid,
    /// The value; a limit without a value blocks nothing.
    #[serde(with = "rust_decimal::serde::arbitrary_precision_option", default)]
    pub value: Option<Decimal>,
}

/// All conditions and all limits, the limits in the order of their creation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    /// The conditions, in any order.
    pub conditions: Vec<Condition>,
    /// The limits of all patron groups.
    pub limits: Vec<Limit>,
}

/// A block as the service returns it, without the dates of the limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Block {
    /// The id of the limit.
    pub id: Uuid,
    /// The condition that blocks.
    pub patron_block_condition_id: Uuid,
    /// Whether the patron may not borrow.
    pub block_borrowing: bool,
    /// Whether the patron may not renew.
    pub block_renewals: bool,
    /// Whether the patron may not request.
    pub block_requests: bool,
    /// The message for staff at the desk, with numbers in place of the placeholders.
    pub message: String,
}

impl Block {
    /// Returns the blocked actions: borrowing, renewals, requests.
    pub fn flags(&self) -> [bool; 3] {
        [self.block_borrowing, self.block_renewals, self.block_requests]
    }
}

/// A block with the measured number and the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The measure of the patron.
    pub measured: Decimal,
    /// The value of the limit.
    pub limit: Decimal,
    /// The resulting block.
    pub block: Block,
}

/// The part of an open loan that an evaluation uses.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loan {
    /// The loan id.
    pub id: Uuid,
    /// The due date; a loan without a due date is never overdue.
    pub due: Option<DateTime<Utc>>,
    /// Whether a recall set the due date.
    pub recall: bool,
    /// Whether the item is declared lost or aged to lost.
    pub lost: bool,
    /// Whether the item is claimed returned.
    pub claimed_returned: bool,
    /// The grace period at check-out.
    pub grace: Option<GracePeriod>,
}

impl Loan {
    /// Returns the evaluated part of a loan of the truth.
    pub fn from_truth(id: Uuid, loan: &model::Loan) -> Self {
        Self {
            id,
            due: Some(loan.due_date),
            recall: loan.recall,
            lost: loan.is_lost(),
            claimed_returned: loan.is_claimed_returned(),
            grace: loan.grace_period,
        }
    }

    /// Returns the whole minutes since the due date if they exceed the grace period, else 0.
    fn overdue_minutes(&self, now: DateTime<Utc>) -> i64 {
        let Some(due) = self.due else { return 0 };
        let minutes = (now - due).num_minutes();
        if minutes > grace_minutes(self.grace) { minutes } else { 0 }
    }

    /// Returns true if the grace period is over by at least a minute.
    pub fn is_overdue(&self, now: DateTime<Utc>) -> bool {
        self.overdue_minutes(now) > 0
    }

    /// Returns the days since the due date of an overdue loan, else 0. A partial day counts as a day.
    pub fn overdue_days(&self, now: DateTime<Utc>) -> i64 {
        let minutes = self.overdue_minutes(now);
        minutes / 1440 + i64::from(minutes % 1440 != 0)
    }
}

/// The part of an open fee/fine that an evaluation uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeFine {
    /// The loan of the fee/fine.
    pub loan: Option<Uuid>,
    /// The balance.
    pub balance: Decimal,
}

impl FeeFine {
    /// Returns true unless the loan of the fee/fine is open and claimed returned.
    pub fn counts(&self, loans: &[Loan]) -> bool {
        !loans.iter().any(|loan| loan.claimed_returned && self.loan == Some(loan.id))
    }
}

/// Returns the minutes of a grace period; 0 without one.
pub fn grace_minutes(grace: Option<GracePeriod>) -> i64 {
    let Some(GracePeriod { duration, interval_id }) = grace else { return 0 };
    let unit = match interval_id {
        Interval::Minutes => 1,
        Interval::Hours => 60,
        Interval::Days => 1440,
        Interval::Weeks => 7 * 1440,
        Interval::Months => 31 * 1440,
    };
    duration.max(0).saturating_mul(unit)
}

/// Returns the evaluated part of an account: its open loans and its open fees/fines.
pub fn open_items(account: &Account) -> (Vec<Loan>, Vec<FeeFine>) {
    let loans = account.open_loans.iter().map(|(id, loan)| Loan::from_truth(*id, loan));
    let fees = account.open_fees_fines.values();
    let fees = fees.map(|fee| FeeFine { loan: fee.loan_id, balance: fee.balance });
    (loans.collect(), fees.collect())
}

/// Returns the blocks of an account at `now`, in the order of the limits.
pub fn for_account(account: &Account, rules: &Rules, now: DateTime<Utc>) -> Vec<Finding> {
    // A patron without a user record has no patron group.
    let group = account.patron.patron_group.filter(|_| account.patron.known);
    let (loans, fees) = open_items(account);
    evaluate(group.map(|group| group.to_string()).as_deref(), &loans, &fees, rules, now)
}

/// Returns the blocks at `now` of a patron with this patron group and these open loans and fees/fines.
pub fn evaluate(
    group: Option<&str>,
    loans: &[Loan],
    fees: &[FeeFine],
    rules: &Rules,
    now: DateTime<Utc>,
) -> Vec<Finding> {
    // A patron with nothing open has no blocks.
    if loans.is_empty() && fees.is_empty() {
        return vec![];
    }
    let Some(group) = group else { return vec![] };
    let limits = rules.limits.iter().filter(|limit| limit.patron_group_id == group);
    limits
        .filter_map(|limit| {
            let known = rules.conditions.iter().find(|known| known.id == limit.condition_id)?;
            find(known, limit, loans, fees, now)
        })
        .collect()
}

/// Returns the block of one limit, if the patron reaches it.
fn find(
    condition: &Condition,
    limit: &Limit,
    loans: &[Loan],
    fees: &[FeeFine],
    now: DateTime<Utc>,
) -> Option<Finding> {
    let value = limit.value?;
    let measured = measure(condition.id, loans, fees, now)?;
    let flags = blocked_actions(condition, measured, value);
    if flags == [false; 3] {
        return None;
    }
    let block = Block {
        id: limit.id,
        patron_block_condition_id: condition.id,
        block_borrowing: flags[0],
        block_renewals: flags[1],
        block_requests: flags[2],
        message: message(condition, limit, loans, fees, now),
    };
    Some(Finding { measured, limit: value, block })
}

/// Returns the actions that a measured number blocks: borrowing, renewals, requests.
fn blocked_actions(condition: &Condition, measured: Decimal, limit: Decimal) -> [bool; 3] {
    let (reached, flags) = (reached_actions(condition.id, measured, limit), condition.flags());
    [0, 1, 2].map(|action| reached[action] && flags[action])
}

/// Returns the actions for which a measured number reaches the limit: borrowing, renewals, requests.
pub fn reached_actions(condition: Uuid, measured: Decimal, limit: Decimal) -> [bool; 3] {
    let exceeds = measured > limit;
    // A patron at the limit of charged-out items may not check out one more.
    let at_limit = condition == condition::ITEMS_CHARGED_OUT && measured == limit;
    [exceeds || at_limit, exceeds, exceeds]
}

/// Returns the number that a condition compares with its limit. For recalls overdue by days, the number is
/// the maximum over all loans: if any recall exceeds the limit, the maximum does. Returns `None` for a condition
/// that is not one of the six.
pub fn measure(
    condition: Uuid,
    loans: &[Loan],
    fees: &[FeeFine],
    now: DateTime<Utc>,
) -> Option<Decimal> {
    let counted = || loans.iter().filter(|loan| !loan.claimed_returned);
    let count = |selects: &dyn Fn(&Loan) -> bool| {
        Decimal::from(counted().filter(|loan| selects(loan)).count())
    };
    Some(match condition {
        condition::ITEMS_CHARGED_OUT => count(&|_| true),
        condition::LOST_ITEMS => count(&|loan| loan.lost),
        condition::OVERDUE_ITEMS => count(&|loan| loan.is_overdue(now)),
        condition::OVERDUE_RECALLS => count(&|loan| loan.recall && loan.is_overdue(now)),
        condition::RECALL_OVERDUE_DAYS => {
            let recalls = counted().filter(|loan| loan.recall);
            Decimal::from(recalls.map(|loan| loan.overdue_days(now)).max().unwrap_or(0))
        }
        condition::FEE_FINE_BALANCE => balance(loans, fees),
        _ => return None,
    })
}

/// Returns the sum of the balances, without the fees/fines of loans that are claimed returned.
fn balance(loans: &[Loan], fees: &[FeeFine]) -> Decimal {
    fees.iter().filter(|fee| fee.counts(loans)).map(|fee| fee.balance).sum()
}
