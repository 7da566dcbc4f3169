//! Finds settings that cannot be right: limits, conditions and messages without an effect, or with an effect
//! that a settings page does not show. `docs/operations.md` lists the kinds of findings.

mod effect;
mod hidden_messages;
mod placeholders;

use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use super::{Condition, Limit, Measure};

/// Number of patron groups that the settings pages of ui-users list.
pub const LISTED_GROUPS_MAX: usize = 200;

/// A patron group of mod-users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PatronGroup {
    /// Its id; comparison ignores case.
    pub id: String,
    /// Its name in the settings pages; may be empty.
    pub name: String,
}

/// The settings of a tenant, the input of a check.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// All readable limits, in the order of their creation.
    pub limits: &'a [Limit],
    /// Number of stored limits that the evaluation ignores, because their records are unreadable.
    pub unreadable_limits: usize,
    /// All readable conditions.
    pub conditions: &'a [Condition],
    /// Number of stored conditions that the evaluation ignores, because their records are unreadable.
    pub unreadable_conditions: usize,
    /// All patron groups, ordered by name as in the settings pages; `None` if any group may be missing.
    pub groups: Option<&'a [PatronGroup]>,
}

/// How certainly a finding is a mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The setting does not do what it shows.
    Error,
    /// The setting does what it shows, and the effect is probably not intended.
    Warning,
    /// The setting may be intended.
    Info,
}

impl Severity {
    /// Returns the name in responses and in the output of the command.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// The kind of a finding. The list is closed and ordered by severity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SettingsFindingKind {
    /// The record of a limit has no id or no patron group.
    UnreadableLimit,
    /// The record of a condition has no id.
    UnreadableCondition,
    /// A limit has no value that is a number.
    LimitWithoutValue,
    /// A limit names no existing condition, or a condition other than the six.
    UnknownCondition,
    /// The value of a limit is below 0.
    NegativeValue,
    /// A patron group has several limits of one condition.
    DuplicateLimit,
    /// A condition has limits and blocks no action.
    ConditionBlocksNothing,
    /// A limit names a patron group that mod-users does not have.
    UnknownGroup,
    /// The settings pages do not list a patron group.
    GroupNotListed,
    /// The limit of a count or of days is not a whole number.
    FractionalValue,
    /// The limit of items charged out is 0.
    ChargedOutZero,
    /// The limit of days is 0.
    RecallDaysZero,
    /// A message has a placeholder that the service does not fill in.
    UnknownPlaceholder,
    /// A condition has a message and blocks no action.
    MessageWithoutAction,
    /// Three limits that come first are reached whenever this limit is reached, so no window shows its message.
    MessageHidden,
    /// A condition blocks actions, and a patron group has no limit of the condition.
    GroupWithoutLimit,
    /// Three limits that come first can be reached together with this limit; then a window omits its message.
    MessageSometimesHidden,
}

impl SettingsFindingKind {
    /// All kinds.
    pub const ALL: [Self; 17] = [
        Self::UnreadableLimit,
        Self::UnreadableCondition,
        Self::LimitWithoutValue,
        Self::UnknownCondition,
        Self::NegativeValue,
        Self::DuplicateLimit,
        Self::ConditionBlocksNothing,
        Self::UnknownGroup,
        Self::GroupNotListed,
        Self::FractionalValue,
        Self::ChargedOutZero,
        Self::RecallDaysZero,
        Self::UnknownPlaceholder,
        Self::MessageWithoutAction,
        Self::MessageHidden,
        Self::GroupWithoutLimit,
        Self::MessageSometimesHidden,
    ];

    /// Returns the name in responses and in the output of the command.
    pub const fn name(self) -> &'static str {
        match self {
            Self::UnreadableLimit => "unreadable-limit",
            Self::UnreadableCondition => "unreadable-condition",
            Self::LimitWithoutValue => "limit-without-value",
            Self::UnknownCondition => "unknown-condition",
            Self::NegativeValue => "negative-value",
            Self::DuplicateLimit => "duplicate-limit",
            Self::ConditionBlocksNothing => "condition-blocks-nothing",
            Self::UnknownGroup => "unknown-group",
            Self::GroupNotListed => "group-not-listed",
            Self::FractionalValue => "fractional-value",
            Self::ChargedOutZero => "charged-out-zero",
            Self::RecallDaysZero => "recall-days-zero",
            Self::UnknownPlaceholder => "unknown-placeholder",
            Self::MessageWithoutAction => "message-without-action",
            Self::MessageHidden => "message-hidden",
            Self::GroupWithoutLimit => "group-without-limit",
            Self::MessageSometimesHidden => "message-sometimes-hidden",
        }
    }

    /// Returns the severity of every finding of this kind.
    pub const fn severity(self) -> Severity {
        match self {
            Self::UnreadableLimit
            | Self::UnreadableCondition
            | Self::LimitWithoutValue
            | Self::UnknownCondition
            | Self::NegativeValue
            | Self::DuplicateLimit
            | Self::ConditionBlocksNothing => Severity::Error,
            Self::UnknownGroup
            | Self::GroupNotListed
            | Self::FractionalValue
            | Self::ChargedOutZero
            | Self::RecallDaysZero
            | Self::UnknownPlaceholder
            | Self::MessageWithoutAction
            | Self::MessageHidden => Severity::Warning,
            Self::GroupWithoutLimit | Self::MessageSometimesHidden => Severity::Info,
        }
    }
}

/// One setting, or several of the same kind, that cannot be right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SettingsFinding {
    /// The kind.
    pub kind: SettingsFindingKind,
    /// The condition that the finding concerns, if it concerns one.
    pub condition: Option<Uuid>,
    /// Ids of the patron groups that the finding concerns, as stored.
    pub groups: Vec<String>,
    /// The limits that the finding concerns, in the order of their creation.
    pub limits: Vec<Uuid>,
    /// The effect on patrons and staff, in one sentence.
    pub effect: String,
}

impl SettingsFinding {
    fn new(kind: SettingsFindingKind, effect: String) -> Self {
        Self { kind, condition: None, groups: Vec::new(), limits: Vec::new(), effect }
    }

    /// Returns a finding about limits of one patron group.
    fn about_limits<'a>(
        kind: SettingsFindingKind,
        limits: impl IntoIterator<Item = &'a Limit>,
        effect: String,
    ) -> Self {
        let mut finding = Self::new(kind, effect);
        for limit in limits {
            if finding.groups.is_empty() {
                finding.groups.push(limit.patron_group.clone());
                finding.condition = limit.condition;
            }
            finding.limits.push(limit.id);
        }
        finding
    }

    fn about_condition(kind: SettingsFindingKind, condition: &Condition, effect: String) -> Self {
        Self { condition: Some(condition.id), ..Self::new(kind, effect) }
    }
}

/// A limit with a value and with one of the six conditions.
#[derive(Debug, Clone, Copy)]
struct UsableLimit<'a> {
    limit: &'a Limit,
    condition: &'a Condition,
    measure: Measure,
    value: f64,
}

/// Returns the key of a patron group: ids are equal in upper and lower case.
fn group_key(id: &str) -> String {
    id.to_ascii_lowercase()
}

/// Returns all findings, ordered by kind. A limit of a patron group that does not exist has no other finding.
pub fn check_settings(settings: &Settings<'_>) -> Vec<SettingsFinding> {
    let mut findings = unreadable_records(settings);
    findings.extend(unknown_groups(settings));
    findings.extend(unlisted_groups(settings));
    let limits = limits_of_existing_groups(settings);
    findings.extend(limits.iter().filter_map(|limit| unusable_limit(settings, limit)));
    let usable: Vec<UsableLimit<'_>> =
        limits.iter().filter_map(|limit| usable_limit(settings, limit)).collect();
    findings.extend(usable.iter().filter_map(unlikely_value));
    findings.extend(duplicates(settings, &limits));
    for condition in &known_conditions(settings) {
        findings.extend(condition_without_action(condition, &limits));
        findings.extend(groups_without_limit(settings, condition, &limits));
        findings.extend(placeholders::unknown_placeholders(condition));
    }
    findings.extend(hidden_messages::hidden_messages(&usable));
    findings.sort_by_key(|finding| finding.kind);
    findings
}

/// Returns the conditions that have a measure, in the order of the seeded conditions.
fn known_conditions<'a>(settings: &Settings<'a>) -> Vec<&'a Condition> {
    let find = |measure: Measure| {
        settings.conditions.iter().find(|condition| condition.id == measure.condition_id())
    };
    Measure::ALL.into_iter().filter_map(find).collect()
}

fn condition_of<'a>(settings: &Settings<'a>, limit: &Limit) -> Option<(&'a Condition, Measure)> {
    let condition = settings.conditions.iter().find(|c| Some(c.id) == limit.condition)?;
    Some((condition, Measure::from_condition_id(condition.id)?))
}

fn usable_limit<'a>(settings: &Settings<'a>, limit: &'a Limit) -> Option<UsableLimit<'a>> {
    let (condition, measure) = condition_of(settings, limit)?;
    Some(UsableLimit { limit, condition, measure, value: limit.value? })
}

fn existing_groups(settings: &Settings<'_>) -> Option<HashSet<String>> {
    settings.groups.map(|groups| groups.iter().map(|group| group_key(&group.id)).collect())
}

/// Returns the limits without those of patron groups that do not exist.
fn limits_of_existing_groups<'a>(settings: &Settings<'a>) -> Vec<&'a Limit> {
    let existing = existing_groups(settings);
    let exists = |limit: &&Limit| {
        existing.as_ref().is_none_or(|groups| groups.contains(&group_key(&limit.patron_group)))
    };
    settings.limits.iter().filter(exists).collect()
}

fn unreadable_records(settings: &Settings<'_>) -> Vec<SettingsFinding> {
    let records = [
        (SettingsFindingKind::UnreadableLimit, settings.unreadable_limits),
        (SettingsFindingKind::UnreadableCondition, settings.unreadable_conditions),
    ];
    let unreadable = records.into_iter().filter(|(_, count)| *count > 0);
    unreadable
        .map(|(kind, count)| SettingsFinding::new(kind, effect::unreadable_records(kind, count)))
        .collect()
}

/// Returns a finding per patron group that has limits and does not exist.
fn unknown_groups(settings: &Settings<'_>) -> Vec<SettingsFinding> {
    let Some(existing) = existing_groups(settings) else { return Vec::new() };
    let mut unknown: BTreeMap<String, Vec<&Limit>> = BTreeMap::new();
    for limit in settings.limits {
        let group = group_key(&limit.patron_group);
        if !existing.contains(&group) {
            unknown.entry(group).or_default().push(limit);
        }
    }
    let finding = |limits: Vec<&Limit>| {
        let effect = effect::unknown_group(limits.len());
        let about =
            SettingsFinding::about_limits(SettingsFindingKind::UnknownGroup, limits, effect);
        SettingsFinding { condition: None, ..about }
    };
    unknown.into_values().map(finding).collect()
}

/// Returns a finding about the patron groups after the last one that the settings pages list.
fn unlisted_groups(settings: &Settings<'_>) -> Option<SettingsFinding> {
    let unlisted = settings.groups?.get(LISTED_GROUPS_MAX..).filter(|groups| !groups.is_empty())?;
    let effect = effect::groups_not_listed(unlisted.len());
    let groups: Vec<String> = unlisted.iter().map(|group| group.id.clone()).collect();
    let keys: HashSet<String> = groups.iter().map(|group| group_key(group)).collect();
    let concerned =
        settings.limits.iter().filter(|limit| keys.contains(&group_key(&limit.patron_group)));
    let limits = concerned.map(|limit| limit.id).collect();
    let finding = SettingsFinding::new(SettingsFindingKind::GroupNotListed, effect);
    Some(SettingsFinding { groups, limits, ..finding })
}

/// Returns the finding about a limit that no patron can reach, because its record lacks something.
fn unusable_limit(settings: &Settings<'_>, limit: &Limit) -> Option<SettingsFinding> {
    let (kind, effect) = if condition_of(settings, limit).is_none() {
        (SettingsFindingKind::UnknownCondition, effect::UNKNOWN_CONDITION)
    } else if limit.value.is_none() {
        (SettingsFindingKind::LimitWithoutValue, effect::LIMIT_WITHOUT_VALUE)
    } else {
        return None;
    };
    Some(SettingsFinding::about_limits(kind, [limit], effect.to_owned()))
}

/// Returns the finding about a value that is below 0, not whole, or 0 with a surprising effect. A condition that
/// blocks nothing has a finding of its own, so its whole values have none.
fn unlikely_value(usable: &UsableLimit<'_>) -> Option<SettingsFinding> {
    let UsableLimit { limit, condition, measure, value } = *usable;
    let is_count = measure != Measure::FeeFineBalance;
    let blocks = condition.blocks;
    let (kind, effect) = if value < 0.0 {
        (SettingsFindingKind::NegativeValue, effect::negative_value(measure, value, blocks))
    } else if is_count && value.fract() != 0.0 {
        (SettingsFindingKind::FractionalValue, effect::fractional_value(measure, value, blocks))
    } else if value != 0.0 || blocks.is_empty() {
        return None;
    } else {
        match measure {
            Measure::ChargedOut => {
                (SettingsFindingKind::ChargedOutZero, effect::charged_out_zero(blocks))
            }
            Measure::RecallOverdueDays => {
                (SettingsFindingKind::RecallDaysZero, effect::recall_days_zero(blocks))
            }
            Measure::LostItems
            | Measure::OverdueItems
            | Measure::OverdueRecalls
            | Measure::FeeFineBalance => return None,
        }
    };
    Some(SettingsFinding::about_limits(kind, [limit], effect))
}

/// Returns a finding per patron group and condition with several limits.
fn duplicates(settings: &Settings<'_>, limits: &[&Limit]) -> Vec<SettingsFinding> {
    let mut pairs: BTreeMap<(String, Uuid), Vec<&Limit>> = BTreeMap::new();
    for limit in limits {
        if let Some((condition, _)) = condition_of(settings, limit) {
            let pair = (group_key(&limit.patron_group), condition.id);
            pairs.entry(pair).or_default().push(limit);
        }
    }
    let several = pairs.into_values().filter(|limits| limits.len() > 1);
    let finding = |limits: Vec<&Limit>| {
        let effect = effect::duplicate_limits(limits.iter().map(|limit| limit.value));
        SettingsFinding::about_limits(SettingsFindingKind::DuplicateLimit, limits, effect)
    };
    several.map(finding).collect()
}

/// Returns the findings about a condition that blocks no action although it has limits or a message.
fn condition_without_action(condition: &Condition, limits: &[&Limit]) -> Vec<SettingsFinding> {
    let mut findings = Vec::new();
    if !condition.blocks.is_empty() {
        return findings;
    }
    let concerned: Vec<&&Limit> =
        limits.iter().filter(|limit| limit.condition == Some(condition.id)).collect();
    if !concerned.is_empty() {
        let effect = effect::condition_blocks_nothing(concerned.len());
        let kind = SettingsFindingKind::ConditionBlocksNothing;
        let mut finding = SettingsFinding::about_condition(kind, condition, effect);
        let mut seen = HashSet::new();
        for limit in concerned {
            finding.limits.push(limit.id);
            if seen.insert(group_key(&limit.patron_group)) {
                finding.groups.push(limit.patron_group.clone());
            }
        }
        findings.push(finding);
    }
    if !condition.message.trim().is_empty() {
        let (kind, effect) =
            (SettingsFindingKind::MessageWithoutAction, effect::MESSAGE_WITHOUT_ACTION.to_owned());
        findings.push(SettingsFinding::about_condition(kind, condition, effect));
    }
    findings
}

/// Returns the finding about a condition that blocks actions, if a patron group has no limit of it. Without the
/// list of patron groups, the groups are those with any limit.
fn groups_without_limit(
    settings: &Settings<'_>,
    condition: &Condition,
    limits: &[&Limit],
) -> Option<SettingsFinding> {
    if condition.blocks.is_empty() {
        return None;
    }
    let concerned = limits.iter().filter(|limit| limit.condition == Some(condition.id));
    let limited: HashSet<String> = concerned.map(|limit| group_key(&limit.patron_group)).collect();
    let groups: Vec<&String> = match settings.groups {
        Some(groups) => groups.iter().map(|group| &group.id).collect(),
        None => limits.iter().map(|limit| &limit.patron_group).collect(),
    };
    let mut seen = HashSet::new();
    let is_new_without_limit = |group: &&String| {
        let key = group_key(group);
        !limited.contains(&key) && seen.insert(key)
    };
    let unlimited: Vec<String> = groups.into_iter().filter(is_new_without_limit).cloned().collect();
    if unlimited.is_empty() && !limited.is_empty() {
        return None;
    }
    let effect = effect::groups_without_limit(condition.blocks, unlimited.len(), limited.len());
    let kind = SettingsFindingKind::GroupWithoutLimit;
    let finding = SettingsFinding::about_condition(kind, condition, effect);
    Some(SettingsFinding { groups: unlimited, ..finding })
}
