//! What the service does with an evaluation that is not certain (docs/contract/insight.md#7-policy).

use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::{Actions, CertaintyState, Finding};

/// The reaction to an evaluation that is not certain, for one action.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UncertainReaction {
    /// The evaluation counts as it is.
    #[default]
    AsKnown,
    /// The action is blocked.
    Block,
    /// The action is not blocked.
    Allow,
    /// The service asks the storage modules for the open loans and fees/fines of the patron.
    Ask,
}

impl UncertainReaction {
    /// All reactions.
    pub const ALL: [Self; 4] = [Self::AsKnown, Self::Block, Self::Allow, Self::Ask];

    /// Returns the name in bodies and headers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AsKnown => "as-known",
            Self::Block => "block",
            Self::Allow => "allow",
            Self::Ask => "ask",
        }
    }
}

/// The reactions for the three actions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reactions {
    /// The reaction for borrowing.
    pub borrowing: UncertainReaction,
    /// The reaction for renewals.
    pub renewals: UncertainReaction,
    /// The reaction for requests.
    pub requests: UncertainReaction,
}

impl Reactions {
    /// Returns the actions with this reaction.
    pub fn actions_with(&self, reaction: UncertainReaction) -> Actions {
        Actions {
            borrowing: self.borrowing == reaction,
            renewals: self.renewals == reaction,
            requests: self.requests == reaction,
        }
    }

    /// Removes the allowed actions from the blocks. Returns the actions to block in addition.
    pub fn apply(&self, findings: &mut [Finding<'_>]) -> Actions {
        let allowed = self.actions_with(UncertainReaction::Allow);
        for finding in findings {
            finding.blocked = finding.blocked.difference(allowed);
        }
        self.actions_with(UncertainReaction::Block)
    }
}

/// The reactions to the states in which an evaluation may be wrong.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StateReactions {
    /// The reactions to a late evaluation.
    pub late: Reactions,
    /// The reactions to an incomplete history.
    pub incomplete: Reactions,
    /// The reactions to a doubtful evaluation.
    pub doubtful: Reactions,
}

/// The policy of a tenant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CertaintyPolicy {
    /// Age in seconds from which an evaluation is late.
    pub late_seconds: u32,
    /// Longest time in milliseconds that an evaluation waits for the storage modules.
    pub ask_deadline_ms: u32,
    /// Message of the block that the reaction `block` adds.
    pub message: String,
    /// The reactions by state.
    pub policy: StateReactions,
}

/// The message of an added block if the policy has none.
const DEFAULT_MESSAGE: &str =
    "The service cannot verify at this moment whether this action is allowed.";

impl Default for CertaintyPolicy {
    fn default() -> Self {
        Self {
            late_seconds: 60,
            ask_deadline_ms: 1_500,
            message: DEFAULT_MESSAGE.to_owned(),
            policy: StateReactions::default(),
        }
    }
}

impl CertaintyPolicy {
    /// Returns the age from which an evaluation is late.
    pub fn late_after(&self) -> TimeDelta {
        TimeDelta::seconds(self.late_seconds.into())
    }

    /// Returns the longest time that an evaluation waits for the storage modules.
    pub fn ask_deadline(&self) -> Duration {
        Duration::from_millis(self.ask_deadline_ms.into())
    }

    /// Returns the reactions to a state. A certain evaluation needs none, and a setting decides about `unknown`.
    pub fn reactions(&self, state: CertaintyState) -> Reactions {
        match state {
            CertaintyState::Late => self.policy.late,
            CertaintyState::Incomplete => self.policy.incomplete,
            CertaintyState::Doubtful => self.policy.doubtful,
            CertaintyState::Certain | CertaintyState::Unknown => Reactions::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn stored_policy_may_lack_members() {
        let stored = json!({ "policy": { "late": { "borrowing": "ask" } } });
        let policy: CertaintyPolicy = serde_json::from_value(stored).unwrap();
        let late = Reactions { borrowing: UncertainReaction::Ask, ..Reactions::default() };
        assert_eq!(policy.reactions(CertaintyState::Late), late);
        let others = [CertaintyState::Certain, CertaintyState::Incomplete, CertaintyState::Unknown];
        for state in others {
            assert_eq!(policy.reactions(state), Reactions::default());
        }
        let defaults = (policy.late_after(), policy.ask_deadline());
        assert_eq!(defaults, (TimeDelta::seconds(60), Duration::from_millis(1_500)));
        assert!(!policy.message.is_empty());
    }

    #[test]
    fn reactions_change_only_their_actions() {
        use crate::blocks::{Action, Condition, Limit, Measure};
        let reactions = Reactions {
            borrowing: UncertainReaction::Allow,
            renewals: UncertainReaction::Block,
            requests: UncertainReaction::Ask,
        };
        let actions = |reaction| reactions.actions_with(reaction).iter().collect::<Vec<_>>();
        assert_eq!(actions(UncertainReaction::Allow), [Action::Borrowing]);
        assert_eq!(actions(UncertainReaction::Block), [Action::Renewals]);
        assert_eq!(actions(UncertainReaction::Ask), [Action::Requests]);
        assert_eq!(actions(UncertainReaction::AsKnown), []);
        let id = Measure::ChargedOut.condition_id();
        let limit = Limit {
            id,
            patron_group: String::new(),
            condition: Some(id),
            value: Some(0.0),
            created_date: None,
            updated_date: None,
        };
        let condition = Condition { id, blocks: Actions::ALL, message: String::new() };
        let (limit, condition) = (&limit, &condition);
        let (reached, blocked) = (Actions::ALL, Actions::ALL);
        let mut findings = [Finding { limit, condition, measured: None, reached, blocked }];
        let added = reactions.apply(&mut findings);
        assert_eq!(added, reactions.actions_with(UncertainReaction::Block));
        assert_eq!(findings[0].blocked, Actions { borrowing: false, ..Actions::ALL });
        assert_eq!(findings[0].reached, Actions::ALL);
    }

    #[test]
    fn names_of_reactions_are_those_of_the_stored_policy() {
        for reaction in UncertainReaction::ALL {
            assert_eq!(json!(reaction), json!(reaction.name()));
        }
    }
}
