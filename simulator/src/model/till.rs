//! At the till: fees and fines are charged, paid, given back, waived, edited and deleted.

use chrono::TimeDelta;
use rand::Rng;
use rust_decimal::Decimal;
use uuid::{Uuid, uuid};

use super::event::{Charge, What};
use super::library::{Act, Library, new_id};
use super::people::share;
use super::shelf::{Fee, Whereabouts};

/// What a fee/fine is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeeKind {
    Overdue,
    Reminder,
    LostItem,
    LostItemProcessing,
    Damage,
    NewCard,
}

impl FeeKind {
    /// The fee/fine type, the same in every play.
    const fn type_id(self) -> Uuid {
        match self {
            Self::Overdue => uuid!("4ca9a07a-32e8-4465-8882-f8b047898600"),
            Self::Reminder => uuid!("77d056ee-035c-46a3-b7db-c2f8a096f4a6"),
            Self::LostItem => uuid!("fc474f59-163e-4d8f-91c5-e3a20425f605"),
            Self::LostItemProcessing => uuid!("c2e02ae1-4a42-46db-947b-85e25bf6fdfb"),
            Self::Damage => uuid!("da62815a-3994-4458-b7f9-708538ea0b7f"),
            Self::NewCard => uuid!("6b98200b-5f86-4a59-9df5-300e8db6f974"),
        }
    }

    fn is_for_lost_item(self) -> bool {
        matches!(self, Self::LostItem | Self::LostItemProcessing)
    }
}

/// What can be done about a fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Settlement {
    /// All of it.
    Pay,
    /// Some of it.
    PayPart,
    /// A payment is given back or cancelled: the balance is as charged.
    GiveBack,
    /// The library does without.
    Waive,
    /// As if it had never been.
    Delete,
    /// The record is edited and loses its loan.
    Unlink,
}

impl Library {
    /// Charges a fee that a loan gave rise to.
    pub(super) fn charge_for(&mut self, loan: usize, kind: FeeKind) {
        let person = self.shelf.loans[loan].person;
        let fee = self.charge(person, kind, Some(loan));
        if kind.is_for_lost_item() {
            self.shelf.loans[loan].lost_fees.push(fee);
        }
    }

    /// Charges something that has to do with no loan.
    pub(super) fn charge_something(&mut self, person: usize) {
        let kind = if self.chance(0.5) { FeeKind::Damage } else { FeeKind::NewCard };
        self.charge(person, kind, None);
    }

    fn charge(&mut self, person: usize, kind: FeeKind, loan: Option<usize>) -> usize {
        let charged = self.price(kind);
        let id = new_id(&mut self.ids);
        let fee = Fee { id, person, kind, loan, charged, balance: charged, deleted: false };
        let fee = self.shelf.charge(fee);
        self.tell_balance(fee);
        self.plan_settlement(fee);
        fee
    }

    /// An amount in cents.
    fn price(&mut self, kind: FeeKind) -> i64 {
        let cents = match kind {
            FeeKind::Overdue => self.story.random_range(2..=60) * 10,
            FeeKind::Reminder => 250,
            // One in some thousands is a treasure: a balance that doubles print with an exponent.
            FeeKind::LostItem if self.chance(0.000_4) => 1_250_000_000,
            FeeKind::LostItem => self.story.random_range(900..=9_500),
            FeeKind::LostItemProcessing => 500,
            FeeKind::Damage => self.story.random_range(150..=4_000),
            FeeKind::NewCard => 1_000,
        };
        cents.max(1)
    }

    /// Decides what becomes of a fee.
    fn plan_settlement(&mut self, fee: usize) {
        let Fee { person, loan, .. } = self.shelf.fees[fee];
        let days = self.story.random_range(0..=6);
        let at = self.at_the_desk_in(days);
        let later = at + TimeDelta::minutes(self.story.random_range(3..=150));
        let pays = (self.shelf.people[person].habits.thrift * 100.0) as u32;
        let unlinks = if loan.is_some() { 4 } else { 0 };
        match share(&mut self.story, &[pays, 9, 7, 3, 6, 3, unlinks, 100 - pays]) {
            0 => self.plan(at, Act::Fee(fee, Settlement::Pay)),
            1 => self.plan(at, Act::Fee(fee, Settlement::PayPart)),
            2 => {
                self.plan(at, Act::Fee(fee, Settlement::PayPart));
                self.plan(later, Act::Fee(fee, Settlement::GiveBack));
            }
            3 => {
                self.plan(at, Act::Fee(fee, Settlement::Pay));
                self.plan(later, Act::Fee(fee, Settlement::GiveBack));
            }
            4 => self.plan(at, Act::Fee(fee, Settlement::Waive)),
            5 => self.plan(at, Act::Fee(fee, Settlement::Delete)),
            6 => self.plan(at, Act::Fee(fee, Settlement::Unlink)),
            _ => {}
        }
    }

    /// Does what was planned for a fee, if it still makes sense.
    pub(super) fn settle(&mut self, at: usize, settlement: Settlement) {
        let Fee { charged, balance, deleted, .. } = self.shelf.fees[at];
        let makes_sense = match settlement {
            Settlement::GiveBack => balance < charged,
            _ => balance > 0,
        };
        if deleted || !makes_sense {
            return;
        }
        match settlement {
            Settlement::Pay => self.set_balance(at, 0),
            Settlement::PayPart => self.set_balance(at, balance - balance * 3 / 5),
            Settlement::GiveBack => return self.set_balance(at, charged),
            Settlement::Waive => return self.set_balance(at, 0),
            Settlement::Delete => return self.delete(at),
            Settlement::Unlink => {
                self.shelf.fees[at].loan = None;
                return self.tell_balance(at);
            }
        }
        self.close_loan_if_paid(at);
    }

    /// The patron pays the oldest open fee.
    pub(super) fn pay_something(&mut self, person: usize) {
        if let Some(fee) = self.shelf.people[person].fees.first().copied() {
            self.settle(fee, Settlement::Pay);
        }
    }

    /// A lost item is back: what is still owed for it is cancelled as a rule.
    pub(super) fn forgive_lost_item(&mut self, loan: usize) {
        for fee in self.shelf.loans[loan].lost_fees.clone() {
            if self.shelf.fees[fee].balance > 0 && self.chance(0.85) {
                self.set_balance(fee, 0);
            }
        }
    }

    /// Paying the last fee of a lost item closes its loan.
    fn close_loan_if_paid(&mut self, fee: usize) {
        let Fee { kind, loan, .. } = self.shelf.fees[fee];
        let Some(loan) = loan.filter(|_| kind.is_for_lost_item()) else { return };
        let lost = self.shelf.loans[loan].whereabouts == Whereabouts::Lost;
        let mut fees = self.shelf.loans[loan].lost_fees.iter();
        if lost && fees.all(|fee| self.shelf.fees[*fee].balance == 0) {
            self.close_paid(loan);
        }
    }

    fn set_balance(&mut self, fee: usize, balance: i64) {
        self.shelf.set_balance(fee, balance);
        self.tell_balance(fee);
    }

    fn tell_balance(&mut self, at: usize) {
        let Fee { id, person, kind, loan, balance, .. } = self.shelf.fees[at];
        let about = Charge {
            patron: self.shelf.people[person].patron.id,
            fee_type: kind.type_id(),
            loan: loan.map(|loan| self.shelf.loans[loan].id),
        };
        let balance = Decimal::new(balance, 2);
        self.tell(What::BalanceChanged { fee: id, balance, about: Some(about) });
    }

    /// The record is gone; all that is said is that nothing is owed any more.
    fn delete(&mut self, at: usize) {
        self.shelf.set_balance(at, 0);
        let fee = &mut self.shelf.fees[at];
        fee.deleted = true;
        let fee = fee.id;
        self.tell(What::BalanceChanged { fee, balance: Decimal::ZERO, about: None });
    }
}
