//! Limits and conditions.

pub mod certainty_policy;
pub mod conditions;
pub mod limits;
pub mod records;
