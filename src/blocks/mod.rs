//! Computes the blocks of a patron from the patron's loans and fees/fines (docs/contract/evaluation.md).
//! Pure: no I/O, no clock.

mod block_event;
mod condition;
mod evaluate;
mod limit;

pub use block_event::{ApproachingLimits, AutomatedBlocks, Cause, ChangeType, Comparable};
pub use condition::{Actions, Condition, Measure};
pub use evaluate::{Finding, MeasuredValue, Measures, evaluate};
pub use limit::Limit;
