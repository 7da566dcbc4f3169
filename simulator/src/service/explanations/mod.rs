//! Checks an explanation (docs/contract/insight.md#2-explanations) against the truth.
//!
//! The truth determines totals, items, limits and causes. A way out is checked by its effect: the judge returns
//! the suggested loans and pays the suggested amount in the simulator's own model, and evaluates again.

mod body;
mod expected;
mod rehearsal;
mod report;
mod time;
mod way_out;

#[cfg(test)]
pub(super) mod stub;
#[cfg(test)]
mod tests;

use uuid::Uuid;

use super::compare::Difference;
use crate::blocks::Rules;
use crate::model::Account;
use expected::Situation;
use rehearsal::Rehearsal;
use report::{Report, list};

pub(super) use body::Explanation;

/// The number of loans that a response lists if the request does not set another number.
const LISTED_LOANS_MAX: usize = 200;

/// Returns the differences between an explanation and the truth at the instant of the explanation.
pub(super) fn check(account: &Account, rules: &Rules, got: &Explanation) -> Vec<Difference> {
    let situation = Situation::new(account, rules, got.evaluated_at);
    let start = Rehearsal::new(account, &situation.rules, situation.now);
    let mut report = Report::new(&account.patron);
    report.compare("user", &account.patron.id, &got.user_id);
    report.compare("patron group", &situation.group, &got.patron_group.id);
    report.compare("counters differ", &false, &got.counters_differ);
    check_items(&situation, got, &mut report);
    check_limits(&situation, got, &mut report);
    for (action, (name, action_got)) in got.actions.named().into_iter().enumerate() {
        let causes = situation.causes(action);
        report.compare(&format!("{name} blocked"), &!causes.is_empty(), &action_got.blocked);
        report.compare(&format!("{name} because"), &causes, &action_got.because);
        let way_out = action_got.way_out.as_ref();
        way_out::check((action, name), &situation, &start, way_out, &mut report);
    }
    time::check(&situation, &start, got.next.as_ref(), &mut report);
    report.differences
}

fn check_items(situation: &Situation<'_>, got: &Explanation, report: &mut Report<'_>) {
    report.compare("totals", &situation.totals(), &got.totals);
    let mut loans = situation.loans();
    loans.truncate(LISTED_LOANS_MAX);
    report.compare_lists("loan", |loan| loan.loan_id, &loans, &got.loans);
    let is_sorted = got.loans.is_sorted_by_key(|loan| (loan.due_date.is_none(), loan.due_date));
    report.require(is_sorted, "order of the loans", "earliest due date first", "another order");
    let fees = situation.fees_fines();
    report.compare_lists("fee/fine", |fee| fee.fee_fine_id, &fees, &got.fees_fines);
    let is_sorted = got.fees_fines.is_sorted_by(|one, next| one.balance >= next.balance);
    report.require(is_sorted, "order of the fees/fines", "greatest first", "another order");
}

fn check_limits(situation: &Situation<'_>, got: &Explanation, report: &mut Report<'_>) {
    let expected = situation.limits();
    let ids = |limits: &[body::Limit]| -> Vec<Uuid> {
        limits.iter().map(|limit| limit.patron_block_limit_id).collect()
    };
    if ids(&expected) != ids(&got.limits) {
        return report.add("limits", list(ids(&expected)), list(ids(&got.limits)));
    }
    for (expected, got) in expected.iter().zip(&got.limits) {
        let measure = expected.measure.as_deref().unwrap_or("unknown");
        let what = format!("limit {} ({measure})", expected.patron_block_limit_id);
        report.compare(&what, expected, got);
    }
}
