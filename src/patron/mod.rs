//! What is known of patrons: loans, fees/fines and groups as small lattices, and what follows from them.
//!
//! Merging is the only way in which state changes, and it is a field-wise maximum: the order of
//! arrival, repetition and batching can't matter (invariant I1 of ARCHITECTURE.md). The SQL in
//! `store/merge.rs` is the same merge over whole batches; a test holds the two together.

mod delta;
mod fee;
mod loan;
mod overdue;
mod reconcile;
mod scope;

pub use delta::StateDelta;
pub use fee::{Balance, Fee, OpenFee};
pub use loan::{CheckOut, DueDate, Loan, OpenLoan};
pub use overdue::{
    Grace, GraceUnit, next_overdue_day, overdue_days, overdue_from, overdue_minutes,
};
pub use reconcile::Coverage;
pub use scope::Scope;

use crate::event::Stamp;

/// A value and when it was said; `None` where nothing was said yet. The greater stamp wins, and two
/// equal stamps belong to one event, hence to one value.
pub type Register<T> = Option<(Stamp, T)>;

/// The register after both were heard.
fn latest<T>(a: Register<T>, b: Register<T>) -> Register<T> {
    match (&a, &b) {
        (Some((stamp_a, _)), Some((stamp_b, _))) if stamp_a < stamp_b => b,
        (None, _) => b,
        _ => a,
    }
}

/// When a register was set.
fn stamp_of<T>(register: &Register<T>) -> Option<Stamp> {
    register.as_ref().map(|(stamp, _)| *stamp)
}
