//! The state of patrons (loans, fees/fines and groups) as registers with a merge.
//!
//! Merging is the only change of state, and it is a field-wise maximum. The result is therefore independent
//! of order, repetition and batching (invariant I1 of ARCHITECTURE.md). `store/state/merge.sql` implements the
//! same merge in SQL for whole batches; a test compares the two.

mod delta;
mod fee;
pub mod java_summary;
mod loan;
mod overdue;
mod reconcile;
mod scope;

pub use delta::StateDelta;
pub use fee::{Balance, Fee, OpenFee};
pub use loan::{CheckOut, DueDate, Loan, OpenLoan};
pub use overdue::{
    more_than_days_from, next_overdue_day, overdue_days, overdue_from, overdue_minutes,
};
pub use reconcile::Coverage;
pub use scope::Scope;

use crate::event::Stamp;

/// A value with the stamp of the event that set it; `None` if no event did. The greater stamp wins. Two
/// equal stamps belong to one event, so their values are equal.
pub type Register<T> = Option<(Stamp, T)>;

/// Returns the register with the greater stamp.
fn latest<T>(a: Register<T>, b: Register<T>) -> Register<T> {
    match (&a, &b) {
        (Some((stamp_a, _)), Some((stamp_b, _))) if stamp_a < stamp_b => b,
        (None, _) => b,
        _ => a,
    }
}

/// Returns the stamp of a register.
fn stamp_of<T>(register: &Register<T>) -> Option<Stamp> {
    register.as_ref().map(|(stamp, _)| *stamp)
}
