//! Finds messages behind three other messages, because a block window shows three. ui-users and ui-checkout show
//! the blocks with the latest change of the limit first; ui-requests shows them in the order of the response
//! (docs/contract/insight.md#1-clients).

use std::{cmp::Ordering, collections::BTreeMap};

use uuid::Uuid;

use super::{SettingsFinding, SettingsFindingKind, UsableLimit, effect, group_key};
use crate::blocks::{Action, Actions, Finding, Measure, Threshold};

/// Number of messages in a block window.
const SHOWN_MESSAGES_MAX: usize = 3;

/// Number of earlier limits that are compared with a limit; a patron group has six limits if all is right.
const COMPARED_LIMITS_MAX: usize = 100;

/// Whether the block windows show the message of a limit.
#[derive(Debug, Clone, Copy)]
struct Visibility {
    /// Whether three earlier messages are shown in every window, whenever the limit is reached.
    is_always_hidden: bool,
    /// Whether three earlier messages may be shown in a window.
    is_sometimes_hidden: bool,
}

/// Returns a finding per condition with hidden messages, and one per condition with sometimes hidden messages.
pub(super) fn hidden_messages(usable: &[UsableLimit<'_>]) -> Vec<SettingsFinding> {
    let mut groups: BTreeMap<String, Vec<&UsableLimit<'_>>> = BTreeMap::new();
    for usable in usable.iter().filter(|usable| !usable.condition.blocks.is_empty()) {
        groups.entry(group_key(&usable.limit.patron_group)).or_default().push(usable);
    }
    let mut findings: BTreeMap<(SettingsFindingKind, Uuid), SettingsFinding> = BTreeMap::new();
    for limits in groups.values() {
        for (usable, visibility) in limits.iter().zip(visibilities(limits)) {
            let (kind, effect) = match visibility {
                Visibility { is_always_hidden: true, .. } => {
                    (SettingsFindingKind::MessageHidden, effect::MESSAGE_HIDDEN)
                }
                Visibility { is_sometimes_hidden: true, .. } => {
                    (SettingsFindingKind::MessageSometimesHidden, effect::MESSAGE_SOMETIMES_HIDDEN)
                }
                _ => continue,
            };
            let finding = findings.entry((kind, usable.condition.id)).or_insert_with(|| {
                SettingsFinding::about_condition(kind, usable.condition, effect.to_owned())
            });
            let group = &usable.limit.patron_group;
            if !finding.groups.last().is_some_and(|last| last.eq_ignore_ascii_case(group)) {
                finding.groups.push(group.clone());
            }
            finding.limits.push(usable.limit.id);
        }
    }
    findings.into_values().collect()
}

/// Returns the visibility of each limit of one patron group.
fn visibilities(limits: &[&UsableLimit<'_>]) -> Vec<Visibility> {
    let unknown = Visibility { is_always_hidden: true, is_sometimes_hidden: false };
    let mut visibilities = vec![unknown; limits.len()];
    let in_response: Vec<usize> = (0..limits.len()).collect();
    let mut by_change = in_response.clone();
    by_change.sort_by(|one, other| by_latest_change(limits[*one], limits[*other]));
    let requests = Actions { requests: true, ..Actions::NONE };
    let windows = [(requests, in_response), (Actions::ALL.difference(requests), by_change)];
    for (actions, order) in windows {
        for (position, index) in order.iter().enumerate() {
            let earlier = &order[..position.min(COMPARED_LIMITS_MAX)];
            let earlier: Vec<_> = earlier.iter().map(|index| limits[*index]).collect();
            let (usable, visibility) = (limits[*index], &mut visibilities[*index]);
            for action in usable.condition.blocks.intersection(actions).iter() {
                let shown = earlier.iter().filter(|other| other.condition.blocks.contains(action));
                let reached = shown.clone().filter(|other| usable.implies(other, action));
                visibility.is_always_hidden &= reached.count() >= SHOWN_MESSAGES_MAX;
                visibility.is_sometimes_hidden |= shown.count() >= SHOWN_MESSAGES_MAX;
            }
        }
    }
    visibilities
}

/// Compares limits in the order of ui-users: the latest change first, and limits without a date before all others.
fn by_latest_change(one: &UsableLimit<'_>, other: &UsableLimit<'_>) -> Ordering {
    match (&one.limit.updated_date, &other.limit.updated_date) {
        (Some(one), Some(other)) => other.cmp(one),
        (one, other) => one.is_some().cmp(&other.is_some()),
    }
}

impl UsableLimit<'_> {
    fn threshold(&self, action: Action) -> Option<Threshold> {
        let finding = Finding {
            limit: self.limit,
            condition: self.condition,
            measured: None,
            reached: Actions::NONE,
            blocked: Actions::NONE,
        };
        finding.threshold(action)
    }

    /// Returns whether every patron who reaches this limit for `action` also reaches the other one. Lost items,
    /// overdue items and overdue recalls are all charged out, and overdue recalls are overdue items.
    fn implies(&self, other: &UsableLimit<'_>, action: Action) -> bool {
        use Measure::{ChargedOut, LostItems, OverdueItems, OverdueRecalls, RecallOverdueDays};
        match (self.threshold(action), other.threshold(action)) {
            // Every patron with open items reaches the other limit.
            (Some(_), Some(Threshold::Count(..=0))) => true,
            (Some(Threshold::Count(own)), Some(Threshold::Count(others))) => {
                match (self.measure, other.measure) {
                    (measure, other_measure) if measure == other_measure => own >= others,
                    (LostItems | OverdueItems | OverdueRecalls, ChargedOut)
                    | (OverdueRecalls, OverdueItems) => own >= others,
                    // An overdue recall is overdue for one day at least.
                    (OverdueRecalls, RecallOverdueDays) => own >= 1 && others <= 1,
                    (RecallOverdueDays, ChargedOut | OverdueItems | OverdueRecalls) => others <= 1,
                    _ => false,
                }
            }
            // Only the balance has such a threshold.
            (Some(Threshold::Above(own)), Some(Threshold::Above(others))) => own >= others,
            _ => false,
        }
    }
}
