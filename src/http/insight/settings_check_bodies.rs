//! The body of a settings check. The command line prints the same body.

use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::explanation_bodies::MeasureName;
use crate::{
    blocks::{self, Measure},
    clock,
    services::settings_check::CheckedSettings,
};

/// Maximum number of findings in a body.
const FINDINGS_MAX: usize = 1000;

/// The settings of a tenant that cannot be right.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SettingsCheck {
    #[serde(serialize_with = "clock::serialize")]
    checked_at: DateTime<Utc>,
    /// Number of limits.
    #[schema(value_type = u64)]
    limits: usize,
    /// Number of conditions.
    #[schema(value_type = u64)]
    conditions: usize,
    /// Whether the list of patron groups was available. Otherwise no finding compares limits with groups.
    groups_checked: bool,
    /// Why the list of patron groups was not available.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<GroupsUncheckedCause>)]
    groups_unchecked_because: Option<&'static str>,
    /// Number of patron groups, if the list was available.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<u64>)]
    groups: Option<usize>,
    /// The findings by severity, errors first; at most 1,000.
    pub(crate) findings: Vec<SettingsFinding>,
    /// Number of all findings.
    #[schema(value_type = u64)]
    total_records: usize,
}

/// One setting, or several of the same kind, that cannot be right.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct SettingsFinding {
    #[schema(value_type = SettingsFindingKindName)]
    pub(crate) kind: &'static str,
    #[schema(value_type = SeverityName)]
    pub(crate) severity: &'static str,
    /// Absent if the finding concerns no single condition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) patron_block_condition_id: Option<Uuid>,
    /// Absent if the condition is not one of the six.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<MeasureName>)]
    pub(crate) measure: Option<&'static str>,
    /// Patron groups that the finding concerns.
    pub(crate) patron_groups: Vec<FindingGroup>,
    /// Limits that the finding concerns, in the order of the blocks.
    pub(crate) patron_block_limit_ids: Vec<Uuid>,
    /// The effect on patrons and staff, in one sentence.
    pub(crate) effect: String,
    /// Number of patrons with open items in these patron groups, as far as the groups of patrons are known; absent
    /// without patron groups, or if the count took too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) patrons_with_open_items: Option<i64>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct FindingGroup {
    /// The id, as the limit or mod-users has it.
    pub(crate) id: String,
    /// Absent if the list of patron groups was not available or lacks the group.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) name: Option<String>,
}

names! { SeverityName { Error, Warning, Info } }
names! {
    GroupsUncheckedCause {
        CommandLine, CircuitOpen, NoResponse, ErrorStatus, InvalidBody, Incomplete, TooMany
    }
}
names! {
    SettingsFindingKindName {
        UnreadableLimit, UnreadableCondition, LimitWithoutValue, UnknownCondition, NegativeValue, DuplicateLimit,
        ConditionBlocksNothing, UnknownGroup, GroupNotListed, FractionalValue, ChargedOutZero, RecallDaysZero,
        UnknownPlaceholder, MessageWithoutAction, MessageHidden, GroupWithoutLimit, MessageSometimesHidden,
    }
}

impl SettingsCheck {
    pub(crate) fn new(checked: &CheckedSettings) -> Self {
        let findings = checked.findings.iter().take(FINDINGS_MAX);
        Self {
            checked_at: checked.checked_at,
            limits: checked.limits,
            conditions: checked.conditions,
            groups_checked: checked.groups.is_ok(),
            groups_unchecked_because: checked.groups.as_ref().err().map(|cause| cause.name()),
            groups: checked.groups.as_ref().ok().map(Vec::len),
            findings: findings.map(|finding| SettingsFinding::new(checked, finding)).collect(),
            total_records: checked.findings.len(),
        }
    }
}

impl SettingsFinding {
    fn new(checked: &CheckedSettings, finding: &blocks::SettingsFinding) -> Self {
        let group = |id: &String| FindingGroup {
            id: id.clone(),
            name: checked.group_name(id).map(str::to_owned),
        };
        let measure = finding.condition.and_then(Measure::from_condition_id);
        Self {
            kind: finding.kind.name(),
            severity: finding.kind.severity().name(),
            patron_block_condition_id: finding.condition,
            measure: measure.map(Measure::code),
            patron_groups: finding.groups.iter().map(group).collect(),
            patron_block_limit_ids: finding.limits.clone(),
            effect: finding.effect.clone(),
            patrons_with_open_items: checked.patrons_of(finding),
        }
    }
}
