//! Limits and conditions of a patron group, for tests of the pure core.

use patron_blocks::blocks::{Actions, Condition, Limit, Measure};
use uuid::Uuid;

/// The patron group of all limits.
pub(crate) const GROUP: &str = "undergraduates";

/// Returns a limit of [`GROUP`] with a number as its id.
pub(crate) fn limit(number: u128, measure: Measure, value: impl Into<Option<f64>>) -> Limit {
    Limit {
        id: Uuid::from_u128(number),
        patron_group: GROUP.to_owned(),
        condition: Some(measure.condition_id()),
        value: value.into(),
        created_date: None,
        updated_date: None,
    }
}

/// Returns a condition without a message.
pub(crate) fn condition(measure: Measure, blocks: Actions) -> Condition {
    Condition { id: measure.condition_id(), blocks, message: String::new() }
}

/// Returns the six conditions without messages.
pub(crate) fn conditions(blocks: Actions) -> Vec<Condition> {
    Measure::ALL.map(|measure| condition(measure, blocks)).to_vec()
}
