//! Maintenance: the pruning of old rows, and the check of the counters.

pub mod counter_check;
pub mod housekeeping;
pub mod retention_limits;
