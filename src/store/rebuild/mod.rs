//! Rebuilds: their jobs, shadows and differences.

pub mod differences;
pub mod rebuilds;
pub mod shadow;
pub mod shadow_load;
