//! The state of patrons in the database: registers, counters and patron groups.

pub(super) mod columns;
pub mod dated_loans;
pub mod evidence;
pub mod group_sizes;
pub mod merge;
pub mod open_items;
pub mod patrons;
pub mod prune;
pub mod rows;
pub mod subjects;
