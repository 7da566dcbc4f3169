//! The content of block events, and the rule for when a change is worth an event.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{Actions, Finding, MeasuredValue};

/// The cause of an evaluation. A closed list, because block events contain it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// An event about a loan or a fee/fine.
    Event,
    /// A limit that was created, changed or deleted.
    LimitChanged,
    /// A condition with changed blocks or a changed message.
    ConditionChanged,
    /// A loan that became overdue, or an overdue recall that became a day older.
    TimePassed,
    /// A rebuild that corrected the patron's state.
    Rebuild,
    /// A changed or newly known patron group.
    PatronGroupChanged,
    /// Block events that were switched on.
    PublishingEnabled,
    /// A summary export.
    Iteration,
}

impl Cause {
    /// All causes.
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

    /// Returns the name in the database and in block events.
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

    /// Returns the cause with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|cause| cause.name() == name)
    }
}

/// The content of a block event: all blocks of a patron.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AutomatedBlocks {
    /// The patron.
    pub user_id: Uuid,
    /// Whether any block blocks borrowing.
    pub block_borrowing: bool,
    /// Whether any block blocks renewals.
    pub block_renewals: bool,
    /// Whether any block blocks requests.
    pub block_requests: bool,
    /// The blocks, in the order of the API's response.
    pub blocks: Vec<Block>,
    /// The cause of the evaluation.
    pub cause: Cause,
}

/// One block as in the API's response, with its limit and the measured number.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Block {
    /// The condition.
    pub patron_block_condition_id: Uuid,
    /// The reached limit.
    pub patron_block_limit_id: Uuid,
    /// Whether borrowing is blocked.
    pub block_borrowing: bool,
    /// Whether the block blocks renewals.
    pub block_renewals: bool,
    /// Whether the block blocks requests.
    pub block_requests: bool,
    /// The message for the user at the desk.
    pub message: String,
    /// The value of the limit.
    pub limit: f64,
    /// The number that the evaluation compared with the limit.
    pub measured: Value,
}

/// The content of an approaching-limit event: limits that a patron is close to and has not reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApproachingLimits {
    /// The patron.
    pub user_id: Uuid,
    /// The approaching limits.
    pub limits: Vec<ApproachingLimit>,
    /// The cause of the evaluation.
    pub cause: Cause,
}

/// One approaching limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApproachingLimit {
    /// The condition of the limit.
    pub patron_block_condition_id: Uuid,
    /// The limit.
    pub patron_block_limit_id: Uuid,
    /// The value of the limit.
    pub limit: f64,
    /// The number that the evaluation compared with the limit.
    pub measured: Value,
}

/// The content of a published event. A changed number alone does not cause a new event.
pub trait Comparable: PartialEq {
    /// Returns whether a client would act in the same way on `other`.
    fn is_equivalent(&self, other: &Self) -> bool;
}

impl AutomatedBlocks {
    /// Returns the blocks among the findings; `None` if nothing is blocked.
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
            measured: finding.measured.map(MeasuredValue::to_json).unwrap_or_default(),
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
    /// Returns the unreached limits within `percent` of the patron's measure; `None` if there are none, or
    /// for 0 percent.
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
        let limit = finding.limit.value.filter(|_| percent > 0)?;
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
            measured: finding.measured.map(MeasuredValue::to_json).unwrap_or_default(),
        })
    }
}

/// The change from the last published content to the current content.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    /// The content exists now and did not before.
    Created,
    /// The content is different.
    Updated,
    /// The content existed before and does not now.
    Deleted,
}

impl ChangeType {
    /// Returns the change, if there is one.
    pub fn between<T: Comparable>(old: Option<&T>, new: Option<&T>) -> Option<Self> {
        match (old, new) {
            (None, Some(_)) => Some(Self::Created),
            (Some(_), None) => Some(Self::Deleted),
            (Some(old), Some(new)) if !old.is_equivalent(new) => Some(Self::Updated),
            _ => None,
        }
    }

    /// Returns the type in FOLIO's event envelopes (docs/contract/events.md#43-change).
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
            created_date: None,
            updated_date: None,
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
        // The sixth item blocks renewals and requests as well.
        assert_eq!(change(5, 6), Some(ChangeType::Updated));
        // A changed number alone is no change.
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

    /// Only the list of approached limits decides about an event.
    #[test]
    fn approaching_event_is_created_for_another_limit() {
        let near = |limits: &[u128]| ApproachingLimits {
            user_id: USER,
            limits: limits
                .iter()
                .map(|id| ApproachingLimit {
                    patron_block_condition_id: Measure::ChargedOut.condition_id(),
                    patron_block_limit_id: Uuid::from_u128(*id),
                    limit: 10.0,
                    measured: (8 + limits.len()).into(),
                })
                .collect(),
            cause: Cause::Event,
        };
        let same = ApproachingLimits { cause: Cause::Rebuild, ..near(&[1]) };
        assert!(near(&[1]).is_equivalent(&same));
        assert!(!near(&[1]).is_equivalent(&near(&[2])));
        assert!(!near(&[1]).is_equivalent(&near(&[1, 2])));
    }

    #[test]
    fn limit_of_zero_or_zero_percent_is_never_approached() {
        let approached = |loans: i64, value: f64, percent: u8| {
            let (limits, mut conditions) = policy(value, "enough");
            // The limit blocks only renewals, so ten items of ten do not block.
            conditions[0].blocks = Actions { renewals: true, ..Actions::NONE };
            let measures =
                Measures { open_loans: loans, charged_out: loans, ..Measures::default() };
            let findings = evaluate(&measures, &limits, &conditions);
            ApproachingLimits::from_findings(USER, &findings, percent, Cause::Event)
        };
        assert_eq!(approached(10, 10.0, 0), None);
        let near = approached(9, 10.0, 20).unwrap();
        assert_eq!(near.limits[0].measured, 9);
        let claimed = Measures { open_loans: 1, ..Measures::default() };
        let (limits, mut conditions) = policy(0.0, "enough");
        conditions[0].blocks = Actions { renewals: true, ..Actions::NONE };
        let findings = evaluate(&claimed, &limits, &conditions);
        assert_eq!(ApproachingLimits::from_findings(USER, &findings, 20, Cause::Event), None);
    }

    #[test]
    fn changes_have_the_names_of_envelopes() {
        let changes = [ChangeType::Created, ChangeType::Updated, ChangeType::Deleted];
        assert_eq!(changes.map(ChangeType::name), ["CREATED", "UPDATED", "DELETED"]);
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
