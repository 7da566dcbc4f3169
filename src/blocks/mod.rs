//! Computes the blocks of a patron from the patron's loans and fees/fines (docs/contract/evaluation.md).
//! Pure: no I/O, no clock.

mod block_event;
mod certainty;
mod certainty_policy;
mod condition;
mod dated_loan;
mod evaluate;
mod explanation;
mod forecast;
mod limit;
mod message;
mod need;
mod open_items;
mod settings_check;
mod way_out;

pub use block_event::{ApproachingLimits, AutomatedBlocks, Cause, ChangeType, Comparable};
pub use certainty::{Certainty, CertaintyState, Evidence};
pub use certainty_policy::{CertaintyPolicy, Reactions, StateReactions, UncertainReaction};
pub use condition::{Action, Actions, Condition, Measure};
pub use dated_loan::DatedLoan;
pub use evaluate::{Finding, MeasuredValue, Measures, decimal_to_json, evaluate};
pub use explanation::{
    ExplainedAction, ExplainedFee, ExplainedLimit, ExplainedLoan, Explanation, ExplanationInput,
    LeftOut, NextBlock,
};
pub use forecast::ForecastBlock;
pub use limit::Limit;
pub use message::PLACEHOLDERS;
pub(crate) use message::amount_text;
pub use need::{Need, Threshold};
pub use open_items::OpenItems;
pub use settings_check::{
    LISTED_GROUPS_MAX, PatronGroup, Settings, SettingsFinding, SettingsFindingKind, Severity,
    check_settings,
};
pub use way_out::{Caveat, Payment, Returns, WayOut};
