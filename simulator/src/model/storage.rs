//! The staff's records of loans and fees. [`super::Truth`] derives the same state from events alone; a test
//! compares the two.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::actions::FeeKind;
use super::people::{Habits, Patron};
use super::policy::LoanPolicy;

/// A patron with open loans and fees.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) patron: Patron,
    pub(super) habits: Habits,
    /// The open loans, as indexes into [`Storage::loans`].
    pub(super) loans: Vec<usize>,
    /// The open fees, as indexes into [`Storage::fees`].
    pub(super) fees: Vec<usize>,
}

/// The state of a lent item.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoanState {
    CheckedOut,
    Lost,
    ClaimedReturned,
    /// The loan is closed.
    Closed,
}

/// A loan in the staff's records.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) id: Uuid,
    pub(super) person: usize,
    pub(super) policy: LoanPolicy,
    pub(super) due: DateTime<Utc>,
    pub(super) recalled: bool,
    pub(super) state: LoanState,
    pub(super) renewals: u8,
    /// Whether the overdue reminder was charged.
    pub(super) reminder_charged: bool,
    /// The fees for the lost item, open or closed.
    pub(super) lost_item_fees: Vec<usize>,
    /// The number of the newest plan; the library skips actions of earlier plans.
    pub(super) plan: u32,
}

/// A fee/fine in the staff's records; amounts are in cents.
#[derive(Debug)]
pub(super) struct Fee {
    pub(super) id: Uuid,
    pub(super) person: usize,
    pub(super) kind: FeeKind,
    pub(super) loan: Option<usize>,
    pub(super) charged: i64,
    pub(super) balance: i64,
    /// Whether the fee was deleted; a deleted fee accepts no payment.
    pub(super) deleted: bool,
}

/// All patrons, loans and fees of the library.
#[derive(Debug, Default)]
pub(super) struct Storage {
    pub(super) people: Vec<Person>,
    pub(super) loans: Vec<Loan>,
    pub(super) fees: Vec<Fee>,
    /// The open loans, as indexes into [`Storage::loans`], in no order.
    pub(super) open_loans: Vec<usize>,
    /// For each open loan, its index in `open_loans`.
    open_index: Vec<usize>,
}

impl Storage {
    /// Adds a loan and returns its index.
    pub(super) fn add_loan(&mut self, loan: Loan) -> usize {
        let at = self.loans.len();
        self.people[loan.person].loans.push(at);
        self.loans.push(loan);
        self.open_index.push(self.open_loans.len());
        self.open_loans.push(at);
        at
    }

    /// Closes a loan.
    pub(super) fn close_loan(&mut self, at: usize) {
        let loan = &mut self.loans[at];
        loan.state = LoanState::Closed;
        self.people[loan.person].loans.retain(|open| *open != at);
        let index = self.open_index[at];
        self.open_loans.swap_remove(index);
        if let Some(moved) = self.open_loans.get(index) {
            self.open_index[*moved] = index;
        }
    }

    /// Returns true if the loan is open.
    pub(super) fn is_open(&self, at: usize) -> bool {
        self.loans[at].state != LoanState::Closed
    }

    /// Returns the index of the open loan with this id.
    pub(super) fn find_open_loan(&self, id: Uuid) -> Option<usize> {
        self.open_loans.iter().copied().find(|at| self.loans[*at].id == id)
    }

    /// Returns the index of the fee with this id.
    pub(super) fn find_fee(&self, id: Uuid) -> Option<usize> {
        self.fees.iter().position(|fee| fee.id == id)
    }

    /// Adds a fee and returns its index.
    pub(super) fn add_fee(&mut self, fee: Fee) -> usize {
        let at = self.fees.len();
        self.people[fee.person].fees.push(at);
        self.fees.push(fee);
        at
    }

    /// Sets a balance and updates the list of the patron's open fees.
    pub(super) fn set_balance(&mut self, at: usize, balance: i64) {
        let fee = &mut self.fees[at];
        let open = &mut self.people[fee.person].fees;
        match (fee.balance == 0, balance == 0) {
            (false, true) => open.retain(|other| *other != at),
            (true, false) => open.push(at),
            _ => {}
        }
        fee.balance = balance;
    }
}
