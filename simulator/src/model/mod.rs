//! The made-up library: no I/O, no wall clock, everything from the seed.
//!
//! [`Library`] tells what happens, event by event in the order of time. [`Truth`] is what is so
//! after the events it was told.

mod desk;
mod edits;
mod event;
mod fate;
mod library;
mod people;
mod policy;
mod rhythm;
mod settings;
mod shelf;
mod till;
mod truth;

#[cfg(test)]
mod tests;

pub use event::{Charge, Event, Mark, What};
pub use library::Library;
pub use people::{GROUPS, Patron, PatronGroup, group_name};
pub use policy::{GracePeriod, Interval};
pub use settings::Settings;
pub use truth::{Account, FeeFine, ItemStatus, Loan, Truth};
