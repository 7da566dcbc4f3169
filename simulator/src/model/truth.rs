//! The true state after all events. It applies the state rules of docs/contract/events.md#9-transitions to
//! each event, in the order in which the events happened.

use std::collections::BTreeMap;
use std::ops::Bound;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::event::{Charge, Event, Fact, StatusChange};
use super::library::Library;
use super::people::Patron;
use super::policy::GracePeriod;

/// The truth about every patron of a library.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(from = "TruthFile", into = "TruthFile")]
pub struct Truth {
    as_of: DateTime<Utc>,
    accounts: BTreeMap<Uuid, Account>,
    /// The borrowers of the open loans, by loan id.
    borrowers: BTreeMap<Uuid, Uuid>,
    /// The debtors of the open fees/fines, by fee/fine id.
    debtors: BTreeMap<Uuid, Uuid>,
}

/// A patron with the open loans and fees/fines.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Account {
    /// The patron.
    pub patron: Patron,
    /// The time of the patron's newest event.
    pub changed: DateTime<Utc>,
    /// The open loans by loan id.
    pub open_loans: BTreeMap<Uuid, Loan>,
    /// The open fees/fines by fee/fine id.
    pub open_fees_fines: BTreeMap<Uuid, FeeFine>,
}

impl Account {
    /// Returns the open fees/fines of the loans that are claimed returned.
    pub fn claimed_fees_fines(&self) -> impl Iterator<Item = (Uuid, &FeeFine)> {
        let is_claimed = |fee: &FeeFine| {
            let loan = fee.loan_id.and_then(|loan| self.open_loans.get(&loan));
            loan.is_some_and(Loan::is_claimed_returned)
        };
        let fees = self.open_fees_fines.iter().filter(move |(_, fee)| is_claimed(fee));
        fees.map(|(id, fee)| (*id, fee))
    }
}

/// The status of a lent item, in loan storage's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ItemStatus {
    /// The patron has the item.
    #[serde(rename = "Checked out")]
    CheckedOut,
    /// The patron declared the item lost.
    #[serde(rename = "Declared lost")]
    DeclaredLost,
    /// The item was overdue for too long.
    #[serde(rename = "Aged to lost")]
    AgedToLost,
    /// The patron claims that the item was returned.
    #[serde(rename = "Claimed returned")]
    ClaimedReturned,
}

/// An open loan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Loan {
    /// The item.
    pub item_id: Uuid,
    /// The time of the check-out.
    pub loan_date: DateTime<Utc>,
    /// The due date.
    pub due_date: DateTime<Utc>,
    /// Whether a recall set the due date.
    pub recall: bool,
    /// The status of the item.
    pub item_status: ItemStatus,
    /// The grace period at check-out; duration 0 means no grace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grace_period: Option<GracePeriod>,
}

impl Loan {
    /// Returns true if the item is declared lost or aged to lost.
    pub fn is_lost(&self) -> bool {
        matches!(self.item_status, ItemStatus::DeclaredLost | ItemStatus::AgedToLost)
    }

    /// Returns true if the item is claimed returned.
    pub fn is_claimed_returned(&self) -> bool {
        self.item_status == ItemStatus::ClaimedReturned
    }
}

/// An open fee/fine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FeeFine {
    /// The fee/fine type of the first event.
    pub fee_fine_type_id: Uuid,
    /// The loan in the newest event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loan_id: Option<Uuid>,
    /// The balance, never 0.
    #[serde(with = "rust_decimal::serde::arbitrary_precision")]
    pub balance: Decimal,
}

impl Truth {
    /// Returns the truth of a library before its first event.
    pub fn for_library(library: &Library) -> Self {
        Self::for_patrons(library.patrons().cloned(), library.settings().first_day())
    }

    /// Returns the truth of these patrons before the first event.
    pub fn for_patrons(patrons: impl IntoIterator<Item = Patron>, as_of: DateTime<Utc>) -> Self {
        let account = |patron: Patron| {
            let (open_loans, open_fees_fines) = (BTreeMap::new(), BTreeMap::new());
            (patron.id, Account { patron, changed: as_of, open_loans, open_fees_fines })
        };
        let accounts = patrons.into_iter().map(account).collect();
        Self { as_of, accounts, borrowers: BTreeMap::new(), debtors: BTreeMap::new() }
    }

    /// Returns the truth of one patron, to which further events can be applied.
    pub fn for_account(account: Account) -> Self {
        TruthFile { as_of: account.changed, accounts: vec![account] }.into()
    }

    /// Returns the time of the newest event.
    pub fn as_of(&self) -> DateTime<Utc> {
        self.as_of
    }

    /// Returns all accounts in the order of the patron ids.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// Returns the account of a patron.
    pub fn account(&self, patron: Uuid) -> Option<&Account> {
        self.accounts.get(&patron)
    }

    /// Returns an open loan with its borrower.
    pub fn loan(&self, id: Uuid) -> Option<(Uuid, &Loan)> {
        let patron = *self.borrowers.get(&id)?;
        Some((patron, self.accounts.get(&patron)?.open_loans.get(&id)?))
    }

    /// Returns true if the fee/fine is open.
    pub fn has_fee_fine(&self, id: Uuid) -> bool {
        self.debtors.contains_key(&id)
    }

    /// Returns the open loans after `id` with their borrowers, in the order of loan ids.
    pub fn loans_after(&self, id: Option<Uuid>) -> impl Iterator<Item = (Uuid, Uuid, &Loan)> {
        self.borrowers
            .range(after(id))
            .map(|(loan, patron)| (*loan, *patron, &self.accounts[patron].open_loans[loan]))
    }

    /// Returns the open fees/fines after `id` with their debtors, in the order of their ids.
    pub fn fees_after(&self, id: Option<Uuid>) -> impl Iterator<Item = (Uuid, Uuid, &FeeFine)> {
        self.debtors
            .range(after(id))
            .map(|(fee, patron)| (*fee, *patron, &self.accounts[patron].open_fees_fines[fee]))
    }

    /// Moves the patron to another group.
    pub fn move_to_group(&mut self, patron: Uuid, group: Option<Uuid>) {
        if let Some(account) = self.accounts.get_mut(&patron) {
            account.patron.patron_group = group;
        }
    }

    /// Applies the next event.
    pub fn apply(&mut self, event: &Event) {
        self.as_of = self.as_of.max(event.at);
        match &event.fact {
            Fact::CheckedOut { loan, patron, item, due, grace } => {
                self.open(event.at, *loan, *patron, *item, *due, *grace);
            }
            Fact::CheckedIn { loan, .. } => self.close(event.at, *loan),
            Fact::DueDateChanged { loan, due, by_recall, .. } => {
                self.change(event.at, *loan, |loan| {
                    loan.due_date = *due;
                    loan.recall = *by_recall;
                    // A due date that no recall set means that the lost item is found.
                    if !by_recall && loan.is_lost() {
                        loan.item_status = ItemStatus::CheckedOut;
                    }
                });
            }
            Fact::StatusChanged { loan, change: mark, .. } => {
                self.change_status(event.at, *loan, *mark)
            }
            Fact::LoanCreatedInStorage { loan, patron, item, due } => {
                self.open(event.at, *loan, *patron, *item, *due, None);
            }
            Fact::LoanDeleted { loan, .. } => self.close(event.at, *loan),
            Fact::PatronGroupChanged { patron, group } => self.move_to_group(*patron, *group),
            Fact::BalanceChanged { fee, balance, charge: about } => {
                self.set_balance(event.at, *fee, *balance, *about);
            }
        }
    }

    fn open(
        &mut self,
        at: DateTime<Utc>,
        id: Uuid,
        patron: Uuid,
        item_id: Uuid,
        due_date: DateTime<Utc>,
        grace: Option<GracePeriod>,
    ) {
        let Some(account) = self.accounts.get_mut(&patron) else { return };
        account.changed = at;
        self.borrowers.insert(id, patron);
        account.open_loans.entry(id).or_insert(Loan {
            item_id,
            loan_date: at,
            due_date,
            recall: false,
            item_status: ItemStatus::CheckedOut,
            grace_period: grace.filter(|grace| grace.duration > 0),
        });
    }

    fn change_status(&mut self, at: DateTime<Utc>, id: Uuid, change: StatusChange) {
        let status = match change {
            StatusChange::LoanClosed | StatusChange::DeclaredMissing => return self.close(at, id),
            StatusChange::DeclaredLost => ItemStatus::DeclaredLost,
            StatusChange::AgedToLost => ItemStatus::AgedToLost,
            StatusChange::ClaimedReturned => ItemStatus::ClaimedReturned,
        };
        self.change(at, id, |loan| loan.item_status = status);
    }

    fn change(&mut self, at: DateTime<Utc>, id: Uuid, change: impl FnOnce(&mut Loan)) {
        let account = self.borrowers.get(&id).and_then(|who| self.accounts.get_mut(who));
        let Some(account) = account else { return };
        account.changed = at;
        if let Some(loan) = account.open_loans.get_mut(&id) {
            change(loan);
        }
    }

    fn close(&mut self, at: DateTime<Utc>, id: Uuid) {
        let patron = self.borrowers.remove(&id);
        if let Some(account) = patron.and_then(|patron| self.accounts.get_mut(&patron)) {
            account.changed = at;
            account.open_loans.remove(&id);
        }
    }

    fn set_balance(
        &mut self,
        at: DateTime<Utc>,
        id: Uuid,
        balance: Decimal,
        charge: Option<Charge>,
    ) {
        let debtor = charge.map(|charge| charge.patron).or(self.debtors.get(&id).copied());
        let Some(patron) = debtor else { return };
        let Some(account) = self.accounts.get_mut(&patron) else { return };
        account.changed = at;
        if balance.is_zero() {
            account.open_fees_fines.remove(&id);
            self.debtors.remove(&id);
            return;
        }
        let Some(charge) = charge else { return };
        self.debtors.insert(id, patron);
        let fee = account.open_fees_fines.entry(id).or_insert(FeeFine {
            fee_fine_type_id: charge.fee_type,
            loan_id: None,
            balance,
        });
        fee.balance = balance;
        // The newest event sets the link, also if it has no loan.
        fee.loan_id = charge.loan;
    }
}

fn after(id: Option<Uuid>) -> (Bound<Uuid>, Bound<Uuid>) {
    (id.map_or(Bound::Unbounded, Bound::Excluded), Bound::Unbounded)
}

/// The truth in a file; reading rebuilds the indexes.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TruthFile {
    as_of: DateTime<Utc>,
    accounts: Vec<Account>,
}

impl From<Truth> for TruthFile {
    fn from(truth: Truth) -> Self {
        Self { as_of: truth.as_of, accounts: truth.accounts.into_values().collect() }
    }
}

impl From<TruthFile> for Truth {
    fn from(file: TruthFile) -> Self {
        let (mut borrowers, mut debtors) = (BTreeMap::new(), BTreeMap::new());
        for account in &file.accounts {
            let patron = account.patron.id;
            borrowers.extend(account.open_loans.keys().map(|loan| (*loan, patron)));
            debtors.extend(account.open_fees_fines.keys().map(|fee| (*fee, patron)));
        }
        let accounts = file.accounts.into_iter().map(|account| (account.patron.id, account));
        Self { as_of: file.as_of, accounts: accounts.collect(), borrowers, debtors }
    }
}
