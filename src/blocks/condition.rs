//! The six conditions a library can set limits for, and what each of them may block.

use uuid::{Uuid, uuid};

/// What a condition counts (docs/contract/evaluation.md#3-conditions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Items charged out, not claimed returned.
    ChargedOut,
    /// Lost items.
    LostItems,
    /// Overdue items.
    OverdueItems,
    /// Overdue items that were recalled.
    OverdueRecalls,
    /// Days by which a recalled item is overdue, the worst.
    RecallOverdueDays,
    /// Sum of open fee/fine balances.
    FeeFineBalance,
}

impl Measure {
    /// All six, in the order in which they are seeded.
    pub const ALL: [Self; 6] = [
        Self::ChargedOut,
        Self::LostItems,
        Self::OverdueItems,
        Self::OverdueRecalls,
        Self::FeeFineBalance,
        Self::RecallOverdueDays,
    ];

    /// The fixed id of its condition, which alone decides what is counted
    /// (docs/contract/http-api.md#4-conditions).
    pub const fn condition_id(self) -> Uuid {
        match self {
            Self::ChargedOut => uuid!("3d7c52dc-c732-4223-8bf8-e5917801386f"),
            Self::LostItems => uuid!("72b67965-5b73-4840-bc0b-be8f3f6e047e"),
            Self::OverdueItems => uuid!("584fbd4f-6a34-4730-a6ca-73a6a6a9d845"),
            Self::OverdueRecalls => uuid!("e5b45031-a202-4abb-917b-e1df9346fe2c"),
            Self::FeeFineBalance => uuid!("cf7a0d5f-a327-4ca1-aa9e-dc55ec006b8a"),
            Self::RecallOverdueDays => uuid!("08530ac4-07f2-48e6-9dda-a97bc2bf7053"),
        }
    }

    /// What the condition with this id counts; `None` for any other id.
    pub fn from_condition_id(id: Uuid) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.condition_id() == id)
    }

    /// The condition's name as seeded.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChargedOut => "Maximum number of items charged out",
            Self::LostItems => "Maximum number of lost items",
            Self::OverdueItems => "Maximum number of overdue items",
            Self::OverdueRecalls => "Maximum number of overdue recalls",
            Self::FeeFineBalance => "Maximum outstanding fee/fine balance",
            Self::RecallOverdueDays => "Recall overdue by maximum number of days",
        }
    }

    /// The type of its limits' values as seeded.
    pub const fn value_type(self) -> &'static str {
        match self {
            Self::FeeFineBalance => "Double",
            _ => "Integer",
        }
    }
}

/// The three actions at a desk, as a set.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions {
    /// Checking out.
    pub borrowing: bool,
    /// Renewing.
    pub renewals: bool,
    /// Requesting.
    pub requests: bool,
}

impl Actions {
    /// None of them.
    pub const NONE: Self = Self { borrowing: false, renewals: false, requests: false };
    /// All of them.
    pub const ALL: Self = Self { borrowing: true, renewals: true, requests: true };

    /// Those in both sets.
    pub fn intersection(self, other: Self) -> Self {
        Self {
            borrowing: self.borrowing && other.borrowing,
            renewals: self.renewals && other.renewals,
            requests: self.requests && other.requests,
        }
    }

    /// Whether there is none.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }
}

/// A condition as the library has set it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Its fixed id.
    pub id: Uuid,
    /// The actions that it blocks when a limit is reached; a missing flag is false.
    pub blocks: Actions,
    /// What the desk is shown; may be empty.
    pub message: String,
}
