//! The kinds of event: eight business events and two storage events, with their wire names and their rank
//! in a tie.

/// One of eight business events or two storage events; the order of the business events is their rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A check-out of an item to a patron.
    ItemCheckedOut,
    /// The current due date or recall flag of a loan.
    LoanDueDateChanged,
    /// A loss found by a background job.
    ItemAgedToLost,
    /// A loss declared by a person.
    ItemDeclaredLost,
    /// A patron's claim to have returned the item.
    ItemClaimedReturned,
    /// A check-in of an item.
    ItemCheckedIn,
    /// A loan that was closed without a check-in.
    LoanClosed,
    /// The current balance of a fee/fine.
    FeeFineBalanceChanged,
    /// The current state of a loan in loan storage, or its deletion.
    StoredLoan,
    /// The current state of a user in mod-users, or its deletion.
    StoredUser,
}

impl Kind {
    /// All kinds, in the order of their numbers.
    pub const ALL: [Self; 10] = [
        Self::ItemCheckedOut,
        Self::LoanDueDateChanged,
        Self::ItemAgedToLost,
        Self::ItemDeclaredLost,
        Self::ItemClaimedReturned,
        Self::ItemCheckedIn,
        Self::LoanClosed,
        Self::FeeFineBalanceChanged,
        Self::StoredLoan,
        Self::StoredUser,
    ];

    /// The eight business events (docs/contract/events.md#7-events), in the order that decides ties in one
    /// millisecond (docs/contract/events.md#64-clocks). Only business events arrive over HTTP and through
    /// mod-pubsub.
    pub const BUSINESS: [Self; 8] = [
        Self::ItemCheckedOut,
        Self::LoanDueDateChanged,
        Self::ItemAgedToLost,
        Self::ItemDeclaredLost,
        Self::ItemClaimedReturned,
        Self::ItemCheckedIn,
        Self::LoanClosed,
        Self::FeeFineBalanceChanged,
    ];

    /// Returns the last part of the topic name: the event type or the entity.
    pub fn name(self) -> &'static str {
        match self {
            Self::ItemCheckedOut => "ITEM_CHECKED_OUT",
            Self::LoanDueDateChanged => "LOAN_DUE_DATE_CHANGED",
            Self::ItemAgedToLost => "ITEM_AGED_TO_LOST",
            Self::ItemDeclaredLost => "ITEM_DECLARED_LOST",
            Self::ItemClaimedReturned => "ITEM_CLAIMED_RETURNED",
            Self::ItemCheckedIn => "ITEM_CHECKED_IN",
            Self::LoanClosed => "LOAN_CLOSED",
            Self::FeeFineBalanceChanged => "FEE_FINE_BALANCE_CHANGED",
            Self::StoredLoan => "loan",
            Self::StoredUser => "users",
        }
    }

    /// Returns the kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// Returns the producer's part of the topic name (docs/contract/events.md#21-names).
    pub fn producer(self) -> &'static str {
        match self {
            Self::FeeFineBalanceChanged => "feesfines",
            Self::StoredUser => "users",
            _ => "circulation",
        }
    }

    /// Returns the HTTP path of a business event (docs/contract/http-api.md#6-handlers).
    pub fn http_path(self) -> String {
        let name = self.name().to_ascii_lowercase().replace('_', "-");
        format!("/automated-patron-blocks/handlers/{name}")
    }

    /// Returns the rank in a tie; the greater rank counts as the later event. A storage event is a snapshot
    /// and ranks below every business event.
    pub(super) fn rank(self) -> u8 {
        match self {
            Self::StoredLoan | Self::StoredUser => 0,
            business => business as u8 + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paths of the gateway's routes and of the subscriptions in mod-pubsub.
    #[test]
    fn each_kind_has_its_own_http_path() {
        let paths = [
            "item-checked-out",
            "loan-due-date-changed",
            "item-aged-to-lost",
            "item-declared-lost",
            "item-claimed-returned",
            "item-checked-in",
            "loan-closed",
            "fee-fine-balance-changed",
        ];
        let paths = paths.map(|path| format!("/automated-patron-blocks/handlers/{path}"));
        assert_eq!(Kind::BUSINESS.map(Kind::http_path), paths);
    }
}
