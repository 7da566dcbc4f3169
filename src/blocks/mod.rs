//! From what a patron has to what a patron may not do (evaluation contract). No I/O, no clock.

mod condition;
mod evaluate;
mod limit;
mod told;

pub use condition::{Actions, Condition, Measure};
pub use evaluate::{Finding, Measured, Measures, evaluate};
pub use limit::Limit;
pub use told::{Approaching, Blocked, Cause, Change, Told};
