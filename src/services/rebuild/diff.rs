//! The difference of two rows: the registers that differ, and the meaning of the difference.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    clock::format_instant,
    event::Stamp,
    patron::{Fee, Loan, OpenFee, OpenLoan, Register},
    store::{
        rebuild::differences::{Difference, INSIGNIFICANT_KIND, ONLY_CURRENT_KIND},
        state::rows::SubjectRow,
    },
};

/// A current row and its target row.
pub(super) struct Pair<T> {
    pub(super) current: SubjectRow<T>,
    pub(super) target: SubjectRow<T>,
}

impl SubjectRow<Loan> {
    /// Returns the loan if it is open under the row's horizon.
    pub(super) fn open_loan(&self) -> Option<OpenLoan> {
        self.state.as_open(self.horizon)
    }
}

impl SubjectRow<Fee> {
    /// Returns the fee/fine if it is open under the row's horizon.
    pub(super) fn open_fee(&self) -> Option<OpenFee> {
        self.state.as_open(self.horizon)
    }
}

/// Names of the registers that differ.
struct ChangedRegisters(Vec<String>);

impl ChangedRegisters {
    fn compare<T: PartialEq>(&mut self, name: &str, a: &Register<T>, b: &Register<T>) {
        if a != b {
            self.0.push(name.to_owned());
        }
    }
}

/// Returns the difference of a loan, if its rows differ.
pub(super) fn loan_difference(id: Uuid, pair: &Pair<Loan>) -> Option<Difference> {
    let (current, target) = (&pair.current.state, &pair.target.state);
    let mut registers = ChangedRegisters(Vec::new());
    registers.compare("checkOut", &current.check_out, &target.check_out);
    registers.compare("snapshot", &current.snapshot, &target.snapshot);
    registers.compare("dueDate", &current.due, &target.due);
    registers.compare("lost", &current.lost, &target.lost);
    registers.compare("claimedReturned", &current.claimed_returned, &target.claimed_returned);
    let closed = |loan: &Loan| loan.closed.map(|stamp| (stamp, ()));
    registers.compare("closed", &closed(current), &closed(target));
    let (open_current, open_target) = (pair.current.open_loan(), pair.target.open_loan());
    let owner = |loan: &Loan| loan.opening().map(|(_, user)| user).or(loan.fallback_user);
    let user = open_target.or(open_current).map(|open| open.user);
    let user = user.or_else(|| owner(target)).or_else(|| owner(current));
    difference(
        (id, true),
        user,
        registers,
        significant_kind(&open_current, &open_target),
        (loan_json(current, open_current), loan_json(target, open_target)),
    )
}

/// Returns the difference of a fee/fine, if its rows differ.
pub(super) fn fee_difference(id: Uuid, pair: &Pair<Fee>) -> Option<Difference> {
    let (current, target) = (&pair.current.state, &pair.target.state);
    let mut registers = ChangedRegisters(Vec::new());
    registers.compare("balance", &current.balance, &target.balance);
    registers.compare("feeFineType", &current.fee_fine_type, &target.fee_fine_type);
    registers.compare("owner", &current.user, &target.user);
    let (open_current, open_target) = (pair.current.open_fee(), pair.target.open_fee());
    let owner = |fee: &Fee| fee.user.map(|(_, user)| user);
    difference(
        (id, false),
        owner(target).or_else(|| owner(current)),
        registers,
        significant_kind(&open_current, &open_target),
        (fee_json(current, open_current), fee_json(target, open_target)),
    )
}

/// Returns the kind of a difference that changes an answer; `None` if the open states are equal.
fn significant_kind<T: PartialEq>(current: &Option<T>, target: &Option<T>) -> Option<&'static str> {
    match (current, target) {
        (Some(_), None) => Some(ONLY_CURRENT_KIND),
        (None, Some(_)) => Some("only_target"),
        (Some(current), Some(target)) if current != target => Some("differs"),
        _ => None,
    }
}

fn difference(
    (subject, is_loan): (Uuid, bool),
    user: Option<Uuid>,
    ChangedRegisters(registers): ChangedRegisters,
    significant_kind: Option<&str>,
    (current, target): (Option<Value>, Option<Value>),
) -> Option<Difference> {
    if significant_kind.is_none() && registers.is_empty() {
        return None;
    }
    let kind = significant_kind.unwrap_or(INSIGNIFICANT_KIND).to_owned();
    Some(Difference {
        subject,
        is_loan,
        user_id: user,
        kind,
        registers,
        current_state: current,
        target_state: target,
    })
}

fn loan_json(loan: &Loan, open: Option<OpenLoan>) -> Option<Value> {
    let closed_at = loan.closed.map(|stamp: Stamp| format_instant(stamp.at()));
    let Some(open) = open else {
        let is_known = *loan != Loan::default();
        return is_known.then(|| json!({ "open": false, "closedAt": closed_at }));
    };
    let grace = open.grace.map(|g| json!({ "duration": g.duration, "intervalId": g.unit.name() }));
    Some(json!({
        "open": true, "userId": open.user, "dueDate": open.due_date.map(format_instant), "recall": open.recall,
        "itemLost": open.lost, "itemClaimedReturned": open.claimed_returned, "gracePeriod": grace,
    }))
}

fn fee_json(fee: &Fee, open: Option<OpenFee>) -> Option<Value> {
    let Some(open) = open else {
        let balance = fee.balance.map(|(_, balance)| balance.amount);
        return (*fee != Fee::default()).then(|| json!({ "open": false, "balance": balance }));
    };
    Some(json!({
        "open": true, "userId": open.user, "balance": open.balance, "loanId": open.loan,
        "feeFineTypeId": open.fee_fine_type,
    }))
}
