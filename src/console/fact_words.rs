//! Sentences about events and registers of loans and fees/fines.

use chrono::{DateTime, Utc};

use crate::{
    clock,
    event::{Event, Fact, Grace, Stamp},
    patron::{Fee, Loan},
};

/// Returns what an event states, in one sentence.
pub(super) fn fact(fact: &Fact) -> String {
    let instant = |at: &DateTime<Utc>| clock::format_instant(*at);
    match fact {
        Fact::CheckedOut { user, due_date, grace: period, .. } => {
            let grace = period.map_or_else(String::new, |period| format!(", {}", grace(period)));
            format!("Checked out to {user}, due {}{grace}.", instant(due_date))
        }
        Fact::CheckedIn { .. } => "Checked in.".to_owned(),
        Fact::LoanClosed { .. } => "Closed without a check-in.".to_owned(),
        Fact::Lost { by_age: true, .. } => "Aged to lost.".to_owned(),
        Fact::Lost { .. } => "Declared lost.".to_owned(),
        Fact::ClaimedReturned { .. } => "Claimed returned.".to_owned(),
        Fact::DueDateChanged { due_date, by_recall, .. } => {
            let cause = if *by_recall { "by a recall" } else { "by a renewal or an edit" };
            format!("Due date changed to {} {cause}.", instant(due_date))
        }
        Fact::BalanceChanged { balance, loan, .. } => match loan {
            Some(loan) => format!("Balance {balance}, for loan {loan}."),
            None => format!("Balance {balance}."),
        },
        Fact::LoanSnapshot { user, due_date, by_recall, lost, claimed_returned, .. } => {
            let flags = [
                (*by_recall, "recalled"),
                (*lost == Some(true), "lost"),
                (*claimed_returned == Some(true), "claimed returned"),
            ];
            let flags: String = flags
                .iter()
                .filter(|(is_set, _)| *is_set)
                .map(|(_, name)| format!(", {name}"))
                .collect();
            format!("Loan storage has it open for {user}, due {}{flags}.", instant(due_date))
        }
        Fact::LoanSnapshotClosed { .. } => "Loan storage has it closed or deleted.".to_owned(),
        Fact::AllLoansDeleted => "Loan storage deleted all loans.".to_owned(),
        Fact::PatronGroupChanged { group, .. } => match group {
            Some(group) => format!("Patron group {group}."),
            None => "No patron group.".to_owned(),
        },
    }
}

fn grace(grace: Grace) -> String {
    format!("grace period {} {}", grace.duration, grace.unit.name().to_lowercase())
}

/// A register: what it is about, its value, and the event that set it.
pub(super) struct RegisterRow {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) at: String,
    pub(super) origin: String,
}

impl RegisterRow {
    fn new(name: &'static str, stamp: Stamp, value: String, events: &[Event]) -> Self {
        let event = events.iter().find(|event| event.stamp == stamp);
        let origin = match event {
            Some(event) => event.fact.kind().name().to_owned(),
            None if stamp.is_snapshot() => "a snapshot of a storage module".to_owned(),
            None => "an event that the inbox no longer has".to_owned(),
        };
        Self { name, value, at: clock::format_instant(stamp.at()), origin }
    }
}

/// Returns the registers of a loan.
pub(super) fn loan_registers(loan: &Loan, events: &[Event]) -> Vec<RegisterRow> {
    let mut rows = Vec::new();
    let mut push = |name, stamp, value| rows.push(RegisterRow::new(name, stamp, value, events));
    let instant = clock::format_instant;
    let yes_or_no = |is_set| if is_set { "yes" } else { "no" }.to_owned();
    if let Some((stamp, check_out)) = loan.check_out {
        let period =
            check_out.grace.map_or_else(String::new, |period| format!(", {}", grace(period)));
        let value =
            format!("patron {}, due {}{period}", check_out.user, instant(check_out.due_date));
        push("Check-out", stamp, value);
    }
    if let Some((stamp, user)) = loan.snapshot {
        push("Open in loan storage", stamp, format!("patron {user}"));
    }
    if let Some((stamp, due)) = loan.due {
        let recall = if due.by_recall { ", by a recall" } else { "" };
        push("Due date", stamp, format!("{}{recall}", instant(due.date)));
    }
    if let Some((stamp, is_lost)) = loan.lost {
        push("Lost", stamp, yes_or_no(is_lost));
    }
    if let Some((stamp, is_claimed)) = loan.claimed_returned {
        push("Claimed returned", stamp, yes_or_no(is_claimed));
    }
    if let Some(stamp) = loan.closed {
        push("Closed", stamp, yes_or_no(true));
    }
    rows
}

/// Returns the registers of a fee/fine.
pub(super) fn fee_registers(fee: &Fee, events: &[Event]) -> Vec<RegisterRow> {
    let mut rows = Vec::new();
    let mut push = |name, stamp, value| rows.push(RegisterRow::new(name, stamp, value, events));
    if let Some((stamp, balance)) = fee.balance {
        let loan = balance.loan.map_or_else(String::new, |loan| format!(", for loan {loan}"));
        push("Balance", stamp, format!("{}{loan}", balance.amount));
    }
    if let Some((stamp, user)) = fee.user {
        push("Patron", stamp, user.to_string());
    }
    if let Some((stamp, kind)) = fee.fee_fine_type {
        push("Type", stamp, kind.to_string());
    }
    rows
}
