//! Checks a way out by its effect (docs/contract/insight.md#3-the-way-out).

use std::collections::BTreeSet;

use rust_decimal::Decimal;
use uuid::Uuid;

use super::LISTED_LOANS_MAX;
use super::body::{ReturnLoans, Settle, WayOut};
use super::expected::Situation;
use super::rehearsal::Rehearsal;
use super::report::{Report, list};
use crate::blocks::condition::{
    FEE_FINE_BALANCE, LOST_ITEMS, OVERDUE_ITEMS, OVERDUE_RECALLS, RECALL_OVERDUE_DAYS,
};
use crate::blocks::{self, Rules};

/// The greatest number of loans for which the judge tries every smaller set of returns.
const TRIED_LOANS_MAX: usize = 12;

/// The caveat of fees/fines that count again after the check-in of a claimed loan.
const CLAIM_ADDS_FEES: &str = "claim-adds-fees";

/// The payment of a trial.
#[derive(Clone, Copy)]
enum Payment {
    /// This amount, for the suggested fees/fines in their order.
    Suggested(Decimal),
    /// Every fee/fine.
    All,
}

/// The way out of one action, with the patron before it.
struct Trial<'a> {
    action: usize,
    name: &'static str,
    situation: &'a Situation<'a>,
    start: &'a Rehearsal<'a>,
    way_out: &'a WayOut,
    /// The suggested loans.
    returns: &'a [Uuid],
    /// The suggested fees/fines.
    fees: &'a [Uuid],
    /// The suggested payment.
    amount: Decimal,
}

/// Checks the way out of an action, which has a number and a name.
pub(super) fn check(
    (action, name): (usize, &'static str),
    situation: &Situation<'_>,
    start: &Rehearsal<'_>,
    got: Option<&WayOut>,
    report: &mut Report<'_>,
) {
    let is_blocked = start.is_blocked(action);
    let Some(way_out) = got.filter(|_| is_blocked) else {
        if is_blocked != got.is_some() {
            let text = |is_there: bool| if is_there { "a way out" } else { "none" };
            report.add(format!("{name} wayOut"), text(is_blocked), text(got.is_some()));
        }
        return;
    };
    let (loans, settle) = (way_out.return_loans.as_ref(), way_out.settle.as_ref());
    let trial = Trial::new((action, name), situation, start, way_out);
    report.require(way_out.possible, &trial.what("possible"), "true", "false");
    let only_nothing = trial.needs_nothing_open();
    let got_only_nothing = way_out.only_when_nothing_is_open;
    report.compare(&trial.what("onlyWhenNothingIsOpen"), &only_nothing, &got_only_nothing);
    if trial.is_blocked(trial.returns, Payment::Suggested(trial.amount)) {
        let got = format!("{} and {}", list(trial.returns.iter().copied()), trial.amount);
        report.add(trial.what("wayOut"), "returns and a payment that end the block", got);
    }
    if only_nothing {
        trial.check_nothing_open(report);
    } else {
        trial.check_returns(report);
        trial.check_must_include(loans, report);
        trial.check_others(loans, report);
        trial.check_payment(settle, report);
    }
    if let Some(loans) = loans {
        report.compare(&trial.what("count"), &trial.returns.len(), &loans.count);
        trial.require_distinct("suggested", &loans.suggested, report);
        let first = loans.suggested.iter().take(loans.must_include.len());
        let begins = first.eq(&loans.must_include);
        let suggested = list(loans.suggested.iter().copied());
        report.require(begins, &trial.what("suggested"), "mustInclude first", suggested);
        report.require(!loans.suggested.is_empty(), &trial.what("returnLoans"), "a loan", "none");
    }
    trial.check_afterwards(report);
    trial.check_claims(report);
}

impl<'a> Trial<'a> {
    fn new(
        (action, name): (usize, &'static str),
        situation: &'a Situation<'a>,
        start: &'a Rehearsal<'a>,
        way_out: &'a WayOut,
    ) -> Self {
        let (loans, settle) = (way_out.return_loans.as_ref(), way_out.settle.as_ref());
        Self {
            action,
            name,
            situation,
            start,
            way_out,
            returns: loans.map_or(&[], |loans| &loans.suggested),
            fees: settle.map_or(&[], |settle| &settle.suggested),
            amount: settle.map_or(Decimal::ZERO, |settle| settle.amount.0),
        }
    }

    fn what(&self, what: &str) -> String {
        format!("{} {what}", self.name)
    }

    /// Returns the account after these returns and a payment.
    fn after(&self, returns: &[Uuid], payment: Payment) -> Rehearsal<'_> {
        let mut rehearsal = self.start.clone();
        returns.iter().for_each(|loan| rehearsal.return_loan(*loan));
        match payment {
            Payment::Suggested(amount) => rehearsal.pay_in_order(self.fees, amount),
            Payment::All => rehearsal.pay_all(),
        }
        rehearsal
    }

    fn is_blocked(&self, returns: &[Uuid], payment: Payment) -> bool {
        self.after(returns, payment).is_blocked(self.action)
    }

    fn require_distinct(&self, what: &str, ids: &[Uuid], report: &mut Report<'_>) {
        let distinct: BTreeSet<_> = ids.iter().collect();
        let is_distinct = distinct.len() == ids.len();
        report.require(is_distinct, &self.what(what), "distinct ids", list(ids.iter().copied()));
    }

    /// Returns the loans that the conditions of loans count.
    fn returnable(&self) -> Vec<Uuid> {
        let loans = self.situation.account.open_loans.iter();
        loans.filter(|(_, loan)| !loan.is_claimed_returned()).map(|(id, _)| *id).collect()
    }

    /// Returns whether the action is blocked for a patron with one claimed loan and nothing else.
    fn needs_nothing_open(&self) -> bool {
        let mut rehearsal = self.start.clone();
        rehearsal.return_all();
        rehearsal.pay_all();
        let claimed = rehearsal.check_out();
        rehearsal.claim_returned(claimed);
        rehearsal.is_blocked(self.action)
    }

    /// Checks that the way out contains every item, and that each open item leaves the action blocked.
    fn check_nothing_open(&self, report: &mut Report<'_>) {
        let account = self.situation.account;
        let (loans, fees) = (&account.open_loans, &account.open_fees_fines);
        let sorted = |ids: &[Uuid]| list(ids.iter().copied().collect::<BTreeSet<_>>());
        report.compare(
            &self.what("suggested"),
            &list(loans.keys().copied()),
            &sorted(self.returns),
        );
        report.compare(
            &self.what("settle suggested"),
            &list(fees.keys().copied()),
            &sorted(self.fees),
        );
        let must_include = self.way_out.return_loans.as_ref().map(|loans| &loans.must_include[..]);
        let must_include = sorted(must_include.unwrap_or_default());
        report.compare(&self.what("mustInclude"), &list(loans.keys().copied()), &must_include);
        let amount: Decimal = fees.values().map(|fee| fee.balance.max(Decimal::ZERO)).sum();
        if amount != self.amount {
            report.add(self.what("settle amount"), amount, self.amount);
        }
        let mut smaller = vec![];
        for loan in loans.keys() {
            let returns: Vec<_> = loans.keys().copied().filter(|other| other != loan).collect();
            smaller.push((
                format!("without the return of {loan}"),
                self.after(&returns, Payment::All),
            ));
        }
        for (fee, open) in fees {
            let mut rehearsal = self.start.clone();
            rehearsal.return_all();
            fees.iter()
                .filter(|(id, _)| *id != fee)
                .for_each(|(id, fee)| rehearsal.pay(*id, fee.balance));
            rehearsal.pay(*fee, open.balance - self.smallest_step());
            smaller.push((format!("with a part of {fee} unpaid"), rehearsal));
        }
        for (what, rehearsal) in smaller {
            let is_blocked = rehearsal.is_blocked(self.action);
            report.require(is_blocked, &self.what("wayOut"), "a smallest one", what);
        }
    }

    /// Checks that fewer returns do not end the block.
    fn check_returns(&self, report: &mut Report<'_>) {
        let suggested = list(self.returns.iter().copied());
        let returnable = self.returnable();
        let are_open = self.returns.iter().all(|loan| returnable.contains(loan));
        let rule = "open loans that are not claimed returned";
        report.require(are_open, &self.what("suggested"), rule, &suggested);
        for (at, loan) in self.returns.iter().enumerate() {
            let fewer = [&self.returns[..at], &self.returns[at + 1..]].concat();
            if !self.is_blocked(&fewer, Payment::All) {
                report.add(self.what("suggested"), "a smallest set", format!("superfluous {loan}"));
            }
        }
        if returnable.len() <= TRIED_LOANS_MAX {
            self.check_every_smaller_set(&returnable, report);
        }
    }

    /// Checks that no set with one loan less ends the block. Smaller sets end no further block, because a return
    /// only lowers the measures.
    fn check_every_smaller_set(&self, returnable: &[Uuid], report: &mut Report<'_>) {
        let Some(size) = self.returns.len().checked_sub(1) else { return };
        let paid = self.after(&[], Payment::All);
        for set in 0_u32..1 << returnable.len() {
            if set.count_ones() as usize != size {
                continue;
            }
            let mut rehearsal = paid.clone();
            let members = returnable.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1);
            let members: Vec<Uuid> = members.map(|(_, loan)| *loan).collect();
            members.iter().for_each(|loan| rehearsal.return_loan(*loan));
            if !rehearsal.is_blocked(self.action) {
                return report.add(
                    self.what("count"),
                    format!("{size}: {}", list(members)),
                    size + 1,
                );
            }
        }
    }

    /// Checks that `mustInclude` has the loans that alone block the action by a limit of days.
    fn check_must_include(&self, got: Option<&ReturnLoans>, report: &mut Report<'_>) {
        let Rules { conditions, limits } = &self.situation.rules;
        let of_days = |limit: &&blocks::Limit| limit.condition_id == RECALL_OVERDUE_DAYS;
        let limits = limits.iter().filter(of_days).cloned().collect();
        let rules = Rules { conditions: conditions.clone(), limits };
        let returnable = self.returnable();
        let blocks_alone = |loan: &Uuid| {
            let others: Vec<Uuid> =
                returnable.iter().copied().filter(|other| other != loan).collect();
            self.after(&others, Payment::All).under(&rules).is_blocked(self.action)
        };
        let required: BTreeSet<Uuid> = returnable.iter().copied().filter(blocks_alone).collect();
        let got: BTreeSet<Uuid> =
            got.map(|loans| loans.must_include.iter().copied().collect()).unwrap_or_default();
        report.compare(&self.what("mustInclude"), &required, &got);
        let is_part = got.iter().all(|loan| self.returns.contains(loan));
        let suggested = list(self.returns.iter().copied());
        report.require(is_part, &self.what("suggested"), "every loan of mustInclude", suggested);
    }

    /// Checks that exactly the loans of `others` can replace a suggested loan that is not in `mustInclude`.
    fn check_others(&self, got: Option<&ReturnLoans>, report: &mut Report<'_>) {
        let none = ReturnLoans::default();
        let got = got.unwrap_or(&none);
        let replaceable: Vec<Uuid> =
            self.returns.iter().copied().filter(|loan| !got.must_include.contains(loan)).collect();
        let replaces = |new: &Uuid| {
            replaceable.iter().any(|old| {
                let mut returns: Vec<Uuid> =
                    self.returns.iter().copied().filter(|loan| loan != old).collect();
                returns.push(*new);
                !self.is_blocked(&returns, Payment::Suggested(self.amount))
            })
        };
        let candidates = self.returnable().into_iter();
        let candidates = candidates.filter(|loan| !self.returns.contains(loan));
        let expected: BTreeSet<Uuid> = candidates.filter(replaces).collect();
        report.compare(&self.what("othersTotal"), &expected.len(), &got.others_total);
        let listed: BTreeSet<Uuid> = got.others.iter().copied().collect();
        self.require_distinct("others", &got.others, report);
        if expected.len() <= LISTED_LOANS_MAX {
            report.compare(&self.what("others"), &expected, &listed);
        }
    }

    /// Returns the smallest step of an amount: a cent, unless a balance or a limit has more decimals.
    fn smallest_step(&self) -> Decimal {
        let balances = self.situation.account.open_fees_fines.values().map(|fee| fee.balance);
        let limits = self.situation.rules.limits.iter().filter_map(|limit| limit.value);
        let scale = balances.chain(limits).map(|number| number.normalize().scale()).max();
        Decimal::new(1, scale.unwrap_or_default().max(2))
    }

    /// Checks that the payment is as small as possible, and that the suggested fees/fines are the fewest.
    fn check_payment(&self, got: Option<&Settle>, report: &mut Report<'_>) {
        let returnable = self.returnable();
        let is_needed = self.is_blocked(&returnable, Payment::Suggested(Decimal::ZERO))
            && !self.is_blocked(&returnable, Payment::All);
        if is_needed != got.is_some() {
            let text = |is_there: bool| if is_there { "a payment" } else { "none" };
            return report.add(self.what("settle"), text(is_needed), text(got.is_some()));
        }
        let Some(settle) = got else { return };
        let less = self.amount - self.smallest_step();
        if !self.is_blocked(&returnable, Payment::Suggested(less)) {
            report.add(self.what("settle amount"), format!("at most {less}"), self.amount);
        }
        self.require_distinct("settle suggested", &settle.suggested, report);
        let counted = self.situation.fees_fines();
        let counted = counted.iter().filter(|fee| fee.counts && fee.balance.0 > Decimal::ZERO);
        // The greatest balance comes first.
        let counted: Vec<_> = counted.map(|fee| (fee.fee_fine_id, fee.balance.0)).collect();
        let balance_of = |id: &Uuid| counted.iter().find(|fee| fee.0 == *id).map(|fee| fee.1);
        let balances: Vec<Option<Decimal>> = settle.suggested.iter().map(balance_of).collect();
        let sum: Decimal = balances.iter().flatten().sum();
        let fewer = settle.suggested.len().saturating_sub(1);
        let without_last: Decimal = balances.iter().take(fewer).flatten().sum();
        let greatest: Decimal = counted.iter().take(fewer).map(|fee| fee.1).sum();
        let suggested = list(settle.suggested.iter().copied());
        for (is_met, rule) in [
            (balances.iter().all(Option::is_some), "fees/fines that count"),
            (sum >= self.amount, "fees/fines with the sum of the amount"),
            (without_last < self.amount, "no superfluous last fee/fine"),
            (greatest < self.amount, "the fewest fees/fines"),
        ] {
            report.require(is_met, &self.what("settle suggested"), rule, &suggested);
        }
    }

    /// Checks the caveats, and the measures that block after one more check-out.
    fn check_afterwards(&self, report: &mut Report<'_>) {
        let mut got: Vec<&str> = self.way_out.one_more_blocks.iter().map(String::as_str).collect();
        got.sort_unstable();
        report.compare(&self.what("oneMoreBlocks"), &self.one_more_blocks(), &got);
        report.compare(&self.what("caveats"), &self.caveats(), &self.way_out.caveats);
    }

    /// Checks that the caveat is present if the check-in of the claimed loans blocks the action again.
    fn check_claims(&self, report: &mut Report<'_>) {
        let mut rehearsal = self.after(self.returns, Payment::Suggested(self.amount));
        rehearsal.return_claimed();
        let is_present = self.way_out.caveats.iter().any(|caveat| caveat == CLAIM_ADDS_FEES);
        let is_met = is_present || !rehearsal.is_blocked(self.action);
        let got = "a block after the check-in of the claimed loans";
        report.require(is_met, &self.what("caveats"), CLAIM_ADDS_FEES, got);
    }

    /// Returns whether the check-in of the claimed loans makes further fees/fines count.
    fn claim_adds_fees(&self) -> bool {
        let mut rehearsal = self.start.clone();
        rehearsal.return_claimed();
        rehearsal.counted_fees() > self.start.counted_fees()
    }

    fn one_more_blocks(&self) -> Vec<&'static str> {
        let mut rehearsal = self.after(self.returns, Payment::Suggested(self.amount));
        rehearsal.check_out();
        rehearsal.blocking_measures(self.action)
    }

    fn caveats(&self) -> Vec<&'static str> {
        let (account, now) = (self.situation.account, self.situation.now);
        let returned = self.returns.iter().filter_map(|id| account.open_loans.get_key_value(id));
        let returned: Vec<_> =
            returned.map(|(id, loan)| blocks::Loan::from_truth(*id, loan)).collect();
        let Rules { conditions, limits } = &self.situation.rules;
        let limits_balance = limits.iter().any(|limit| limit.condition_id == FEE_FINE_BALANCE)
            && conditions.iter().any(|condition| {
                condition.id == FEE_FINE_BALANCE && condition.flags()[self.action]
            });
        let renewable = [LOST_ITEMS, OVERDUE_ITEMS, OVERDUE_RECALLS, RECALL_OVERDUE_DAYS];
        let findings = blocks::for_account(account, &self.situation.rules, now);
        let may_renew = !findings.iter().any(|finding| finding.block.flags()[1]);
        let renewal_ends = findings.iter().any(|finding| {
            finding.block.flags()[self.action]
                && renewable.contains(&finding.block.patron_block_condition_id)
        });
        [
            (returned.iter().any(|loan| loan.is_overdue(now)), "late-return-may-charge"),
            (returned.iter().any(|loan| loan.lost), "lost-return-may-cancel"),
            (limits_balance && self.claim_adds_fees(), CLAIM_ADDS_FEES),
            (may_renew && renewal_ends, "renewal-may-help"),
        ]
        .into_iter()
        .filter_map(|(applies, caveat)| applies.then_some(caveat))
        .collect()
    }
}

/// Adds the caveats and the measures of one more check-out to a way out.
#[cfg(test)]
pub(super) fn add_consequences(
    action: usize,
    situation: &Situation<'_>,
    start: &Rehearsal<'_>,
    way_out: &mut WayOut,
) {
    let owned = |names: Vec<&'static str>| names.into_iter().map(str::to_owned).collect();
    let (caveats, one_more_blocks) = {
        let trial = Trial::new((action, ""), situation, start, way_out);
        (owned(trial.caveats()), owned(trial.one_more_blocks()))
    };
    *way_out = WayOut { caveats, one_more_blocks, ..way_out.clone() };
}
