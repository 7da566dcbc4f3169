//! What happens in a library, as its staff would tell it. How that is written down for other
//! systems is the business of [`crate::wire`].

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::policy::GracePeriod;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// When. No two events of one play share a millisecond.
    pub at: DateTime<Utc>,
    /// Who did it: a member of staff, or the account under which nightly jobs run.
    pub staff: Uuid,
    /// What.
    pub fact: Fact,
}

/// The facts of an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// A patron took an item home.
    CheckedOut {
        /// The new loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// The item, which no event names but the loan record does.
        item: Uuid,
        /// When it is due back.
        due: DateTime<Utc>,
        /// The loan policy's grace period as the policy states it, possibly of duration 0.
        grace: Option<GracePeriod>,
    },
    /// The item came back and the loan was closed.
    CheckedIn {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// When the item came back; book drops are emptied later and backdated.
        returned: DateTime<Utc>,
    },
    /// The due date was set: by a renewal, a recall, by hand, or to what it was already.
    DueDateChanged {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// The due date after the change.
        due: DateTime<Utc>,
        /// Whether the due date now stands because of a recall.
        by_recall: bool,
    },
    /// One of the changes that say nothing but which loan they are about.
    StatusChanged {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// What became of it.
        change: StatusChange,
    },
    /// A fee/fine has a new balance; 0 closes it.
    BalanceChanged {
        /// The fee/fine.
        fee: Uuid,
        /// The balance from now on.
        balance: Decimal,
        /// Whose and what for. Nothing is said when the fee/fine was deleted.
        charge: Option<Charge>,
    },
    /// A loan was written into storage, and no desk was involved: storage alone tells of it.
    LoanCreatedInStorage {
        /// The new loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
        /// The item.
        item: Uuid,
        /// When it is due back.
        due: DateTime<Utc>,
    },
    /// The record of an open loan was deleted: storage alone tells of it.
    LoanDeleted {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        patron: Uuid,
    },
    /// The patron belongs to another group, or to none: the users module alone tells of it.
    PatronGroupChanged {
        /// The patron.
        patron: Uuid,
        /// The group from now on.
        group: Option<Uuid>,
    },
}

impl Fact {
    /// The loan that it is about, if it is about one.
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

/// Changes of a loan without further facts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatusChange {
    /// The patron reported the item lost.
    DeclaredLost,
    /// It was overdue for so long that the nightly job gave it up.
    AgedToLost,
    /// The patron says it was returned, the library can't find it.
    ClaimedReturned,
    /// Closed without a check-in: the lost item was paid.
    LoanClosed,
    /// Closed because what was claimed returned is missing: storage alone tells of it.
    DeclaredMissing,
}

/// Whose a fee/fine is, and what for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Charge {
    /// The patron who owes it.
    pub patron: Uuid,
    /// The fee/fine type.
    pub fee_type: Uuid,
    /// The loan it arose from.
    pub loan: Option<Uuid>,
}
