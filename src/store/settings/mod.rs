//! Limits and conditions.

pub mod conditions;
pub mod limits;
pub mod records;
