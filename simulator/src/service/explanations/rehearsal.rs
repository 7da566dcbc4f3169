//! Returns items and pays fees/fines of one patron in the simulator's model, and evaluates again.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::expected::measure_name;
use crate::blocks::{Rules, for_account, open_items};
use crate::model::{Account, Charge, Event, Fact, StatusChange, Truth};

/// A copy of one patron's account at one instant.
#[derive(Clone)]
pub(super) struct Rehearsal<'a> {
    truth: Truth,
    patron: Uuid,
    rules: &'a Rules,
    now: DateTime<Utc>,
}

impl<'a> Rehearsal<'a> {
    pub(super) fn new(account: &Account, rules: &'a Rules, now: DateTime<Utc>) -> Self {
        let truth = Truth::for_account(account.clone());
        Self { truth, patron: account.patron.id, rules, now }
    }

    /// Returns the same account under other rules.
    pub(super) fn under(&self, rules: &'a Rules) -> Self {
        Self { rules, ..self.clone() }
    }

    /// Returns the account after the returns and payments so far.
    pub(super) fn account(&self) -> &Account {
        self.truth.account(self.patron).expect("the truth has one account, of this patron")
    }

    /// Returns whether `action` is blocked: 0 is borrowing, 1 renewals, 2 requests.
    pub(super) fn is_blocked(&self, action: usize) -> bool {
        for_account(self.account(), self.rules, self.now)
            .iter()
            .any(|finding| finding.block.flags()[action])
    }

    /// Returns the limits that block an action at an instant, with the blocked actions.
    pub(super) fn blocks_at(&self, at: DateTime<Utc>) -> BTreeMap<Uuid, [bool; 3]> {
        let findings = for_account(self.account(), self.rules, at);
        findings.iter().map(|finding| (finding.block.id, finding.block.flags())).collect()
    }

    /// Returns the names of the measures with a limit that blocks `action`, each once.
    pub(super) fn blocking_measures(&self, action: usize) -> Vec<&'static str> {
        let findings = for_account(self.account(), self.rules, self.now);
        let blocking = findings.iter().filter(|finding| finding.block.flags()[action]);
        let names =
            blocking.filter_map(|finding| measure_name(finding.block.patron_block_condition_id));
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Checks in the item of a loan.
    pub(super) fn return_loan(&mut self, loan: Uuid) {
        let (patron, returned) = (self.patron, self.now);
        self.apply(Fact::CheckedIn { loan, patron, returned });
    }

    /// Checks in the items of all loans.
    pub(super) fn return_all(&mut self) {
        for loan in self.account().open_loans.keys().copied().collect::<Vec<_>>() {
            self.return_loan(loan);
        }
    }

    /// Checks in the items of the loans that are claimed returned.
    pub(super) fn return_claimed(&mut self) {
        let loans = self.account().open_loans.iter();
        let claimed = loans.filter(|(_, loan)| loan.is_claimed_returned()).map(|(id, _)| *id);
        for loan in claimed.collect::<Vec<_>>() {
            self.return_loan(loan);
        }
    }

    /// Returns the number of fees/fines that count for the balance.
    pub(super) fn counted_fees(&self) -> usize {
        let (loans, fees) = open_items(self.account());
        fees.iter().filter(|fee| fee.counts(&loans)).count()
    }

    /// Checks out one more item; it is due in a month.
    pub(super) fn check_out(&mut self) -> Uuid {
        let (loan, patron, item) = (Uuid::from_u128(1), self.patron, Uuid::nil());
        let due = self.now + TimeDelta::days(30);
        self.apply(Fact::CheckedOut { loan, patron, item, due, grace: None });
        loan
    }

    /// Claims that the item of a loan was returned.
    pub(super) fn claim_returned(&mut self, loan: Uuid) {
        let (patron, change) = (self.patron, StatusChange::ClaimedReturned);
        self.apply(Fact::StatusChanged { loan, patron, change });
    }

    /// Pays a part of a fee/fine.
    pub(super) fn pay(&mut self, fee: Uuid, amount: Decimal) {
        let Some(open) = self.account().open_fees_fines.get(&fee) else { return };
        let (fee_type, loan) = (open.fee_fine_type_id, open.loan_id);
        let charge = Some(Charge { patron: self.patron, fee_type, loan });
        let balance = open.balance - amount;
        self.apply(Fact::BalanceChanged { fee, balance, charge });
    }

    /// Pays an amount: the first fee/fine, then the next one. The patron cannot pay more than the balances.
    pub(super) fn pay_in_order(&mut self, fees: &[Uuid], amount: Decimal) {
        let mut unpaid = amount;
        for fee in fees {
            let Some(open) = self.account().open_fees_fines.get(fee) else { continue };
            let part = open.balance.min(unpaid);
            self.pay(*fee, part);
            unpaid -= part;
        }
    }

    /// Pays every fee/fine.
    pub(super) fn pay_all(&mut self) {
        for (fee, open) in self.account().open_fees_fines.clone() {
            self.pay(fee, open.balance);
        }
    }

    fn apply(&mut self, fact: Fact) {
        self.truth.apply(&Event { at: self.now, staff: Uuid::nil(), fact });
    }
}
