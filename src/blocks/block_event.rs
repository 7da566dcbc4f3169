//! What others are told of a patron's blocks, and when there is something to tell.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{Actions, Finding, MeasuredValue};

/// Why a patron was looked at. A closed list: it is part of what is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// Something happened to a loan or a fee/fine.
    Event,
    /// A limit was set, changed or removed.
    LimitChanged,
    /// What a condition blocks was changed, or its message.
    ConditionChanged,
    /// A loan got overdue, or an overdue recall a day older.
    TimePassed,
    /// What is known of the patron was put right.
    Rebuild,
    /// The patron has another patron group, or it is known now.
    PatronGroupChanged,
    /// Messages are wanted from now on.
    PublishingEnabled,
    /// Somebody had all summaries published.
    Iteration,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Event,
        Self::LimitChanged,
        Self::ConditionChanged,
        Self::TimePassed,
        Self::Rebuild,
        Self::PatronGroupChanged,
        Self::PublishingEnabled,
        Self::Iteration,
    ];

    /// As stored and told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Event => "event",
            Self::LimitChanged => "limit_changed",
            Self::ConditionChanged => "condition_changed",
            Self::TimePassed => "time_passed",
            Self::Rebuild => "rebuild",
            Self::PatronGroupChanged => "patron_group_changed",
            Self::PublishingEnabled => "publishing_enabled",
            Self::Iteration => "iteration",
        }
    }

    /// The cause of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }
}

/// A patron's blocks as they are told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AutomatedBlocks {
    /// The patron.
    pub user_id: Uuid,
    /// Whether any block is of borrowing.
    pub block_borrowing: bool,
    /// Whether any is of renewals.
    pub block_renewals: bool,
    /// Whether any is of requests.
    pub block_requests: bool,
    /// Each of them, in the order of the desk's answer.
    pub blocks: Vec<Block>,
    /// Why it was looked at when this was told.
    pub cause: Cause,
}

/// One block, as the desk is told of it, with the numbers that were compared.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// The condition.
    pub patron_block_condition_id: Uuid,
    /// The limit that is reached.
    pub patron_block_limit_id: Uuid,
    /// Whether borrowing is blocked.
    pub block_borrowing: bool,
    /// Whether renewals are.
    pub block_renewals: bool,
    /// Whether requests are.
    pub block_requests: bool,
    /// What the desk is shown.
    pub message: String,
    /// The limit's value.
    pub limit: f64,
    /// The number that was compared with it.
    pub measured: Value,
}

/// Limits that a patron is near to, without having reached them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApproachingLimits {
    /// The patron.
    pub user_id: Uuid,
    /// Each of them.
    pub limits: Vec<ApproachingLimit>,
    /// Why it was looked at when this was told.
    pub cause: Cause,
}

/// A limit that is near.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApproachingLimit {
    /// Its condition.
    pub patron_block_condition_id: Uuid,
    /// The limit.
    pub patron_block_limit_id: Uuid,
    /// Its value.
    pub limit: f64,
    /// The number that was compared with it.
    pub measured: Value,
}

/// What is told of something: the number is part of it, but no reason to tell it again.
pub trait Comparable: PartialEq {
    /// Whether a client that acts on it would do anything else with the other.
    fn is_equivalent(&self, other: &Self) -> bool;
}

impl AutomatedBlocks {
    /// What is told of findings; nothing where they block nothing.
    pub fn from_findings(user_id: Uuid, findings: &[Finding<'_>], cause: Cause) -> Option<Self> {
        let blocks: Vec<Block> = findings.iter().filter_map(Block::from_finding).collect();
        (!blocks.is_empty()).then(|| Self {
            user_id,
            block_borrowing: blocks.iter().any(|block| block.block_borrowing),
            block_renewals: blocks.iter().any(|block| block.block_renewals),
            block_requests: blocks.iter().any(|block| block.block_requests),
            blocks,
            cause,
        })
    }
}

impl Comparable for AutomatedBlocks {
    fn is_equivalent(&self, other: &Self) -> bool {
        let content = |blocked: &Self| -> Vec<_> {
            let blocks = blocked.blocks.iter();
            let key = |block: &Block| (block.patron_block_condition_id, block.actions());
            blocks.map(|block| (key(block), block.message.clone())).collect()
        };
        content(self) == content(other)
    }
}

impl Block {
    fn from_finding(finding: &Finding<'_>) -> Option<Self> {
        let Actions { borrowing, renewals, requests } = finding.blocked;
        (!finding.blocked.is_empty()).then(|| Self {
            patron_block_condition_id: finding.condition.id,
            patron_block_limit_id: finding.limit.id,
            block_borrowing: borrowing,
            block_renewals: renewals,
            block_requests: requests,
            message: finding.condition.message.clone(),
            limit: finding.limit.value.unwrap_or_default(),
            measured: measured_json(finding.measured),
        })
    }

    fn actions(&self) -> Actions {
        Actions {
            borrowing: self.block_borrowing,
            renewals: self.block_renewals,
            requests: self.block_requests,
        }
    }
}

impl ApproachingLimits {
    /// The limits that are not reached and that the patron is within `percent` of; none for 0.
    pub fn from_findings(
        user_id: Uuid,
        findings: &[Finding<'_>],
        percent: u8,
        cause: Cause,
    ) -> Option<Self> {
        let limits: Vec<ApproachingLimit> = findings
            .iter()
            .filter_map(|finding| ApproachingLimit::from_finding(finding, percent))
            .collect();
        (!limits.is_empty()).then_some(Self { user_id, limits, cause })
    }
}

impl Comparable for ApproachingLimits {
    fn is_equivalent(&self, other: &Self) -> bool {
        let limit_ids = |approaching: &Self| -> Vec<Uuid> {
            approaching.limits.iter().map(|near| near.patron_block_limit_id).collect()
        };
        limit_ids(self) == limit_ids(other)
    }
}

impl ApproachingLimit {
    fn from_finding(finding: &Finding<'_>, percent: u8) -> Option<Self> {
        let limit = finding.limit.value.filter(|limit| percent > 0 && *limit > 0.0)?;
        if finding.condition.blocks.is_empty() || !finding.blocked.is_empty() {
            return None;
        }
        let measured = match finding.measured? {
            MeasuredValue::Count(count) => Decimal::from(count),
            MeasuredValue::Money(sum) => sum,
        };
        let share = Decimal::from(100 - percent.min(100)) / Decimal::ONE_HUNDRED;
        let threshold = super::Limit::exact_decimal(limit)?.checked_mul(share)?;
        (measured >= threshold && !measured.is_zero()).then(|| Self {
            patron_block_condition_id: finding.condition.id,
            patron_block_limit_id: finding.limit.id,
            limit,
            measured: measured_json(finding.measured),
        })
    }
}

fn measured_json(measured: Option<MeasuredValue>) -> Value {
    match measured {
        Some(MeasuredValue::Count(count)) => count.into(),
        // Digit by digit: money is no double.
        Some(MeasuredValue::Money(sum)) => {
            serde_json::from_str(&sum.normalize().to_string()).unwrap_or_default()
        }
        None => Value::Null,
    }
}

/// What is to be told, from what was told last to what is so now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    /// There was nothing, and there is something.
    Created,
    /// It is another now.
    Updated,
    /// There is nothing any more.
    Deleted,
}

impl ChangeType {
    /// The change, if there is one.
    pub fn between<T: Comparable>(old: Option<&T>, new: Option<&T>) -> Option<Self> {
        match (old, new) {
            (None, Some(_)) => Some(Self::Created),
            (Some(_), None) => Some(Self::Deleted),
            (Some(old), Some(new)) if !old.is_equivalent(new) => Some(Self::Updated),
            _ => None,
        }
    }

    /// As the platform's events name it (docs/contract/events.md#43-change).
    pub fn name(self) -> &'static str {
        match self {
            Self::Created => "CREATED",
            Self::Updated => "UPDATED",
            Self::Deleted => "DELETED",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::{Condition, Limit, Measure, Measures, evaluate};

    const USER: Uuid = Uuid::from_u128(7);

    fn policy(value: f64, message: &str) -> (Vec<Limit>, Vec<Condition>) {
        let id = Measure::ChargedOut.condition_id();
        let limit = Limit {
            id: Uuid::from_u128(1),
            patron_group: "g".to_owned(),
            condition: Some(id),
            value: Some(value),
        };
        (vec![limit], vec![Condition { id, blocks: Actions::ALL, message: message.to_owned() }])
    }

    fn with_loans(
        loans: i64,
        (limits, conditions): &(Vec<Limit>, Vec<Condition>),
    ) -> Option<AutomatedBlocks> {
        let measures = Measures { open_loans: loans, charged_out: loans, ..Measures::default() };
        AutomatedBlocks::from_findings(USER, &evaluate(&measures, limits, conditions), Cause::Event)
    }

    #[test]
    fn block_event_is_created_only_for_visible_changes() {
        let policy_of = |message| policy(5.0, message);
        let blocks_with = |loans| with_loans(loans, &policy_of("enough"));
        let change =
            |a: i64, b: i64| ChangeType::between(blocks_with(a).as_ref(), blocks_with(b).as_ref());
        assert_eq!(change(3, 4), None);
        assert_eq!(change(4, 5), Some(ChangeType::Created));
        // Renewals and requests follow with the sixth.
        assert_eq!(change(5, 6), Some(ChangeType::Updated));
        // The number alone is nothing new.
        assert_eq!(change(6, 9), None);
        assert_eq!(change(6, 2), Some(ChangeType::Deleted));
        let other = with_loans(6, &policy_of("far too many"));
        assert_eq!(
            ChangeType::between(blocks_with(6).as_ref(), other.as_ref()),
            Some(ChangeType::Updated)
        );
        let lower = with_loans(6, &policy(4.0, "enough"));
        assert_eq!(ChangeType::between(blocks_with(6).as_ref(), lower.as_ref()), None);
    }

    #[test]
    fn limit_is_approaching_within_its_share_until_it_blocks() {
        let (limits, conditions) = policy(10.0, "enough");
        let near = |loans: i64, percent| {
            let measures =
                Measures { open_loans: loans, charged_out: loans, ..Measures::default() };
            let findings = evaluate(&measures, &limits, &conditions);
            ApproachingLimits::from_findings(USER, &findings, percent, Cause::Event).is_some()
        };
        assert_eq!([7, 8, 9, 10].map(|loans| near(loans, 20)), [false, true, true, false]);
        assert!(!near(9, 0));
        assert!(!near(0, 100));
    }

    #[test]
    fn block_event_round_trips_through_json() {
        let blocks = with_loans(6, &policy(5.0, "enough")).unwrap();
        let text = serde_json::to_string(&blocks).unwrap();
        assert_eq!(serde_json::from_str::<AutomatedBlocks>(&text).unwrap(), blocks);
        for cause in Cause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
            assert_eq!(Cause::from_name(cause.name()), Some(cause));
        }
    }
}
