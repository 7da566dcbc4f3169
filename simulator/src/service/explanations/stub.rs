//! Explains a patron for tests. Ways out come from a search through all sets of loans.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::body::{
    Action, Actions, Certainty, CertaintyState, Explanation, Group, Next, Number, ReturnLoans,
    Settle, WayOut,
};
use super::expected::{Situation, measure_name};
use super::rehearsal::Rehearsal;
use super::{time, way_out};
use crate::blocks::condition::{FEE_FINE_BALANCE, RECALL_OVERDUE_DAYS};
use crate::blocks::{self, Rules};
use crate::model::Account;

/// Returns the explanation of a patron for whom returns and a payment end every block.
pub(in crate::service) fn explain(
    account: &Account,
    rules: &Rules,
    now: DateTime<Utc>,
) -> Explanation {
    let situation = Situation::new(account, rules, now);
    let start = Rehearsal::new(account, &situation.rules, now);
    let action = |action: usize| {
        let because = situation.causes(action);
        let blocked = !because.is_empty();
        Action { blocked, because, way_out: blocked.then(|| way_out(&situation, &start, action)) }
    };
    Explanation {
        user_id: account.patron.id,
        evaluated_at: now,
        patron_group: Group {
            id: situation.group,
            basis: "asked-group".to_owned(),
            known_at: None,
        },
        actions: Actions { borrowing: action(0), renewals: action(1), requests: action(2) },
        limits: situation.limits(),
        loans: situation.loans(),
        fees_fines: situation.fees_fines(),
        next: next(&situation, &start),
        certainty: Certainty { state: CertaintyState::Certain, as_of: Some(now) },
        counters_differ: false,
        totals: situation.totals(),
    }
}

fn next(situation: &Situation<'_>, start: &Rehearsal<'_>) -> Option<Next> {
    let at = time::first_change(start, situation.now)?;
    let (blocks, later) = (start.blocks_at(situation.now), start.blocks_at(at));
    let mut limits = situation.rules.limits.iter();
    let limit = limits.find(|one| later.contains_key(&one.id) && !blocks.contains_key(&one.id))?;
    Some(Next { at, limit: limit.id, what: measure_name(limit.condition_id)?.to_owned() })
}

fn way_out(situation: &Situation<'_>, start: &Rehearsal<'_>, action: usize) -> WayOut {
    let loans = situation.loans().into_iter().filter(|loan| !loan.claimed_returned);
    let loans: Vec<_> = loans.collect();
    let days = limits(situation, action, RECALL_OVERDUE_DAYS);
    let must_include: Vec<Uuid> = loans
        .iter()
        .filter(|loan| {
            loan.recall && days.iter().any(|days| Decimal::from(loan.overdue_days) > *days)
        })
        .map(|loan| loan.loan_id)
        .collect();
    let free: Vec<Uuid> = loans.iter().map(|loan| loan.loan_id).collect();
    let free: Vec<Uuid> = free.into_iter().filter(|loan| !must_include.contains(loan)).collect();
    let mut paid = start.clone();
    paid.pay_all();
    must_include.iter().for_each(|loan| paid.return_loan(*loan));
    let chosen = (0..=free.len()).find_map(|count| choose(&paid, action, &free, count));
    let suggested = [&must_include[..], &chosen.expect("all returns end the block")].concat();
    let replaces = |new: &Uuid| {
        suggested.iter().skip(must_include.len()).any(|old| {
            let mut rehearsal = start.clone();
            rehearsal.pay_all();
            suggested
                .iter()
                .filter(|loan| *loan != old)
                .for_each(|loan| rehearsal.return_loan(*loan));
            rehearsal.return_loan(*new);
            !rehearsal.is_blocked(action)
        })
    };
    let others = free.iter().filter(|loan| !suggested.contains(loan) && replaces(loan));
    let others: Vec<Uuid> = others.copied().collect();
    let return_loans = ReturnLoans {
        count: suggested.len(),
        must_include,
        others_total: others.len(),
        others,
        suggested,
    };
    let mut way_out = WayOut {
        possible: true,
        return_loans: Some(return_loans).filter(|loans| loans.count > 0),
        settle: settle(situation, action),
        ..WayOut::default()
    };
    way_out::add_consequences(action, situation, start, &mut way_out);
    way_out
}

/// Returns the values of the limits of a condition that may block the action.
fn limits(situation: &Situation<'_>, action: usize, condition: Uuid) -> Vec<Decimal> {
    let Rules { conditions, limits } = &situation.rules;
    let blocks = conditions.iter().any(|one| one.id == condition && one.flags()[action]);
    let limits = limits.iter().filter(|limit| blocks && limit.condition_id == condition);
    limits.filter_map(|limit| limit.value).collect()
}

/// Returns the first set of `count` loans that ends the block.
fn choose(
    rehearsal: &Rehearsal<'_>,
    action: usize,
    loans: &[Uuid],
    count: usize,
) -> Option<Vec<Uuid>> {
    if count == 0 {
        return (!rehearsal.is_blocked(action)).then(Vec::new);
    }
    loans.iter().enumerate().find_map(|(at, loan)| {
        let mut returned = rehearsal.clone();
        returned.return_loan(*loan);
        let chosen = choose(&returned, action, &loans[at + 1..], count - 1)?;
        Some([vec![*loan], chosen].concat())
    })
}

fn settle(situation: &Situation<'_>, action: usize) -> Option<Settle> {
    let limit = limits(situation, action, FEE_FINE_BALANCE).into_iter().min()?;
    let (loans, fees) = blocks::open_items(situation.account);
    let balance = blocks::measure(FEE_FINE_BALANCE, &loans, &fees, situation.now)?;
    let amount = balance - limit;
    if amount <= Decimal::ZERO {
        return None;
    }
    let (mut suggested, mut sum) = (vec![], Decimal::ZERO);
    for fee in situation.fees_fines().iter().filter(|fee| fee.counts) {
        if sum < amount {
            suggested.push(fee.fee_fine_id);
            sum += fee.balance.0;
        }
    }
    Some(Settle { amount: Number(amount), suggested })
}
