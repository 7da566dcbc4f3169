//! The library's rules: the flags and the message of each condition, and the limits of each patron group.

use uuid::Uuid;

use crate::blocks::condition::{
    FEE_FINE_BALANCE, ITEMS_CHARGED_OUT, LOST_ITEMS, OVERDUE_ITEMS, OVERDUE_RECALLS,
    RECALL_OVERDUE_DAYS,
};
use crate::blocks::{Condition, Limit, Rules};
use crate::model::GROUPS;

/// The flags, the message and the limits of one condition.
struct Regulation {
    condition: Uuid,
    name: &'static str,
    value_type: &'static str,
    /// The blocked actions: borrowing, renewals, requests.
    blocks: [bool; 3],
    /// Some messages have placeholders (docs/contract/insight.md#4-placeholders).
    message: &'static str,
    /// One limit per patron group, in the order of `GROUPS`.
    limits: [&'static str; 5],
}

const REGULATIONS: [Regulation; 6] = [
    Regulation {
        condition: ITEMS_CHARGED_OUT,
        name: "Maximum number of items charged out",
        value_type: "Integer",
        blocks: [true, false, true],
        message: "You have {measured} items, and {limit} are allowed. Items to return first: {toReturn}.",
        limits: ["10", "15", "25", "12", "4"],
    },
    Regulation {
        condition: LOST_ITEMS,
        name: "Maximum number of lost items",
        value_type: "Integer",
        blocks: [true, true, true],
        message: "Too many of your items are lost. Please contact the staff at the desk.",
        limits: ["1", "1", "2", "1", "0"],
    },
    Regulation {
        condition: OVERDUE_ITEMS,
        name: "Maximum number of overdue items",
        value_type: "Integer",
        blocks: [true, false, true],
        message: "Overdue items: {overdue}. Please bring back or renew {toReturn} of them.",
        limits: ["1", "2", "3", "1", "0"],
    },
    Regulation {
        condition: OVERDUE_RECALLS,
        name: "Maximum number of overdue recalls",
        value_type: "Integer",
        blocks: [true, true, true],
        message: "Other patrons wait for items that you have not returned.",
        limits: ["0", "0", "1", "0", "0"],
    },
    Regulation {
        condition: RECALL_OVERDUE_DAYS,
        name: "Recall overdue by maximum number of days",
        value_type: "Integer",
        blocks: [true, true, true],
        message: "Another patron has waited for {measured} days. Items to return: {toReturn}.",
        limits: ["7", "7", "14", "7", "3"],
    },
    Regulation {
        condition: FEE_FINE_BALANCE,
        name: "Maximum outstanding fee/fine balance",
        value_type: "Double",
        blocks: [true, false, true],
        message: "You owe {measured}, and the limit is {limit}. Please pay {toSettle} at the desk or online.",
        limits: ["30", "40", "100", "40", "10.5"],
    },
];

/// Returns the library's conditions and limits, the limits in the order of their creation.
pub fn rules() -> Rules {
    let conditions = REGULATIONS.iter().map(|regulation| Condition {
        id: regulation.condition,
        name: regulation.name.to_owned(),
        block_borrowing: regulation.blocks[0],
        block_renewals: regulation.blocks[1],
        block_requests: regulation.blocks[2],
        value_type: regulation.value_type.to_owned(),
        message: regulation.message.to_owned(),
    });
    let limits = GROUPS.iter().enumerate().flat_map(|(at, group)| {
        REGULATIONS.iter().map(move |regulation| Limit {
            id: limit_id(group.id, regulation.condition),
            patron_group_id: group.id.to_string(),
            condition_id: regulation.condition,
            value: Some(regulation.limits[at].parse().expect("the limits above are numbers")),
        })
    });
    Rules { conditions: conditions.collect(), limits: limits.collect() }
}

/// Returns the id of a limit. The same limit has the same id in every play, so a second setup updates the
/// limit. The id has the form of version 4, like the ids that clients create.
fn limit_id(group: Uuid, condition: Uuid) -> Uuid {
    let mixed = group.as_u128() ^ condition.as_u128().rotate_left(61);
    uuid::Builder::from_random_bytes(mixed.to_be_bytes()).into_uuid()
}
