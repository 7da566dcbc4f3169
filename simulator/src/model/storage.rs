//! The library's own books about what is on loan and what is owed. [`super::Truth`] keeps another,
//! independent set from the events alone; a test compares the two.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::payments::FeeKind;
use super::people::{Habits, Patron};
use super::policy::LoanPolicy;

/// A patron with what is in their name.
#[derive(Debug)]
pub(super) struct Person {
    pub(super) patron: Patron,
    pub(super) habits: Habits,
    /// Open loans, as places in [`Shelf::loans`].
    pub(super) loans: Vec<usize>,
    /// Open fees, as places in [`Shelf::fees`].
    pub(super) fees: Vec<usize>,
}

/// Where a lent item is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LoanState {
    CheckedOut,
    Lost,
    ClaimedReturned,
    /// The loan is closed.
    Closed,
}

/// A loan as the staff know it.
#[derive(Debug)]
pub(super) struct Loan {
    pub(super) id: Uuid,
    pub(super) person: usize,
    pub(super) policy: LoanPolicy,
    pub(super) due: DateTime<Utc>,
    pub(super) recalled: bool,
    pub(super) state: LoanState,
    pub(super) renewals: u8,
    /// The overdue reminder has been charged.
    pub(super) reminder_charged: bool,
    /// Fees for the lost item, open or not.
    pub(super) lost_item_fees: Vec<usize>,
    /// Only the newest plan for a loan is carried out.
    pub(super) plan: u32,
}

/// A fee/fine as the staff know it; amounts in cents.
#[derive(Debug)]
pub(super) struct Fee {
    pub(super) id: Uuid,
    pub(super) person: usize,
    pub(super) kind: FeeKind,
    pub(super) loan: Option<usize>,
    pub(super) charged: i64,
    pub(super) balance: i64,
    /// Deleted fees take no more payments.
    pub(super) deleted: bool,
}

/// All patrons, loans and fees of the library.
#[derive(Debug, Default)]
pub(super) struct Storage {
    pub(super) people: Vec<Person>,
    pub(super) loans: Vec<Loan>,
    pub(super) fees: Vec<Fee>,
    /// Places of the open loans in [`Shelf::loans`], in no order.
    pub(super) open_loans: Vec<usize>,
    /// For each loan its place in `out` while it is open.
    open_index: Vec<usize>,
}

impl Storage {
    /// Notes a new loan and returns its place.
    pub(super) fn add_loan(&mut self, loan: Loan) -> usize {
        let at = self.loans.len();
        self.people[loan.person].loans.push(at);
        self.loans.push(loan);
        self.open_index.push(self.open_loans.len());
        self.open_loans.push(at);
        at
    }

    /// Notes that a loan is closed.
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

    /// Whether the loan is open.
    pub(super) fn is_open(&self, at: usize) -> bool {
        self.loans[at].state != LoanState::Closed
    }

    /// Notes a new fee and returns its place.
    pub(super) fn add_fee(&mut self, fee: Fee) -> usize {
        let at = self.fees.len();
        self.people[fee.person].fees.push(at);
        self.fees.push(fee);
        at
    }

    /// Notes a new balance and keeps the list of the patron's open fees.
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
