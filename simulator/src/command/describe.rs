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
    let blocked: Vec<&str> =
        all.iter().filter(|(is_blocked, _)| *is_blocked).map(|(_, action)| *action).collect();
    match blocked.as_slice() {
        [init @ .., last] if !init.is_empty() => {
            format!("may not {} or {last}", init.join(", "))
        }
        action => format!("may not {}", action.concat()),
    }
}

/// Returns a sentence about the event and its patron.
pub(super) fn describe_event(event: &Event, truth: &Truth) -> String {
    let name = |patron: &Uuid| {
        truth.account(*patron).map_or("an unknown patron".to_owned(), |account| {
            let patron = &account.patron;
            format!("{} ({})", patron.name(), group_name(patron.patron_group))
        })
    };
    let open_loans =
        |patron: &Uuid| truth.account(*patron).map_or(0, |account| account.open_loans.len());
    match &event.fact {
        Fact::CheckedOut { patron, .. } => {
            format!("{} checks out an item and now has {}", name(patron), open_loans(patron))
        }
        Fact::CheckedIn { patron, .. } => {
            format!("{} returns an item and still has {}", name(patron), open_loans(patron))
        }
        Fact::DueDateChanged { patron, due, by_recall, .. } => {
            let item = if *by_recall { "a recalled item" } else { "an item" };
            format!("{item} of {} is now due {}", name(patron), due.format("%Y-%m-%d %H:%M"))
        }
        Fact::StatusChanged { patron, change, .. } => match change {
            StatusChange::DeclaredLost => format!("{} has lost an item", name(patron)),
            StatusChange::AgedToLost => format!("an item of {} is aged to lost", name(patron)),
            StatusChange::ClaimedReturned => {
                format!("{} claims to have returned an item", name(patron))
            }
            StatusChange::LoanClosed => format!("{} has paid for a lost item", name(patron)),
            StatusChange::DeclaredMissing => {
                format!("an item that {} claims to have returned is declared missing", name(patron))
            }
        },
        Fact::BalanceChanged { balance, charge: Some(charge), .. } => {
            format!("{} owes {balance:.2} for a fee/fine", name(&charge.patron))
        }
        Fact::BalanceChanged { charge: None, .. } => "a fee/fine is deleted".to_owned(),
        Fact::LoanCreatedInStorage { patron, .. } => {
            format!("a loan of {} is created in storage", name(patron))
        }
        Fact::LoanDeleted { patron, .. } => {
            format!("a loan of {} is deleted in storage", name(patron))
        }
        Fact::PatronGroupChanged { patron, .. } => {
            format!("{} has another patron group", name(patron))
        }
    }
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;
    use uuid::Uuid;

    use super::*;

    fn block(condition: Uuid, [borrowing, renewals, requests]: [bool; 3]) -> Block {
        Block {
            id: Uuid::nil(),
            patron_block_condition_id: condition,
            block_borrowing: borrowing,
            block_renewals: renewals,
            block_requests: requests,
            message: String::new(),
        }
    }

    #[test]
    fn actions_are_listed() {
        let text = |flags| describe_actions(&block(condition::LOST_ITEMS, flags));
        assert_eq!(text([true, false, false]), "may not borrow");
        assert_eq!(text([true, false, true]), "may not borrow or request");
        assert_eq!(text([true, true, true]), "may not borrow, renew or request");
    }

    #[test]
    fn reasons_name_both_numbers() {
        let text = |condition, has: &str, limit: &str| {
            let number = |text: &str| text.parse::<Decimal>().expect("the text is a number");
            let block = block(condition, [true; 3]);
            describe_reason(&Finding { measured: number(has), limit: number(limit), block })
        };
        let items = condition::ITEMS_CHARGED_OUT;
        assert_eq!(text(items, "11", "10"), "has 11 items, the limit is 10");
        assert_eq!(text(items, "1", "0"), "has 1 item, the limit is 0");
        let fees = condition::FEE_FINE_BALANCE;
        assert_eq!(text(fees, "41.5", "30"), "owes 41.50, the limit is 30.00");
    }
}
