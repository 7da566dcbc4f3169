//! Which blocks a patron has, worked out from the rules as they are written, by the judge's own
//! arithmetic. Slow and plain on purpose: it is there to be right.

#[cfg(test)]
mod tests;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{self, Account, GracePeriod, Interval};

/// Ids of the six conditions.
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

/// A condition with the actions it may block, as the service has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// One of [`condition`].
    pub id: Uuid,
    /// In words.
    pub name: String,
    /// Whether it may block borrowing.
    #[serde(default)]
    pub block_borrowing: bool,
    /// Whether it may block renewals.
    #[serde(default)]
    pub block_renewals: bool,
    /// Whether it may block requests.
    #[serde(default)]
    pub block_requests: bool,
    /// `Integer` or `Double`.
    pub value_type: String,
    /// What the desk is shown.
    #[serde(default)]
    pub message: String,
}

/// What a group of patrons may have before a condition blocks them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// The limit's own id.
    pub id: Uuid,
    /// The group it is for.
    pub patron_group_id: String,
    /// The condition it belongs to.
    pub condition_id: Uuid,
    /// The number itself; without one the limit limits nothing.
    #[serde(with = "rust_decimal::serde::arbitrary_precision_option", default)]
    pub value: Option<Decimal>,
}

/// All conditions, and all limits in the order in which they were created.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Rules {
    /// Conditions in any order.
    pub conditions: Vec<Condition>,
    /// Limits of all groups.
    pub limits: Vec<Limit>,
}

/// A block as the service answers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Block {
    /// The condition.
    pub patron_block_condition_id: Uuid,
    /// The patron may not borrow.
    pub block_borrowing: bool,
    /// The patron may not renew.
    pub block_renewals: bool,
    /// The patron may not request.
    pub block_requests: bool,
    /// What the desk is shown.
    pub message: String,
}

/// A block together with the numbers that led to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What the patron has.
    pub measured: Decimal,
    /// What the limit allows.
    pub limit: Decimal,
    /// What follows.
    pub block: Block,
}

/// What evaluation looks at in an open loan.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Loan {
    /// Loan id.
    pub id: Uuid,
    /// A loan without a due date is never overdue.
    pub due: Option<DateTime<Utc>>,
    /// The due date stands because of a recall.
    pub recall: bool,
    /// Declared or aged to lost.
    pub lost: bool,
    /// Claimed returned.
    pub claimed_returned: bool,
    /// Grace period at check-out.
    pub grace: Option<GracePeriod>,
}

impl Loan {
    /// The truth about a loan, as evaluation sees it.
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

    /// Whole minutes since the due date, once they exceed the grace period; else 0.
    fn overdue_minutes(&self, now: DateTime<Utc>) -> i64 {
        let Some(due) = self.due else { return 0 };
        let minutes = (now - due).num_minutes();
        if minutes > grace_minutes(self.grace) { minutes } else { 0 }
    }

    fn is_overdue(&self, now: DateTime<Utc>) -> bool {
        self.overdue_minutes(now) > 0
    }

    /// Every day begun counts.
    fn overdue_days(&self, now: DateTime<Utc>) -> i64 {
        let minutes = self.overdue_minutes(now);
        minutes / 1440 + i64::from(minutes % 1440 != 0)
    }
}

/// What evaluation looks at in an open fee/fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeeFine {
    /// The loan it arose from.
    pub loan: Option<Uuid>,
    /// What is owed.
    pub balance: Decimal,
}

fn grace_minutes(grace: Option<GracePeriod>) -> i64 {
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

/// The blocks of a patron at this instant, in the order of the limits.
pub fn for_account(account: &Account, rules: &Rules, now: DateTime<Utc>) -> Vec<Finding> {
    // Whom the users service doesn't know is in no group.
    let group = account.patron.patron_group.filter(|_| account.patron.known);
    let loans = account.open_loans.iter().map(|(id, loan)| Loan::from_truth(*id, loan));
    let fees = account
        .open_fees_fines
        .values()
        .map(|fee| FeeFine { loan: fee.loan_id, balance: fee.balance });
    evaluate(
        group.map(|group| group.to_string()).as_deref(),
        &loans.collect::<Vec<_>>(),
        &fees.collect::<Vec<_>>(),
        rules,
        now,
    )
}

/// The blocks of a patron of this group with these open loans and fees/fines at this instant.
pub fn evaluate(
    group: Option<&str>,
    loans: &[Loan],
    fees: &[FeeFine],
    rules: &Rules,
    now: DateTime<Utc>,
) -> Vec<Finding> {
    // Nothing open, nothing known of the patron, nothing to block.
    if loans.is_empty() && fees.is_empty() {
        return vec![];
    }
    let Some(group) = group else { return vec![] };
    let limits = rules.limits.iter().filter(|limit| limit.patron_group_id == group);
    limits
        .filter_map(|limit| {
            let known = rules.conditions.iter().find(|known| known.id == limit.condition_id)?;
            find(known, limit.value?, loans, fees, now)
        })
        .collect()
}

/// The block that one limit leads to, if any.
fn find(
    condition: &Condition,
    limit: Decimal,
    loans: &[Loan],
    fees: &[FeeFine],
    now: DateTime<Utc>,
) -> Option<Finding> {
    let measured = measure(condition.id, loans, fees, now)?;
    let exceeds = measured > limit;
    // One more item would be too many for a patron who has just as many as allowed.
    let at_limit = condition.id == condition::ITEMS_CHARGED_OUT && measured == limit;
    let block = Block {
        patron_block_condition_id: condition.id,
        block_borrowing: (exceeds || at_limit) && condition.block_borrowing,
        block_renewals: exceeds && condition.block_renewals,
        block_requests: exceeds && condition.block_requests,
        message: condition.message.clone(),
    };
    let any = block.block_borrowing || block.block_renewals || block.block_requests;
    any.then_some(Finding { measured, limit, block })
}

/// The number that a condition compares with its limit. Recalls overdue by days are measured by
/// the one that is overdue longest: if any exceeds the limit, this one does.
fn measure(
    condition: Uuid,
    loans: &[Loan],
    fees: &[FeeFine],
    now: DateTime<Utc>,
) -> Option<Decimal> {
    let counted = || loans.iter().filter(|loan| !loan.claimed_returned);
    let count =
        |which: &dyn Fn(&Loan) -> bool| Decimal::from(counted().filter(|loan| which(loan)).count());
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

/// What is owed, but for loans that the patron says were returned.
fn balance(loans: &[Loan], fees: &[FeeFine]) -> Decimal {
    let disputed =
        |fee: &FeeFine| loans.iter().any(|loan| loan.claimed_returned && fee.loan == Some(loan.id));
    fees.iter().filter(|fee| !disputed(fee)).map(|fee| fee.balance).sum()
}
