//! The parts of an explanation that the truth determines: totals, loans, fees/fines, limits and causes.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::body::{FeeFine, Limit, Loan, Number, ReachedAt, Totals};
use crate::blocks::condition::{
    FEE_FINE_BALANCE, ITEMS_CHARGED_OUT, LOST_ITEMS, OVERDUE_ITEMS, OVERDUE_RECALLS,
    RECALL_OVERDUE_DAYS,
};
use crate::blocks::{self, Rules, grace_minutes};
use crate::model::Account;

/// The names of the actions, in the order of all flags.
pub(super) const ACTIONS: [&str; 3] = ["borrowing", "renewals", "requests"];

/// The measures of loans, in the order of explanations.
const MEASURES_OF_LOANS: [Uuid; 5] =
    [ITEMS_CHARGED_OUT, LOST_ITEMS, OVERDUE_ITEMS, OVERDUE_RECALLS, RECALL_OVERDUE_DAYS];

/// The reason of a fee/fine that does not count.
const LOAN_CLAIMED_RETURNED: &str = "loan-claimed-returned";

/// The account of a patron at one instant, and the limits of the patron group.
pub(super) struct Situation<'a> {
    pub(super) account: &'a Account,
    /// The patron group, unless the patron needs none.
    pub(super) group: Option<Uuid>,
    /// All conditions, and the limits of the patron group.
    pub(super) rules: Rules,
    pub(super) now: DateTime<Utc>,
    loans: Vec<blocks::Loan>,
    fees: Vec<blocks::FeeFine>,
}

/// Returns the name of a condition's measure in explanations.
pub(super) fn measure_name(condition: Uuid) -> Option<&'static str> {
    Some(match condition {
        ITEMS_CHARGED_OUT => "charged-out",
        LOST_ITEMS => "lost",
        OVERDUE_ITEMS => "overdue",
        OVERDUE_RECALLS => "overdue-recalls",
        RECALL_OVERDUE_DAYS => "recall-overdue-days",
        FEE_FINE_BALANCE => "balance",
        _ => return None,
    })
}

impl<'a> Situation<'a> {
    pub(super) fn new(account: &'a Account, rules: &Rules, now: DateTime<Utc>) -> Self {
        let (loans, fees) = blocks::open_items(account);
        let has_open_items = !loans.is_empty() || !fees.is_empty();
        let is_evaluated = has_open_items && !rules.limits.is_empty();
        let patron = &account.patron;
        let group = patron.patron_group.filter(|_| is_evaluated && patron.known);
        let of_group = |limit: &&blocks::Limit| {
            group.is_some_and(|group| limit.patron_group_id == group.to_string())
        };
        let rules = Rules {
            conditions: rules.conditions.clone(),
            limits: rules.limits.iter().filter(of_group).cloned().collect(),
        };
        Self { account, group, rules, now, loans, fees }
    }

    pub(super) fn totals(&self) -> Totals {
        Totals { loans: self.loans.len(), fees_fines: self.fees.len(), truncated: false }
    }

    /// Returns the ids of the limits that block an action, in the order of the limits.
    pub(super) fn causes(&self, action: usize) -> Vec<Uuid> {
        let findings = blocks::for_account(self.account, &self.rules, self.now);
        let causes = findings.iter().filter(|finding| finding.block.flags()[action]);
        causes.map(|finding| finding.block.id).collect()
    }

    /// Returns the open loans, earliest due date first.
    pub(super) fn loans(&self) -> Vec<Loan> {
        let mut loans: Vec<_> = self.loans.iter().map(|loan| self.loan(loan)).collect();
        loans.sort_by_key(|loan| (loan.due_date, loan.loan_id));
        loans
    }

    fn loan(&self, loan: &blocks::Loan) -> Loan {
        let counts = |measure: &Uuid| left_out_because(loan, *measure, self.now).is_none();
        let counting = MEASURES_OF_LOANS.into_iter().filter(counts).filter_map(measure_name);
        let grace = grace_minutes(loan.grace);
        Loan {
            loan_id: loan.id,
            due_date: loan.due,
            grace_minutes: loan.grace.map(|_| grace),
            overdue_from: loan.due.map(|due| due + TimeDelta::minutes(grace + 1)),
            overdue_days: loan.overdue_days(self.now),
            recall: loan.recall,
            lost: loan.lost,
            claimed_returned: loan.claimed_returned,
            counts_for: counting.map(str::to_owned).collect(),
            left_out_because: left_out_because(loan, OVERDUE_ITEMS, self.now).map(str::to_owned),
        }
    }

    /// Returns the open fees/fines, greatest balance first.
    pub(super) fn fees_fines(&self) -> Vec<FeeFine> {
        // The evaluated fees/fines have the order of the account.
        let fees = self.account.open_fees_fines.keys().zip(&self.fees).map(|(id, fee)| FeeFine {
            fee_fine_id: *id,
            loan_id: fee.loan,
            balance: Number(fee.balance),
            counts: fee.counts(&self.loans),
            left_out_because: self.reason(fee).map(str::to_owned),
        });
        let mut fees: Vec<_> = fees.collect();
        fees.sort_by_key(|fee| (Reverse(fee.balance), fee.fee_fine_id));
        fees
    }

    fn reason(&self, fee: &blocks::FeeFine) -> Option<&'static str> {
        (!fee.counts(&self.loans)).then_some(LOAN_CLAIMED_RETURNED)
    }

    /// Returns the limits of the patron group.
    pub(super) fn limits(&self) -> Vec<Limit> {
        self.rules.limits.iter().filter_map(|limit| self.limit(limit)).collect()
    }

    /// Returns a limit, if its condition exists.
    fn limit(&self, limit: &blocks::Limit) -> Option<Limit> {
        let mut conditions = self.rules.conditions.iter();
        let condition = conditions.find(|condition| condition.id == limit.condition_id)?;
        let measured = blocks::measure(condition.id, &self.loans, &self.fees, self.now);
        let reached = match (measured, limit.value) {
            (Some(measured), Some(value)) => blocks::reached_actions(condition.id, measured, value),
            _ => [false; 3],
        };
        let flags = condition.flags();
        let reasons: Vec<Option<&str>> = match condition.id {
            FEE_FINE_BALANCE => self.fees.iter().map(|fee| self.reason(fee)).collect(),
            id if measure_name(id).is_some() => {
                self.loans.iter().map(|loan| left_out_because(loan, id, self.now)).collect()
            }
            _ => vec![],
        };
        let mut left_out = BTreeMap::new();
        for reason in reasons.iter().flatten() {
            *left_out.entry((*reason).to_owned()).or_default() += 1;
        }
        let is_balance = condition.id == FEE_FINE_BALANCE;
        let at = |action| reached_at(condition.id, limit.value, action).map(Number);
        Some(Limit {
            patron_block_limit_id: limit.id,
            patron_block_condition_id: condition.id,
            measure: measure_name(condition.id).map(str::to_owned),
            limit: limit.value.map(Number),
            measured: measured.map(Number),
            reached_at: at(0).zip(at(1)).zip(at(2)).map(|((borrowing, renewals), requests)| {
                ReachedAt { borrowing, renewals, requests }
            }),
            reached_above: limit.value.filter(|_| is_balance).map(Number),
            reached: names(reached),
            blocks: names([0, 1, 2].map(|action| reached[action] && flags[action])),
            switched_off: names(flags.map(|flag| !flag)),
            counted: reasons.iter().filter(|reason| reason.is_none()).count(),
            left_out: reasons.iter().flatten().count(),
            left_out_because: left_out,
            message: blocks::message(condition, limit, &self.loans, &self.fees, self.now),
        })
    }
}

/// Returns the least number of items or days that reaches a limit; `None` for a balance.
fn reached_at(condition: Uuid, limit: Option<Decimal>, action: usize) -> Option<Decimal> {
    if condition == FEE_FINE_BALANCE || measure_name(condition).is_none() {
        return None;
    }
    // The whole number below the limit reaches no action.
    let below = limit?.floor() - Decimal::ONE;
    let candidates = [below, below + Decimal::ONE, below + Decimal::TWO];
    candidates
        .into_iter()
        .find(|count| blocks::reached_actions(condition, *count, limit.unwrap_or_default())[action])
}

fn names(flags: [bool; 3]) -> Vec<String> {
    let set = ACTIONS.into_iter().zip(flags).filter(|(_, is_set)| *is_set);
    set.map(|(name, _)| name.to_owned()).collect()
}

/// Returns the first reason for which a measure does not count a loan; `None` if the measure counts the loan.
fn left_out_because(
    loan: &blocks::Loan,
    measure: Uuid,
    now: DateTime<Utc>,
) -> Option<&'static str> {
    let is_recalls = [OVERDUE_RECALLS, RECALL_OVERDUE_DAYS].contains(&measure);
    let is_overdues = is_recalls || measure == OVERDUE_ITEMS;
    let is_due = loan.due.is_some_and(|due| due <= now);
    let reasons = [
        (loan.claimed_returned, "claimed-returned"),
        (measure == LOST_ITEMS && !loan.lost, "not-lost"),
        (is_recalls && !loan.recall, "not-recalled"),
        (is_overdues && loan.due.is_none(), "no-due-date"),
        (is_overdues && !loan.is_overdue(now) && is_due && loan.grace.is_some(), "in-grace"),
        (is_overdues && !loan.is_overdue(now), "not-overdue"),
    ];
    reasons.into_iter().find(|(applies, _)| *applies).map(|(_, reason)| reason)
}
