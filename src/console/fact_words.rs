//! Sentences about events and registers of loans and fees/fines.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::{
    clock,
    event::{Fact, Grace, Kind, Stamp},
    patron::{Fee, Loan, Register},
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

/// The kinds of events, by the stamps with which the events set registers.
pub(super) struct Origins(HashMap<Stamp, String>);

impl Origins {
    /// Takes stamps and names of kinds.
    pub(super) fn new(events: impl IntoIterator<Item = (Stamp, String)>) -> Self {
        Self(events.into_iter().collect())
    }

    /// Returns what set a register with this stamp.
    fn of(&self, stamp: Stamp) -> String {
        match self.0.get(&stamp) {
            Some(kind) => self::kind(kind).to_owned(),
            None if stamp.is_snapshot() => "a comparison with the storage modules".to_owned(),
            None => "an event that is no longer stored".to_owned(),
        }
    }
}

/// Returns what an event of this kind is about; the name itself if the kind is unknown.
pub(super) fn kind(name: &str) -> &str {
    match Kind::from_name(name) {
        Some(Kind::ItemCheckedOut) => "a check-out",
        Some(Kind::LoanDueDateChanged) => "a change of the due date",
        Some(Kind::ItemAgedToLost) => "aging to lost",
        Some(Kind::ItemDeclaredLost) => "a declaration as lost",
        Some(Kind::ItemClaimedReturned) => "a claim of the return",
        Some(Kind::ItemCheckedIn) => "a check-in",
        Some(Kind::LoanClosed) => "a closing without check-in",
        Some(Kind::FeeFineBalanceChanged) => "a change of the balance",
        Some(Kind::StoredLoan) => "a change in loan storage",
        Some(Kind::StoredUser) => "a change of the user",
        None => name,
    }
}

/// A register: what it is about, its value, and what set it when.
pub(super) struct RegisterRow {
    pub(super) name: &'static str,
    /// The value; an instant stands before the text.
    pub(super) instant: Option<String>,
    pub(super) text: String,
    pub(super) at: String,
    pub(super) origin: String,
}

/// Collects the registers of one loan or fee/fine.
struct Registers<'a> {
    rows: Vec<RegisterRow>,
    origins: &'a Origins,
    /// The patron of the page.
    patron: Option<Uuid>,
}

impl Registers<'_> {
    fn push(&mut self, name: &'static str, stamp: Stamp, text: impl Into<String>) {
        let (at, origin) = (clock::format_instant(stamp.at()), self.origins.of(stamp));
        self.rows.push(RegisterRow { name, instant: None, text: text.into(), at, origin });
    }

    fn push_instant(
        &mut self,
        name: &'static str,
        stamp: Stamp,
        (instant, text): (DateTime<Utc>, String),
    ) {
        self.push(name, stamp, text);
        if let Some(row) = self.rows.last_mut() {
            row.instant = Some(clock::format_instant(instant));
        }
    }

    fn patron(&self, user: Uuid) -> String {
        match self.patron {
            Some(patron) if patron == user => "this patron".to_owned(),
            _ => format!("patron {user}"),
        }
    }

    fn push_flag(&mut self, name: &'static str, register: Register<bool>) {
        if let Some((stamp, is_set)) = register {
            self.push(name, stamp, if is_set { "yes" } else { "no" });
        }
    }
}

/// Returns the registers of a loan, on the page of `patron` if given.
pub(super) fn loan_registers(
    loan: &Loan,
    origins: &Origins,
    patron: Option<Uuid>,
) -> Vec<RegisterRow> {
    let mut registers = Registers { rows: Vec::new(), origins, patron };
    if let Some((stamp, check_out)) = loan.check_out {
        let period =
            check_out.grace.map_or_else(String::new, |period| format!("{}, ", grace(period)));
        let text = format!("{period}{}", registers.patron(check_out.user));
        registers.push_instant("Checked out, due", stamp, (check_out.due_date, text));
    }
    if let Some((stamp, user)) = loan.snapshot {
        registers.push("Open in loan storage", stamp, registers.patron(user));
    }
    if let Some((stamp, due)) = loan.due {
        let recall = if due.by_recall { "by a recall" } else { "" };
        registers.push_instant("Due date", stamp, (due.date, recall.to_owned()));
    }
    registers.push_flag("Lost", loan.lost);
    registers.push_flag("Claimed returned", loan.claimed_returned);
    registers.push_flag("Closed", loan.closed.map(|stamp| (stamp, true)));
    registers.rows
}

/// Returns the registers of a fee/fine, on the page of `patron` if given.
pub(super) fn fee_registers(
    fee: &Fee,
    origins: &Origins,
    patron: Option<Uuid>,
) -> Vec<RegisterRow> {
    let mut registers = Registers { rows: Vec::new(), origins, patron };
    if let Some((stamp, balance)) = fee.balance {
        let loan = balance.loan.map_or_else(String::new, |loan| format!(", for loan {loan}"));
        registers.push("Balance", stamp, format!("{}{loan}", balance.amount));
    }
    if let Some((stamp, user)) = fee.user {
        registers.push("Patron", stamp, registers.patron(user));
    }
    if let Some((stamp, kind)) = fee.fee_fine_type {
        registers.push("Type", stamp, kind.to_string());
    }
    registers.rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_event_has_words() {
        for one in Kind::ALL {
            assert_ne!(kind(one.name()), one.name());
        }
        assert_eq!(kind("OF_A_NEWER_VERSION"), "OF_A_NEWER_VERSION");
    }

    #[test]
    fn register_has_the_event_that_set_it() {
        let (at, id) = (DateTime::UNIX_EPOCH, Uuid::from_u128(7));
        let event = Stamp::from_envelope(at, Kind::ItemDeclaredLost, id);
        let loan = Loan {
            lost: Some((event, true)),
            claimed_returned: Some((Stamp::from_snapshot(at, id), false)),
            closed: Some(Stamp::from_envelope(at, Kind::LoanClosed, id)),
            ..Loan::default()
        };
        let origins = Origins::new([(event, Kind::ItemDeclaredLost.name().to_owned())]);
        let rows = loan_registers(&loan, &origins, None);
        let rows: Vec<_> = rows.iter().map(|row| (row.name, &*row.text, &*row.origin)).collect();
        assert_eq!(
            rows,
            [
                ("Lost", "yes", "a declaration as lost"),
                ("Claimed returned", "no", "a comparison with the storage modules"),
                ("Closed", "yes", "an event that is no longer stored"),
            ]
        );
    }
}
