//! What is known of patrons: loans, fees/fines and groups as small lattices, and what follows from them.
//!
//! Merging is the only way in which state changes, and it is a field-wise maximum: the order of
//! arrival, repetition and batching can't matter (invariant I1). The SQL in `store/merge.rs` is the
//! same merge over whole batches; a test holds the two together.

mod fee;
mod loan;
mod overdue;
mod reconcile;
mod said;
mod scope;

pub use fee::{Balance, Fee, OpenFee};
pub use loan::{CheckOut, Due, Loan, OpenLoan};
pub use overdue::{
    Grace, GraceUnit, next_overdue_day, overdue_days, overdue_from, overdue_minutes,
};
pub use reconcile::Coverage;
pub use said::Said;
pub use scope::Scope;

use crate::event::Stamp;

/// A value and when it was said; `None` where nothing was said yet. The greater stamp wins, and two
/// equal stamps belong to one event, hence to one value.
pub type Register<T> = Option<(Stamp, T)>;

/// The register after both were heard.
fn latest<T>(a: Register<T>, b: Register<T>) -> Register<T> {
    match (&a, &b) {
        (Some((said_a, _)), Some((said_b, _))) if said_a < said_b => b,
        (None, _) => b,
        _ => a,
    }
}

/// When a register was set.
fn said<T>(register: &Register<T>) -> Option<Stamp> {
    register.as_ref().map(|(said, _)| *said)
}
