//! The six conditions of limits, and the actions that each condition may block.

use uuid::{Uuid, uuid};

/// The quantity that a condition limits (docs/contract/evaluation.md#3-conditions).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Measure {
    /// Items charged out and not claimed returned.
    ChargedOut,
    /// Lost items.
    LostItems,
    /// Overdue items.
    OverdueItems,
    /// Recalled overdue items.
    OverdueRecalls,
    /// Days overdue of the recalled item that is overdue longest.
    RecallOverdueDays,
    /// Sum of the open fee/fine balances.
    FeeFineBalance,
}

impl Measure {
    /// All six measures, in the order of the seeded conditions.
    pub const ALL: [Self; 6] = [
        Self::ChargedOut,
        Self::LostItems,
        Self::OverdueItems,
        Self::OverdueRecalls,
        Self::FeeFineBalance,
        Self::RecallOverdueDays,
    ];

    /// Returns the fixed id of the condition; the id alone determines the measure
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

    /// Returns the measure of the condition with this id; `None` for any other id.
    pub fn from_condition_id(id: Uuid) -> Option<Self> {
        Self::ALL.into_iter().find(|measure| measure.condition_id() == id)
    }

    /// Returns the seeded name of the condition.
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

    /// Returns the name in explanations (docs/contract/insight.md#2-explanations).
    pub const fn code(self) -> &'static str {
        match self {
            Self::ChargedOut => "charged-out",
            Self::LostItems => "lost",
            Self::OverdueItems => "overdue",
            Self::OverdueRecalls => "overdue-recalls",
            Self::RecallOverdueDays => "recall-overdue-days",
            Self::FeeFineBalance => "balance",
        }
    }

    /// Returns the seeded value type of the condition's limits.
    pub const fn value_type(self) -> &'static str {
        match self {
            Self::FeeFineBalance => "Double",
            _ => "Integer",
        }
    }
}

/// One of the three actions at a desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A check-out.
    Borrowing,
    /// A renewal.
    Renewals,
    /// A request.
    Requests,
}

impl Action {
    /// All actions, in the order of responses.
    pub const ALL: [Self; 3] = [Self::Borrowing, Self::Renewals, Self::Requests];

    /// Returns the name in explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Borrowing => "borrowing",
            Self::Renewals => "renewals",
            Self::Requests => "requests",
        }
    }
}

/// A set of the three actions at a desk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Actions {
    /// Check-outs.
    pub borrowing: bool,
    /// Renewals.
    pub renewals: bool,
    /// Requests.
    pub requests: bool,
}

impl Actions {
    /// No action.
    pub const NONE: Self = Self { borrowing: false, renewals: false, requests: false };
    /// All three actions.
    pub const ALL: Self = Self { borrowing: true, renewals: true, requests: true };

    /// Returns the actions in each of the two sets.
    pub fn intersection(self, other: Self) -> Self {
        Self {
            borrowing: self.borrowing && other.borrowing,
            renewals: self.renewals && other.renewals,
            requests: self.requests && other.requests,
        }
    }

    /// Returns the actions in one of the two sets.
    pub fn union(self, other: Self) -> Self {
        Self {
            borrowing: self.borrowing || other.borrowing,
            renewals: self.renewals || other.renewals,
            requests: self.requests || other.requests,
        }
    }

    /// Returns the actions of this set that `other` lacks.
    pub fn difference(self, other: Self) -> Self {
        Self {
            borrowing: self.borrowing && !other.borrowing,
            renewals: self.renewals && !other.renewals,
            requests: self.requests && !other.requests,
        }
    }

    /// Returns whether the set has the action.
    pub fn contains(self, action: Action) -> bool {
        match action {
            Action::Borrowing => self.borrowing,
            Action::Renewals => self.renewals,
            Action::Requests => self.requests,
        }
    }

    /// Returns the actions of the set.
    pub fn iter(self) -> impl Iterator<Item = Action> {
        Action::ALL.into_iter().filter(move |action| self.contains(*action))
    }

    /// Returns whether the set is empty.
    pub fn is_empty(self) -> bool {
        self == Self::NONE
    }
}

/// A condition with the library's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// The fixed id.
    pub id: Uuid,
    /// The actions that a reached limit blocks; a missing flag counts as false.
    pub blocks: Actions,
    /// The message for the user at the desk; may be empty.
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_of_actions_are_combined_per_action() {
        for action in Action::ALL {
            let is = |other| action == other;
            let one = Actions {
                borrowing: is(Action::Borrowing),
                renewals: is(Action::Renewals),
                requests: is(Action::Requests),
            };
            assert_eq!(one.iter().collect::<Vec<_>>(), [action]);
            assert_eq!(Actions::ALL.difference(one).union(one), Actions::ALL);
            assert_eq!(Actions::ALL.difference(one).intersection(one), Actions::NONE);
            assert_eq!(Actions::ALL.difference(one).iter().count(), 2);
            assert_eq!(one.difference(one), Actions::NONE);
            assert_eq!(Actions::NONE.difference(one), Actions::NONE);
            assert_eq!(one.difference(Actions::NONE), one);
        }
    }
}
