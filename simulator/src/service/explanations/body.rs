//! An explanation as the service returns it. An unknown or a missing member is an error.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// A JSON number, written without superfluous zeros.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Number(pub(in crate::service) Decimal);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        rust_decimal::serde::arbitrary_precision::deserialize(deserializer).map(Self)
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = self.to_string();
        serde_json::Number::from_str(&text)
            .map_err(serde::ser::Error::custom)?
            .serialize(serializer)
    }
}

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.normalize().fmt(f)
    }
}

/// The explanation of a patron's blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::service) struct Explanation {
    /// The patron.
    pub(super) user_id: Uuid,
    /// The instant of the evaluation.
    pub(in crate::service) evaluated_at: DateTime<Utc>,
    /// The patron group that determines the limits.
    pub(super) patron_group: Group,
    /// The three actions.
    pub(super) actions: Actions,
    /// Every limit of the patron group.
    pub(super) limits: Vec<Limit>,
    /// The open loans.
    pub(super) loans: Vec<Loan>,
    /// The open fees/fines.
    pub(super) fees_fines: Vec<FeeFine>,
    /// The next block that time alone causes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Next>,
    /// How certain the explanation is.
    pub(super) certainty: Certainty,
    /// Whether stored counters differed from a recount.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) counters_differ: bool,
    /// The number of all open items.
    pub(super) totals: Totals,
}

/// How certain an explanation is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Certainty {
    /// The state.
    pub(super) state: CertaintyState,
    /// The instant up to which all events are applied, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) as_of: Option<DateTime<Utc>>,
}

/// The states of an explanation. Without an evaluation, the service returns no explanation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CertaintyState {
    /// All events are applied.
    Certain,
    /// Some events wait.
    Late,
    /// Earlier events may be missing.
    Incomplete,
    /// Something about the patron is in doubt.
    Doubtful,
}

/// The patron group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Group {
    /// The id, if a group is known and needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<Uuid>,
    /// The origin of the group.
    pub(super) basis: String,
    /// The time of the group's report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) known_at: Option<DateTime<Utc>>,
}

/// The three actions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Actions {
    /// Check-outs.
    pub(super) borrowing: Action,
    /// Renewals.
    pub(super) renewals: Action,
    /// Requests.
    pub(super) requests: Action,
}

/// One action.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Action {
    /// Whether a limit blocks the action.
    pub(super) blocked: bool,
    /// The ids of these limits.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) because: Vec<Uuid>,
    /// The way out of a block.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) way_out: Option<WayOut>,
}

/// The returns and the payment that end a block.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct WayOut {
    /// Whether returns and a payment end the block.
    pub(super) possible: bool,
    /// Whether the block ends only with no open item.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) only_when_nothing_is_open: bool,
    /// The returns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) return_loans: Option<ReturnLoans>,
    /// The payment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) settle: Option<Settle>,
    /// Possible side effects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) caveats: Vec<String>,
    /// The measures that block the action again after one more check-out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) one_more_blocks: Vec<String>,
}

/// The loans to return.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ReturnLoans {
    /// The number of suggested loans.
    pub(super) count: usize,
    /// The loans of every way out.
    pub(super) must_include: Vec<Uuid>,
    /// A smallest set of loans.
    pub(super) suggested: Vec<Uuid>,
    /// The listed loans that can each replace a suggested one.
    pub(super) others: Vec<Uuid>,
    /// The number of all such loans.
    pub(super) others_total: usize,
}

/// The payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Settle {
    /// The exact amount.
    pub(super) amount: Number,
    /// The fewest fees/fines with this sum.
    pub(super) suggested: Vec<Uuid>,
}

/// One limit of the patron group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Limit {
    /// The id of the limit.
    pub(super) patron_block_limit_id: Uuid,
    /// The id of its condition.
    pub(super) patron_block_condition_id: Uuid,
    /// The name of the measure, for the six conditions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) measure: Option<String>,
    /// The value of the limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) limit: Option<Number>,
    /// The number that is compared with the value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) measured: Option<Number>,
    /// The number at which each action is reached; absent for a balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reached_at: Option<ReachedAt>,
    /// The sum above which each action is reached; only for a balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reached_above: Option<Number>,
    /// The actions with a reached number.
    pub(super) reached: Vec<String>,
    /// The actions that the limit blocks.
    pub(super) blocks: Vec<String>,
    /// The actions that the condition never blocks.
    pub(super) switched_off: Vec<String>,
    /// The number of items that the limit counts.
    pub(super) counted: usize,
    /// The number of items that the limit does not count.
    pub(super) left_out: usize,
    /// The number of items that the limit does not count, by reason.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) left_out_because: BTreeMap<String, usize>,
    /// The message with the numbers of the patron.
    pub(super) message: String,
}

/// The number at which each action is reached.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ReachedAt {
    /// For check-outs.
    pub(super) borrowing: Number,
    /// For renewals.
    pub(super) renewals: Number,
    /// For requests.
    pub(super) requests: Number,
}

/// One open loan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Loan {
    /// The loan id.
    pub(super) loan_id: Uuid,
    /// The due date.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) due_date: Option<DateTime<Utc>>,
    /// The grace period of the check-out in minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) grace_minutes: Option<i64>,
    /// The first instant at which the loan is overdue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) overdue_from: Option<DateTime<Utc>>,
    /// The days overdue; 0 while the loan is not overdue.
    pub(super) overdue_days: i64,
    /// Whether a recall set the due date.
    pub(super) recall: bool,
    /// Whether the item is lost.
    pub(super) lost: bool,
    /// Whether the item is claimed returned.
    pub(super) claimed_returned: bool,
    /// The measures that count the loan.
    pub(super) counts_for: Vec<String>,
    /// The reason why the loan is not an overdue item.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left_out_because: Option<String>,
}

/// One open fee/fine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct FeeFine {
    /// The fee/fine id.
    pub(super) fee_fine_id: Uuid,
    /// The loan of the fee/fine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) loan_id: Option<Uuid>,
    /// The balance.
    pub(super) balance: Number,
    /// Whether the balance counts.
    pub(super) counts: bool,
    /// The reason why it does not count.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) left_out_because: Option<String>,
}

/// The next limit that time alone reaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Next {
    /// The instant.
    pub(super) at: DateTime<Utc>,
    /// The id of the limit.
    pub(super) limit: Uuid,
    /// The name of the measure.
    pub(super) what: String,
}

/// The number of all open items.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Totals {
    /// Open loans.
    pub(super) loans: usize,
    /// Open fees/fines.
    pub(super) fees_fines: usize,
    /// Whether the patron has more items than an explanation reads.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) truncated: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Actions {
    /// Returns the actions with their names.
    pub(super) fn named(&self) -> [(&'static str, &Action); 3] {
        [("borrowing", &self.borrowing), ("renewals", &self.renewals), ("requests", &self.requests)]
    }
}
