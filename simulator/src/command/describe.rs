//! Describes blocks and events for a reader without knowledge of FOLIO.

use rust_decimal::Decimal;
use uuid::Uuid;

use crate::blocks::{Block, Finding, condition};
use crate::model::{Event, Fact, StatusChange, Truth, group_name};

/// Returns the reason of a block, with the compared numbers.
pub(super) fn describe_reason(finding: &Finding) -> String {
    let Finding { measured: has, limit, block } = finding;
    let count = |what: &str| {
        let plural = if *has == Decimal::ONE { "" } else { "s" };
        format!("{has} {what}{plural}, the limit is {limit}")
    };
    match block.patron_block_condition_id {
        condition::ITEMS_CHARGED_OUT => format!("has {}", count("item")),
        condition::LOST_ITEMS => format!("has lost {}", count("item")),
        condition::OVERDUE_ITEMS => format!("has {}", count("overdue item")),
        condition::OVERDUE_RECALLS => format!("has {}", count("overdue recall")),
        condition::RECALL_OVERDUE_DAYS => format!("a recall is overdue by {}", count("day")),
        _ => format!("owes {has:.2}, the limit is {limit:.2}"),
    }
}

/// Returns the blocked actions.
pub(super) fn describe_actions(block: &Block) -> String {
    let all = [
        (block.block_borrowing, "borrow"),
        (block.block_renewals, "renew"),
        (block.block_requests, "request"),
    ];
    let blocked: Vec<&str> = all.iter().filter(|(is, _)| *is).map(|(_, word)| *word).collect();
    match blocked.as_slice() {
        [init @ .., last] if !init.is_empty() => {
            format!("may not {} or {last}", init.join(", "))
        }
        one => format!("may not {}", one.concat()),
    }
}

/// Returns a sentence about the event and its patron.
pub(super) fn describe_event(event: &Event, truth: &Truth) -> String {
    let name = |patron: &Uuid| {
        truth.account(*patron).map_or("somebody".to_owned(), |account| {
            let patron = &account.patron;
            format!("{} ({})", patron.name(), group_name(patron.patron_group))
        })
    };
    let open_loans =
        |patron: &Uuid| truth.account(*patron).map_or(0, |account| account.open_loans.len());
    match &event.fact {
        Fact::CheckedOut { patron, .. } => {
            format!("{} borrows an item and has {} now", name(patron), open_loans(patron))
        }
        Fact::CheckedIn { patron, .. } => {
            format!("{} brings an item back and has {} left", name(patron), open_loans(patron))
        }
        Fact::DueDateChanged { patron, due, by_recall, .. } => {
            let why = if *by_recall { "recalled from" } else { "in the hands of" };
            format!("an item {why} {} is now due {}", name(patron), due.format("%Y-%m-%d %H:%M"))
        }
        Fact::StatusChanged { patron, change: mark, .. } => match mark {
            StatusChange::DeclaredLost => format!("{} has lost an item", name(patron)),
            StatusChange::AgedToLost => format!("an item of {} is given up for lost", name(patron)),
            StatusChange::ClaimedReturned => format!("{} says an item was returned", name(patron)),
            StatusChange::LoanClosed => format!("{} has paid for a lost item", name(patron)),
            StatusChange::DeclaredMissing => {
                format!("what {} claims to have returned is declared missing", name(patron))
            }
        },
        Fact::BalanceChanged { balance, charge: Some(charge), .. } => {
            format!("{} owes {balance:.2} for a fee/fine", name(&charge.patron))
        }
        Fact::BalanceChanged { charge: None, .. } => "a fee/fine is deleted".to_owned(),
        Fact::LoanCreatedInStorage { patron, .. } => {
            format!("a loan of {} is entered in storage", name(patron))
        }
        Fact::LoanDeleted { patron, .. } => {
            format!("a loan of {} is deleted in storage", name(patron))
        }
        Fact::PatronGroupChanged { patron, .. } => format!("{} has changed groups", name(patron)),
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;
    use uuid::Uuid;

    use super::*;

    fn block(condition: Uuid, [borrowing, renewals, requests]: [bool; 3]) -> Block {
        Block {
            patron_block_condition_id: condition,
            block_borrowing: borrowing,
            block_renewals: renewals,
            block_requests: requests,
            message: String::new(),
        }
    }

    #[test]
    fn actions_are_listed() {
        let words = |flags| describe_actions(&block(condition::LOST_ITEMS, flags));
        assert_eq!(words([true, false, false]), "may not borrow");
        assert_eq!(words([true, false, true]), "may not borrow or request");
        assert_eq!(words([true, true, true]), "may not borrow, renew or request");
    }

    #[test]
    fn reasons_name_both_numbers() {
        let words = |condition, has: &str, limit: &str| {
            let number = |text: &str| text.parse::<Decimal>().expect("this is a number");
            let block = block(condition, [true; 3]);
            describe_reason(&Finding { measured: number(has), limit: number(limit), block })
        };
        let items = condition::ITEMS_CHARGED_OUT;
        assert_eq!(words(items, "11", "10"), "has 11 items, the limit is 10");
        assert_eq!(words(items, "1", "0"), "has 1 item, the limit is 0");
        let fees = condition::FEE_FINE_BALANCE;
        assert_eq!(words(fees, "41.5", "30"), "owes 41.50, the limit is 30.00");
    }
}
