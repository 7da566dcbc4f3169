//! The kinds of event: eight that tell what happened at a desk, and two that tell what storage holds; their
//! names on the wire and their rank in a tie.

/// A kind of event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// An item went out to a patron.
    ItemCheckedOut,
    /// A loan's due date, or its recall flag, as it now is.
    LoanDueDateChanged,
    /// A background job gave the item up for lost.
    ItemAgedToLost,
    /// Somebody declared the item lost.
    ItemDeclaredLost,
    /// The patron claims to have returned the item.
    ItemClaimedReturned,
    /// An item came back.
    ItemCheckedIn,
    /// A loan was closed without a check-in.
    LoanClosed,
    /// A fee/fine's balance as it now is.
    FeeFineBalanceChanged,
    /// A loan as its storage holds it now, or holds no more.
    StoredLoan,
    /// A user as the users module holds them now, or holds no more.
    StoredUser,
}

impl Kind {
    /// All kinds, in the order in which they are numbered.
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

    /// The eight business events (docs/contract/events.md#7-events), in the order that decides ties
    /// in the same millisecond (docs/contract/events.md#64-clocks). They alone come over HTTP and
    /// through mod-pubsub.
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

    /// The last part of its topic's name: the event type's, or the entity's.
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

    /// The kind with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The producer's part of the topic name (docs/contract/events.md#21-names).
    pub fn producer(self) -> &'static str {
        match self {
            Self::FeeFineBalanceChanged => "feesfines",
            Self::StoredUser => "users",
            _ => "circulation",
        }
    }

    /// Where a business event is posted over HTTP (docs/contract/http-api.md#6-handlers).
    pub fn http_path(self) -> String {
        let name = self.name().to_ascii_lowercase().replace('_', "-");
        format!("/automated-patron-blocks/handlers/{name}")
    }

    /// The place in a tie: the greater rank is taken for the later event. What storage holds is a snapshot,
    /// and comes before every business event.
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

    /// Where the gateway routes them, and mod-pubsub was told to deliver.
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
