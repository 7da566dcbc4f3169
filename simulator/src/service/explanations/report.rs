//! Collects the differences of one explanation.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::super::compare::Difference;
use crate::model::Patron;

/// The differences between an explanation and the truth.
pub(super) struct Report<'a> {
    patron: &'a Patron,
    pub(super) differences: Vec<Difference>,
}

impl<'a> Report<'a> {
    pub(super) fn new(patron: &'a Patron) -> Self {
        Self { patron, differences: vec![] }
    }

    /// Adds a difference.
    pub(super) fn add(&mut self, what: impl Display, expected: impl Display, got: impl Display) {
        let what = format!("explanation, {what}");
        let (expected, got) = (expected.to_string(), got.to_string());
        self.differences.push(Difference::new(self.patron, what, expected, got));
    }

    /// Adds a difference if a rule about the explanation is broken.
    pub(super) fn require(&mut self, is_met: bool, what: &str, rule: &str, got: impl Display) {
        if !is_met {
            self.add(what, rule, got);
        }
    }

    /// Compares two values; objects member by member.
    pub(super) fn compare(&mut self, what: &str, expected: &impl Serialize, got: &impl Serialize) {
        let (expected, got) = (json!(expected), json!(got));
        if expected == got {
            return;
        }
        let (Value::Object(expected), Value::Object(got)) = (&expected, &got) else {
            return self.add(what, expected, got);
        };
        let members: BTreeSet<&String> = expected.keys().chain(got.keys()).collect();
        for member in members {
            let (expected, got) = (expected.get(member), got.get(member));
            if expected != got {
                let text =
                    |value: Option<&Value>| value.map_or("none".to_owned(), Value::to_string);
                self.add(format!("{what}, {member}"), text(expected), text(got));
            }
        }
    }

    /// Compares two lists by id, regardless of their order.
    pub(super) fn compare_lists<T: Serialize>(
        &mut self,
        what: &str,
        id: impl Fn(&T) -> Uuid,
        expected: &[T],
        got: &[T],
    ) {
        let by_id = |list: &'_ [T]| -> BTreeMap<Uuid, Value> {
            list.iter().map(|item| (id(item), json!(item))).collect()
        };
        self.compare(&format!("number of {what}s"), &expected.len(), &got.len());
        let (expected, got) = (by_id(expected), by_id(got));
        let ids: BTreeSet<&Uuid> = expected.keys().chain(got.keys()).collect();
        for id in ids {
            let value = |list: &BTreeMap<Uuid, Value>| list.get(id).cloned().unwrap_or_default();
            self.compare(&format!("{what} {id}"), &value(&expected), &value(&got));
        }
    }
}

/// Returns ids in the form of a JSON list.
pub(super) fn list(ids: impl IntoIterator<Item = Uuid>) -> String {
    json!(ids.into_iter().collect::<Vec<_>>()).to_string()
}
