//! The simulated library: no I/O, no wall clock; the seed determines everything.
//!
//! [`Library`] produces events in time order. [`Truth`] is the state after the applied events.

mod actions;
mod circulation;
mod daily_pattern;
mod edits;
mod event;
mod library;
mod payments;
mod people;
mod planning;
mod policy;
mod random;
mod settings;
mod storage;
mod truth;

#[cfg(test)]
mod tests;

pub use event::{Charge, Event, Fact, StatusChange, Transaction};
pub use library::Library;
pub use people::{GROUPS, Patron, PatronGroup, group_name};
pub use policy::{GracePeriod, Interval};
pub use settings::Settings;
pub use truth::{Account, FeeFine, ItemStatus, Loan, Truth};
