//! The actions of the agenda, on loans and on fees/fines.

use uuid::{Uuid, uuid};

/// An action of the agenda; the library performs it if it is still possible.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum PlannedAction {
    /// Plans the visits, recalls, holds and charges of the new day.
    DayBegins,
    /// Charges overdue reminders and ages loans to lost.
    NightlyJobs,
    /// Checks out one item to the patron with this index.
    CheckOut(usize),
    /// Checks in one item of the patron with this index.
    ReturnItem(usize),
    /// Pays a fee of the patron with this index.
    Pay(usize),
    /// Charges the patron with this index a fee without a loan.
    Charge(usize),
    /// Recalls a random item on loan.
    Recall,
    /// Places a hold on a random item on loan; the due date is unchanged.
    Hold,
    /// Sets another due date by staff.
    Reschedule,
    /// Edits a record in storage.
    Edit,
    /// Performs the action on the loan with this index, if the plan number is the loan's newest.
    Loan(usize, LoanAction, u32),
    /// Performs the action on the fee with this index.
    Fee(usize, FeeAction),
}

/// The actions on a loan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum LoanAction {
    /// The item is checked in.
    CheckIn,
    /// The loan is renewed; staff can also renew the loan of a lost item.
    Renew,
    /// The patron claims that the item was returned.
    ClaimReturned,
    /// The patron declares the item lost.
    DeclareLost,
}

/// The reason of a fee/fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FeeKind {
    Overdue,
    Reminder,
    LostItem,
    LostItemProcessing,
    Search,
    Damage,
    NewCard,
}

impl FeeKind {
    /// Returns the fee/fine type, the same in every play.
    pub(super) const fn type_id(self) -> Uuid {
        match self {
            Self::Overdue => uuid!("4ca9a07a-32e8-4465-8882-f8b047898600"),
            Self::Reminder => uuid!("77d056ee-035c-46a3-b7db-c2f8a096f4a6"),
            Self::LostItem => uuid!("fc474f59-163e-4d8f-91c5-e3a20425f605"),
            Self::LostItemProcessing => uuid!("c2e02ae1-4a42-46db-947b-85e25bf6fdfb"),
            Self::Search => uuid!("0d5a1f0e-6b52-4c0b-9f5e-5a3d7a7f2c19"),
            Self::Damage => uuid!("da62815a-3994-4458-b7f9-708538ea0b7f"),
            Self::NewCard => uuid!("6b98200b-5f86-4a59-9df5-300e8db6f974"),
        }
    }

    pub(super) fn is_for_lost_item(self) -> bool {
        matches!(self, Self::LostItem | Self::LostItemProcessing)
    }
}

/// The actions on a fee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FeeAction {
    /// Pays the balance.
    Pay,
    /// Pays a part of the balance.
    PayPartially,
    /// Refunds or cancels a payment: the balance is as charged.
    Refund,
    /// Waives the balance.
    Waive,
    /// Deletes the record.
    Delete,
    /// Edits the record, which loses its loan.
    Unlink,
    /// Claims that the item of the loan was returned.
    Dispute,
}
