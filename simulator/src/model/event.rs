//! The events of a library in terms of its staff. The module [`crate::wire`] writes them as records.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::policy::GracePeriod;

/// An event in the library.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// The time; no two events of one play share a millisecond.
    pub at: DateTime<Utc>,
    /// The user who caused the event: a member of staff, or the account of the nightly jobs.
    pub staff: Uuid,
    /// The content.
    pub fact: Fact,
}

/// The content of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A patron checked out an item.
    CheckedOut {
        /// The new loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// The item; only the loan record names it.
        item: Uuid,
        /// The due date.
        due: DateTime<Utc>,
        /// The grace period of the loan policy, possibly of duration 0.
        grace: Option<GracePeriod>,
    },
    /// The item was checked in and the loan was closed.
    CheckedIn {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// The return time; staff empty book drops later and backdate the return.
        returned: DateTime<Utc>,
    },
    /// The due date was set: by a renewal, a recall, by staff, or to the same value.
    DueDateChanged {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// The due date after the change.
        due: DateTime<Utc>,
        /// Whether a recall set the due date.
        by_recall: bool,
    },
    /// A change that carries only the loan and the borrower.
    StatusChanged {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// The change.
        change: StatusChange,
    },
    /// A fee/fine has a new balance; 0 closes it.
    BalanceChanged {
        /// The fee/fine.
        fee: Uuid,
        /// The new balance.
        balance: Decimal,
        /// The debtor and the reason; absent if the fee/fine was deleted.
        charge: Option<Charge>,
    },
    /// A loan was created directly in storage; only storage publishes it.
    LoanCreatedInStorage {
        /// The new loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// The item.
        item: Uuid,
        /// The due date.
        due: DateTime<Utc>,
    },
    /// The record of an open loan was deleted; only storage publishes it.
    LoanDeleted {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
    },
    /// The patron moved to another group, or to none; only the users module publishes it.
    PatronGroupChanged {
        /// The patron.
        patron: Uuid,
        /// The new group.
        group: Option<Uuid>,
    },
}

impl Fact {
    /// Returns the loan of the event, if it has one.
    pub fn loan(&self) -> Option<Uuid> {
        match self {
            Self::CheckedOut { loan, .. }
            | Self::CheckedIn { loan, .. }
            | Self::DueDateChanged { loan, .. }
            | Self::StatusChanged { loan, .. }
            | Self::LoanCreatedInStorage { loan, .. }
            | Self::LoanDeleted { loan, .. } => Some(*loan),
            Self::BalanceChanged { .. } | Self::PatronGroupChanged { .. } => None,
        }
    }
}

/// A transaction at the desk that a person requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction {
    /// The check-in of the item of this loan.
    CheckIn(Uuid),
    /// The payment of the whole balance of this fee/fine.
    Pay(Uuid),
}

/// The changes of a loan without further content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusChange {
    /// The patron declared the item lost.
    DeclaredLost,
    /// The nightly job aged the long overdue item to lost.
    AgedToLost,
    /// The patron claims that the item was returned; the library cannot find it.
    ClaimedReturned,
    /// The loan was closed without a check-in, because the lost item was paid.
    LoanClosed,
    /// The loan was closed because the item claimed returned is missing; only storage publishes it.
    DeclaredMissing,
}

/// The debtor and the reason of a fee/fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The debtor.
    pub patron: Uuid,
    /// The fee/fine type.
    pub fee_type: Uuid,
    /// The loan of the fee/fine.
    pub loan: Option<Uuid>,
}
