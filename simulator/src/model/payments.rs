//! Fees and fines: charges, payments, refunds, waivers, edits and deletions.

use chrono::TimeDelta;
use rand::Rng;
use rust_decimal::Decimal;

use super::actions::{FeeAction, FeeKind, PlannedAction};
use super::event::{Charge, Fact};
use super::library::Library;
use super::random::{new_id, weighted_index};
use super::storage::{Fee, LoanState};

impl Library {
    /// Charges a fee for a loan.
    pub(super) fn charge_loan(&mut self, loan: usize, kind: FeeKind) {
        let person = self.storage.loans[loan].person;
        let fee = self.charge(person, kind, Some(loan));
        if kind.is_for_lost_item() {
            self.storage.loans[loan].lost_item_fees.push(fee);
        }
    }

    /// Charges a fee without a loan.
    pub(super) fn charge_patron(&mut self, person: usize) {
        let kind = if self.random_bool(0.5) { FeeKind::Damage } else { FeeKind::NewCard };
        self.charge(person, kind, None);
    }

    fn charge(&mut self, person: usize, kind: FeeKind, loan: Option<usize>) -> usize {
        let charged = self.price(kind);
        let id = new_id(&mut self.id_rng);
        let fee = Fee { id, person, kind, loan, charged, balance: charged, deleted: false };
        let fee = self.storage.add_fee(fee);
        self.emit_balance(fee);
        self.plan_fee_action(fee);
        fee
    }

    /// Returns a price in cents.
    fn price(&mut self, kind: FeeKind) -> i64 {
        let cents = match kind {
            FeeKind::Overdue => self.rng.random_range(2..=60) * 10,
            FeeKind::Reminder => 250,
            // A rare price is so large that a double prints the balance with an exponent.
            FeeKind::LostItem if self.random_bool(0.000_4) => 1_250_000_000,
            FeeKind::LostItem => self.rng.random_range(900..=9_500),
            FeeKind::LostItemProcessing => 500,
            FeeKind::Search => 300,
            FeeKind::Damage => self.rng.random_range(150..=4_000),
            FeeKind::NewCard => 1_000,
        };
        cents.max(1)
    }

    /// Plans the next action on a fee.
    fn plan_fee_action(&mut self, fee: usize) {
        let Fee { person, loan, .. } = self.storage.fees[fee];
        let days = self.rng.random_range(0..=6);
        let at = self.staff_time_in_days(days);
        let later = at + TimeDelta::minutes(self.rng.random_range(3..=150));
        let pays = (self.storage.people[person].habits.payment_rate * 100.0) as u32;
        let (unlinks, disputes) = if loan.is_some() { (4, 8) } else { (0, 0) };
        let weights = [pays, 9, 7, 3, 6, 3, unlinks, disputes, 100 - pays];
        match weighted_index(&mut self.rng, &weights) {
            0 => self.plan(at, PlannedAction::Fee(fee, FeeAction::Pay)),
            1 => self.plan(at, PlannedAction::Fee(fee, FeeAction::PayPartially)),
            2 => {
                self.plan(at, PlannedAction::Fee(fee, FeeAction::PayPartially));
                self.plan(later, PlannedAction::Fee(fee, FeeAction::Refund));
            }
            3 => {
                self.plan(at, PlannedAction::Fee(fee, FeeAction::Pay));
                self.plan(later, PlannedAction::Fee(fee, FeeAction::Refund));
            }
            4 => self.plan(at, PlannedAction::Fee(fee, FeeAction::Waive)),
            5 => self.plan(at, PlannedAction::Fee(fee, FeeAction::Delete)),
            6 => self.plan(at, PlannedAction::Fee(fee, FeeAction::Unlink)),
            7 => self.plan(at, PlannedAction::Fee(fee, FeeAction::Dispute)),
            _ => {}
        }
    }

    /// Performs a planned action on a fee, if it is still possible.
    pub(super) fn perform_fee_action(&mut self, at: usize, action: FeeAction) {
        let Fee { charged, balance, deleted, .. } = self.storage.fees[at];
        let makes_sense = match action {
            FeeAction::Refund => balance < charged,
            _ => balance > 0,
        };
        if deleted || !makes_sense {
            return;
        }
        match action {
            FeeAction::Pay => self.set_balance(at, 0),
            FeeAction::PayPartially => self.set_balance(at, balance - balance * 3 / 5),
            FeeAction::Refund => return self.set_balance(at, charged),
            FeeAction::Waive => return self.set_balance(at, 0),
            FeeAction::Delete => return self.delete(at),
            FeeAction::Unlink => {
                self.storage.fees[at].loan = None;
                return self.emit_balance(at);
            }
            FeeAction::Dispute => return self.dispute(at),
        }
        self.close_loan_if_paid(at);
    }

    /// Claims that the item was returned, if the loan is open. The patron pays after the search, if at all.
    fn dispute(&mut self, fee: usize) {
        let Some(loan) = self.storage.fees[fee].loan else { return };
        if matches!(self.storage.loans[loan].state, LoanState::CheckedOut | LoanState::Lost) {
            self.claim_returned(loan);
        }
    }

    /// Pays the oldest open fee of the patron.
    pub(super) fn pay_oldest_fee(&mut self, person: usize) {
        if let Some(fee) = self.storage.people[person].fees.first().copied() {
            self.perform_fee_action(fee, FeeAction::Pay);
        }
    }

    /// Cancels most open fees for a lost item that is found.
    pub(super) fn cancel_lost_item_fees(&mut self, loan: usize) {
        for fee in self.storage.loans[loan].lost_item_fees.clone() {
            if self.storage.fees[fee].balance > 0 && self.random_bool(0.85) {
                self.set_balance(fee, 0);
            }
        }
    }

    /// Closes the loan of a lost item after the payment of its last fee.
    fn close_loan_if_paid(&mut self, fee: usize) {
        let Fee { kind, loan, .. } = self.storage.fees[fee];
        let Some(loan) = loan.filter(|_| kind.is_for_lost_item()) else { return };
        let lost = self.storage.loans[loan].state == LoanState::Lost;
        let mut fees = self.storage.loans[loan].lost_item_fees.iter();
        if lost && fees.all(|fee| self.storage.fees[*fee].balance == 0) {
            self.close_paid(loan);
        }
    }

    fn set_balance(&mut self, fee: usize, balance: i64) {
        self.storage.set_balance(fee, balance);
        self.emit_balance(fee);
    }

    fn emit_balance(&mut self, at: usize) {
        let Fee { id, person, kind, loan, balance, .. } = self.storage.fees[at];
        let charge = Charge {
            patron: self.storage.people[person].patron.id,
            fee_type: kind.type_id(),
            loan: loan.map(|loan| self.storage.loans[loan].id),
        };
        let balance = Decimal::new(balance, 2);
        self.emit(Fact::BalanceChanged { fee: id, balance, charge: Some(charge) });
    }

    /// Deletes the record; the event carries only the balance 0.
    fn delete(&mut self, at: usize) {
        self.storage.set_balance(at, 0);
        let fee = &mut self.storage.fees[at];
        fee.deleted = true;
        let fee = fee.id;
        self.emit(Fact::BalanceChanged { fee, balance: Decimal::ZERO, charge: None });
    }
}
