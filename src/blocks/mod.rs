//! From what a patron has to what a patron may not do (docs/contract/evaluation.md). No I/O, no
//! clock.

mod block_event;
mod condition;
mod evaluate;
mod limit;

pub use block_event::{ApproachingLimits, AutomatedBlocks, Cause, ChangeType, Comparable};
pub use condition::{Actions, Condition, Measure};
pub use evaluate::{Finding, MeasuredValue, Measures, evaluate};
pub use limit::Limit;
