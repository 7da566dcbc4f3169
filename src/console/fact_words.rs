//! Sentences about events and registers of loans and fees/fines.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    texts::Texts,
    words::{self, Dated},
};
use crate::{
    blocks::amount_text,
    clock,
    event::{Fact, Grace, GraceUnit, Kind, Stamp},
    patron::{Fee, Loan, Register},
};

/// Returns what an event states, in one sentence.
pub(super) fn fact(texts: &'static Texts, fact: &Fact) -> Dated {
    let plain = match fact {
        Fact::CheckedOut { user, due_date, grace: Some(period), .. } => {
            let period = grace(texts, *period);
            let around = texts.around(
                "fact.checkedOutWithGrace",
                "due",
                &[("user", user), ("grace", &period)],
            );
            return Dated::at(around, *due_date);
        }
        Fact::CheckedOut { user, due_date, grace: None, .. } => {
            return Dated::at(texts.around("fact.checkedOut", "due", &[("user", user)]), *due_date);
        }
        Fact::DueDateChanged { due_date, by_recall: true, .. } => {
            return Dated::at(texts.around("fact.recalled", "due", &[]), *due_date);
        }
        Fact::DueDateChanged { due_date, by_recall: false, .. } => {
            return Dated::at(texts.around("fact.renewed", "due", &[]), *due_date);
        }
        Fact::BalanceChanged { balance, loan: Some(loan), .. } => {
            let balance = amount_text(*balance);
            return Dated::plain(
                texts.fill("fact.balanceForLoan", &[("balance", &balance), ("loan", loan)]),
            );
        }
        Fact::BalanceChanged { balance, loan: None, .. } => {
            let balance = amount_text(*balance);
            return Dated::plain(texts.fill("fact.balance", &[("balance", &balance)]));
        }
        Fact::LoanSnapshot { user, due_date, by_recall, lost, claimed_returned, .. } => {
            let (lost, claimed_returned) = (*lost == Some(true), *claimed_returned == Some(true));
            let states = words::set_states(texts, *by_recall, lost, claimed_returned);
            let around = if states.is_empty() {
                texts.around("fact.loanOpen", "due", &[("user", user)])
            } else {
                let states = states.join(", ");
                texts.around("fact.loanOpenWith", "due", &[("user", user), ("states", &states)])
            };
            return Dated::at(around, *due_date);
        }
        Fact::PatronGroupChanged { group: Some(group), .. } => {
            return Dated::plain(texts.fill("fact.group", &[("group", group)]));
        }
        Fact::PatronGroupChanged { group: None, .. } => "fact.noGroup",
        Fact::CheckedIn { .. } => "fact.checkedIn",
        Fact::LoanClosed { .. } => "fact.closed",
        Fact::Lost { by_age: true, .. } => "fact.agedToLost",
        Fact::Lost { .. } => "fact.declaredLost",
        Fact::ClaimedReturned { .. } => "fact.claimedReturned",
        Fact::LoanSnapshotClosed { .. } => "fact.loanClosed",
        Fact::AllLoansDeleted => "fact.allLoansDeleted",
    };
    Dated::plain(texts.text(plain))
}

fn grace(texts: &'static Texts, grace: Grace) -> String {
    let count = grace.duration;
    texts.fill(
        match grace.unit {
            GraceUnit::Minutes => "grace.minutes",
            GraceUnit::Hours => "grace.hours",
            GraceUnit::Days => "grace.days",
            GraceUnit::Weeks => "grace.weeks",
            GraceUnit::Months => "grace.months",
        },
        &[("count", &count)],
    )
}

/// The kinds of events, by the stamps with which the events set registers.
pub(super) struct Origins(HashMap<Stamp, String>);

impl Origins {
    /// Takes stamps and names of kinds.
    pub(super) fn new(events: impl IntoIterator<Item = (Stamp, String)>) -> Self {
        Self(events.into_iter().collect())
    }

    /// Returns what set a register with this stamp.
    fn of(&self, texts: &'static Texts, stamp: Stamp) -> String {
        let origin = match self.0.get(&stamp) {
            Some(kind) => self::kind(texts, kind),
            None if stamp.is_snapshot() => texts.text("origin.snapshot"),
            None => texts.text("origin.unknown"),
        };
        origin.to_owned()
    }
}

/// Returns what an event of this kind is about; the name itself if the kind is unknown.
pub(super) fn kind<'a>(texts: &'static Texts, name: &'a str) -> &'a str {
    texts.text(match Kind::from_name(name) {
        Some(Kind::ItemCheckedOut) => "origin.checkOut",
        Some(Kind::LoanDueDateChanged) => "origin.dueDate",
        Some(Kind::ItemAgedToLost) => "origin.agedToLost",
        Some(Kind::ItemDeclaredLost) => "origin.declaredLost",
        Some(Kind::ItemClaimedReturned) => "origin.claimedReturned",
        Some(Kind::ItemCheckedIn) => "origin.checkIn",
        Some(Kind::LoanClosed) => "origin.closing",
        Some(Kind::FeeFineBalanceChanged) => "origin.balance",
        Some(Kind::StoredLoan) => "origin.storedLoan",
        Some(Kind::StoredUser) => "origin.storedUser",
        None => return name,
    })
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
    texts: &'static Texts,
    rows: Vec<RegisterRow>,
    origins: &'a Origins,
    /// The patron of the page.
    patron: Option<Uuid>,
}

impl Registers<'_> {
    fn push(&mut self, name: &'static str, stamp: Stamp, text: impl Into<String>) {
        let (at, origin) = (clock::format_instant(stamp.at()), self.origins.of(self.texts, stamp));
        let (name, text) = (self.texts.text(name), text.into());
        self.rows.push(RegisterRow { name, instant: None, text, at, origin });
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
            Some(patron) if patron == user => self.texts.text("register.thisPatron").to_owned(),
            _ => self.texts.fill("register.user", &[("user", &user)]),
        }
    }

    fn push_flag(&mut self, name: &'static str, register: Register<bool>) {
        if let Some((stamp, is_set)) = register {
            let value = self.texts.text(if is_set { "register.yes" } else { "register.no" });
            self.push(name, stamp, value);
        }
    }
}

/// Returns the registers of a loan, on the page of `patron` if given.
pub(super) fn loan_registers(
    texts: &'static Texts,
    loan: &Loan,
    origins: &Origins,
    patron: Option<Uuid>,
) -> Vec<RegisterRow> {
    let mut registers = Registers { texts, rows: Vec::new(), origins, patron };
    if let Some((stamp, check_out)) = loan.check_out {
        let period = check_out.grace.map(|period| grace(texts, period));
        let parts: Vec<String> =
            period.into_iter().chain([registers.patron(check_out.user)]).collect();
        let value = (check_out.due_date, parts.join(", "));
        registers.push_instant("register.checkOut", stamp, value);
    }
    if let Some((stamp, user)) = loan.snapshot {
        registers.push("register.snapshot", stamp, registers.patron(user));
    }
    if let Some((stamp, due)) = loan.due {
        let recall = if due.by_recall { texts.text("register.byRecall") } else { "" };
        registers.push_instant("register.due", stamp, (due.date, recall.to_owned()));
    }
    registers.push_flag("register.lost", loan.lost);
    registers.push_flag("register.claimedReturned", loan.claimed_returned);
    registers.push_flag("register.closed", loan.closed.map(|stamp| (stamp, true)));
    registers.rows
}

/// Returns the registers of a fee/fine, on the page of `patron` if given.
pub(super) fn fee_registers(
    texts: &'static Texts,
    fee: &Fee,
    origins: &Origins,
    patron: Option<Uuid>,
) -> Vec<RegisterRow> {
    let mut registers = Registers { texts, rows: Vec::new(), origins, patron };
    if let Some((stamp, balance)) = fee.balance {
        let amount = amount_text(balance.amount);
        let value = match balance.loan {
            Some(loan) => {
                texts.fill("register.balanceForLoan", &[("balance", &amount), ("loan", &loan)])
            }
            None => amount,
        };
        registers.push("register.balance", stamp, value);
    }
    if let Some((stamp, user)) = fee.user {
        registers.push("register.patron", stamp, registers.patron(user));
    }
    if let Some((stamp, kind)) = fee.fee_fine_type {
        registers.push("register.type", stamp, kind.to_string());
    }
    registers.rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_event_has_words() {
        for one in Kind::ALL {
            assert_ne!(kind(Texts::english(), one.name()), one.name());
        }
        assert_eq!(kind(Texts::english(), "OF_A_NEWER_VERSION"), "OF_A_NEWER_VERSION");
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
        let rows = loan_registers(Texts::english(), &loan, &origins, None);
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
