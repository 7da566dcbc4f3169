//! Facts: the contents of events.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::{Grace, Kind};

/// The content of an event about a loan, a fee/fine or a patron, in the terms of
/// docs/contract/events.md#7-events and docs/contract/events.md#8-storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// `ITEM_CHECKED_OUT`: a new loan.
    CheckedOut {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// The due date at check-out.
        due_date: DateTime<Utc>,
        /// The grace period of the loan policy; `None` if it is missing or invalid
        /// (docs/contract/events.md#71-item_checked_out).
        grace: Option<Grace>,
    },
    /// `ITEM_CHECKED_IN`: the loan is closed.
    CheckedIn {
        /// The loan.
        loan: Uuid,
        /// The borrower, if the event names one.
        user: Option<Uuid>,
    },
    /// `LOAN_CLOSED`: the loan is closed without a check-in.
    LoanClosed {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
    },
    /// `ITEM_DECLARED_LOST` or `ITEM_AGED_TO_LOST`; they have the same effect on a patron.
    Lost {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// `true` if a background job found the loss, `false` if a person declared it.
        by_age: bool,
    },
    /// `ITEM_CLAIMED_RETURNED`: the patron claims to have returned the item.
    ClaimedReturned {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
    },
    /// `LOAN_DUE_DATE_CHANGED`: the due date after a renewal, a recall or an edit; it may be unchanged.
    DueDateChanged {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// The new due date.
        due_date: DateTime<Utc>,
        /// The loan's recall flag after the change.
        by_recall: bool,
    },
    /// `FEE_FINE_BALANCE_CHANGED`: the new absolute balance; zero closes the fee/fine.
    BalanceChanged {
        /// The fee/fine (account).
        fee_fine: Uuid,
        /// The patron who owes the fee/fine; `None` if the account was deleted.
        user: Option<Uuid>,
        /// The fee/fine type.
        fee_fine_type: Option<Uuid>,
        /// The loan of the fee/fine as of this event; `None` means no loan.
        loan: Option<Uuid>,
        /// The remaining amount, without trailing zeros.
        balance: Decimal,
    },
    /// `circulation.loan`: an open loan as loan storage contains it.
    LoanSnapshot {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// The due date.
        due_date: DateTime<Utc>,
        /// Whether a recall set the due date.
        by_recall: bool,
        /// Whether the item is lost; `None` if the item status is invalid.
        lost: Option<bool>,
        /// Whether the patron claims to have returned the item; `None` if the item status is invalid.
        claimed_returned: Option<bool>,
    },
    /// `circulation.loan`: a closed or deleted loan, possibly without a user.
    LoanSnapshotClosed {
        /// The loan.
        loan: Uuid,
    },
    /// `circulation.loan`, `ALL_DELETED`: loan storage contains no loan of the tenant.
    AllLoansDeleted,
    /// `users.users`: the patron group of a user; `None` for a user without a group or a deleted user.
    PatronGroupChanged {
        /// The patron.
        user: Uuid,
        /// The group's id as text; the service only compares it.
        group: Option<String>,
    },
}

impl Fact {
    /// Returns the kind of event with this fact.
    pub fn kind(&self) -> Kind {
        match self {
            Self::CheckedOut { .. } => Kind::ItemCheckedOut,
            Self::CheckedIn { .. } => Kind::ItemCheckedIn,
            Self::LoanClosed { .. } => Kind::LoanClosed,
            Self::Lost { by_age: false, .. } => Kind::ItemDeclaredLost,
            Self::Lost { by_age: true, .. } => Kind::ItemAgedToLost,
            Self::ClaimedReturned { .. } => Kind::ItemClaimedReturned,
            Self::DueDateChanged { .. } => Kind::LoanDueDateChanged,
            Self::BalanceChanged { .. } => Kind::FeeFineBalanceChanged,
            Self::LoanSnapshot { .. } | Self::LoanSnapshotClosed { .. } | Self::AllLoansDeleted => {
                Kind::StoredLoan
            }
            Self::PatronGroupChanged { .. } => Kind::StoredUser,
        }
    }

    /// Returns the loan, fee/fine or patron of the fact; `None` if the fact concerns all loans of the
    /// tenant.
    pub fn subject(&self) -> Option<Uuid> {
        Some(match self {
            Self::CheckedOut { loan, .. }
            | Self::CheckedIn { loan, .. }
            | Self::LoanClosed { loan, .. }
            | Self::Lost { loan, .. }
            | Self::ClaimedReturned { loan, .. }
            | Self::DueDateChanged { loan, .. }
            | Self::LoanSnapshot { loan, .. }
            | Self::LoanSnapshotClosed { loan } => *loan,
            Self::BalanceChanged { fee_fine, .. } => *fee_fine,
            Self::PatronGroupChanged { user, .. } => *user,
            Self::AllLoansDeleted => return None,
        })
    }

    /// Returns the patron that the fact names, if any.
    pub fn user(&self) -> Option<Uuid> {
        match self {
            Self::CheckedOut { user, .. }
            | Self::LoanClosed { user, .. }
            | Self::Lost { user, .. }
            | Self::ClaimedReturned { user, .. }
            | Self::DueDateChanged { user, .. }
            | Self::LoanSnapshot { user, .. }
            | Self::PatronGroupChanged { user, .. } => Some(*user),
            Self::CheckedIn { user, .. } | Self::BalanceChanged { user, .. } => *user,
            Self::LoanSnapshotClosed { .. } | Self::AllLoansDeleted => None,
        }
    }
}
