//! The body of an explanation. The command line prints the same body.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::certainty::CertaintyStateName;
use crate::{
    blocks::{self, Action, Certainty, Finding, LeftOut, Measure, NextBlock, Threshold},
    clock,
    services::evaluation::explanations::ExplainedPatron,
};

/// The explanation of a patron's blocks. It has ids, counts, amounts and dates, and never a title.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Explanation {
    user_id: Uuid,
    #[serde(serialize_with = "clock::serialize")]
    evaluated_at: DateTime<Utc>,
    patron_group: ExplainedGroup,
    actions: ExplainedActions,
    /// Every limit of the patron group, also the unreached ones, in the order of the blocks. Empty for a patron
    /// without open items.
    limits: Vec<ExplainedLimit>,
    /// Open loans, earliest due date first.
    loans: Vec<ExplainedLoan>,
    /// Open fees/fines, greatest balance first.
    fees_fines: Vec<ExplainedFee>,
    /// The next block that time alone causes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    next: Option<ExplainedNext>,
    /// How certain the explanation is; absent on the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    certainty: Option<ExplainedCertainty>,
    /// Present if the stored counters differed from a recount of the rows. The explanation uses the recount,
    /// and the service repairs the counters.
    #[serde(skip_serializing_if = "is_false")]
    #[schema(required = false)]
    counters_differ: bool,
    totals: Totals,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExplainedCertainty {
    #[schema(value_type = CertaintyStateName)]
    state: &'static str,
    /// Instant up to which all events are applied; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    as_of: Option<DateTime<Utc>>,
}

impl From<Certainty> for ExplainedCertainty {
    fn from(Certainty { state, as_of }: Certainty) -> Self {
        Self { state: state.name(), as_of }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExplainedGroup {
    /// Absent if no group is known or none was needed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<String>,
    /// Origin of the group, as in the header `X-Patron-Blocks-Basis` of the blocks.
    basis: &'static str,
    /// When the source reported the group; absent if mod-users was asked for this explanation.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    known_at: Option<DateTime<Utc>>,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExplainedActions {
    borrowing: ExplainedAction,
    renewals: ExplainedAction,
    requests: ExplainedAction,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExplainedAction {
    blocked: bool,
    /// Ids of the limits that block the action.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    because: Vec<Uuid>,
    /// Absent if the action is not blocked, or if the patron has more than 2,000 open loans or fees/fines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    way_out: Option<WayOut>,
}

/// The smallest set of returns and the exact payment after which the action is not blocked.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WayOut {
    /// Whether returns and a payment end the block.
    possible: bool,
    /// Whether the block ends only with no open item at all, including items that do not count.
    #[serde(skip_serializing_if = "is_false")]
    #[schema(required = false)]
    only_when_nothing_is_open: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    return_loans: Option<ReturnLoans>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    settle: Option<Settle>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, value_type = Vec<CaveatName>)]
    caveats: Vec<&'static str>,
    /// Measures whose limits block the action again after one more check-out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false, value_type = Vec<MeasureName>)]
    one_more_blocks: Vec<&'static str>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ReturnLoans {
    count: usize,
    /// Loans that every way out contains, because a limit of days requires them.
    must_include: Vec<Uuid>,
    /// A smallest set of loans, `mustInclude` first.
    suggested: Vec<Uuid>,
    /// Loans that can each replace a suggested one; at most as many as the request lists.
    others: Vec<Uuid>,
    /// Number of all loans that can replace a suggested one.
    others_total: usize,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Settle {
    #[schema(value_type = f64)]
    amount: Value,
    /// The fewest fees/fines with this sum; a part of the last one may suffice.
    suggested: Vec<Uuid>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExplainedLimit {
    patron_block_limit_id: Uuid,
    patron_block_condition_id: Uuid,
    /// Absent if the condition is not one of the six.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<MeasureName>)]
    measure: Option<&'static str>,
    /// Absent if the stored limit has no value.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<f64>)]
    measured: Option<Value>,
    /// The number at which each action is reached; absent for a balance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reached_at: Option<ReachedAt>,
    /// The sum above which each action is reached; only for a balance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<f64>)]
    reached_above: Option<Value>,
    /// Actions whose number is reached, whether or not the condition blocks them.
    #[schema(value_type = Vec<ActionName>)]
    reached: Vec<&'static str>,
    /// Actions that the limit blocks.
    #[schema(value_type = Vec<ActionName>)]
    blocks: Vec<&'static str>,
    /// Actions that the condition never blocks.
    #[schema(value_type = Vec<ActionName>)]
    switched_off: Vec<&'static str>,
    /// Number of loans or fees/fines that the limit counts, of the first 2,000.
    counted: usize,
    /// Number of loans or fees/fines that the limit does not count, of the first 2,000.
    left_out: usize,
    /// The number that the limit does not count, by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(required = false, value_type = BTreeMap<String, usize>)]
    left_out_because: BTreeMap<&'static str, usize>,
    /// The message of a block with the current numbers.
    message: String,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ReachedAt {
    borrowing: i64,
    renewals: i64,
    requests: i64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExplainedLoan {
    loan_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    due_date: Option<DateTime<Utc>>,
    /// Grace period of the check-out in minutes.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    grace_minutes: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    overdue_from: Option<DateTime<Utc>>,
    /// Begun periods of 24 hours since the due date; 0 while the loan is not overdue.
    overdue_days: i64,
    recall: bool,
    lost: bool,
    claimed_returned: bool,
    /// The measures that count the loan.
    #[schema(value_type = Vec<MeasureName>)]
    counts_for: Vec<&'static str>,
    /// Why the loan counts for nothing or is not overdue; absent for an overdue loan.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<LeftOutReason>)]
    left_out_because: Option<&'static str>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct ExplainedFee {
    fee_fine_id: Uuid,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    loan_id: Option<Uuid>,
    #[schema(value_type = f64)]
    balance: Value,
    counts: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<LeftOutReason>)]
    left_out_because: Option<&'static str>,
}

/// The first limit that time alone reaches, if the patron does nothing.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ExplainedNext {
    #[serde(serialize_with = "clock::serialize")]
    at: DateTime<Utc>,
    /// Id of the limit.
    limit: Uuid,
    #[schema(value_type = MeasureName)]
    what: &'static str,
}

/// Exact numbers of open items, also if the lists are shorter.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Totals {
    loans: i64,
    fees_fines: i64,
    /// Present if the patron has more than 2,000 open loans or fees/fines; there is no way out then.
    #[serde(skip_serializing_if = "is_false")]
    #[schema(required = false)]
    truncated: bool,
}

names! { ActionName { Borrowing, Renewals, Requests } }
names! { MeasureName { ChargedOut, Lost, Overdue, OverdueRecalls, RecallOverdueDays, Balance } }
names! {
    CaveatName { LateReturnMayCharge, LostReturnMayCancel, ClaimAddsFees, RenewalMayHelp }
}
names! {
    LeftOutReason {
        ClaimedReturned, LoanClaimedReturned, NotOverdue, InGrace, NoDueDate, NotRecalled, NotLost
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Explanation {
    /// Explains the blocks with at most `loan_limit` listed loans.
    pub(crate) fn new(patron: &ExplainedPatron, loan_limit: usize) -> Self {
        let limits = patron.limits();
        let explanation = patron.explain(&limits);
        let action = |index: usize| ExplainedAction::new(&explanation.actions[index], loan_limit);
        Self {
            user_id: patron.user,
            evaluated_at: patron.now,
            patron_group: ExplainedGroup {
                id: patron.group.clone(),
                basis: patron.source.name(),
                known_at: patron.group_known_at,
            },
            actions: ExplainedActions {
                borrowing: action(0),
                renewals: action(1),
                requests: action(2),
            },
            limits: explanation
                .limits
                .iter()
                .map(|limit| ExplainedLimit::new(limit, &patron.measures))
                .collect(),
            loans: explanation.loans.iter().take(loan_limit).map(ExplainedLoan::new).collect(),
            fees_fines: explanation.fees_fines.iter().map(ExplainedFee::new).collect(),
            next: explanation.next.map(ExplainedNext::new),
            certainty: patron.certainty.map(ExplainedCertainty::from),
            counters_differ: patron.counters_differ,
            totals: Totals {
                loans: patron.measures.open_loans,
                fees_fines: patron.measures.open_fees_fines,
                truncated: patron.is_truncated(),
            },
        }
    }
}

impl ExplainedAction {
    fn new(action: &blocks::ExplainedAction, loan_limit: usize) -> Self {
        Self {
            blocked: !action.because.is_empty(),
            because: action.because.clone(),
            way_out: action.way_out.as_ref().map(|way_out| WayOut::new(way_out, loan_limit)),
        }
    }
}

impl WayOut {
    fn new(way_out: &blocks::WayOut, loan_limit: usize) -> Self {
        let return_loans = |returns: &blocks::Returns| ReturnLoans {
            count: returns.suggested.len(),
            must_include: returns.required.clone(),
            suggested: returns.suggested.clone(),
            others: returns.alternatives.iter().take(loan_limit).copied().collect(),
            others_total: returns.alternatives.len(),
        };
        let settle = |payment: &blocks::Payment| Settle {
            amount: blocks::decimal_to_json(payment.amount),
            suggested: payment.fees_fines.clone(),
        };
        Self {
            possible: true,
            only_when_nothing_is_open: way_out.only_when_nothing_is_open,
            return_loans: way_out.returns.as_ref().map(return_loans),
            settle: way_out.payment.as_ref().map(settle),
            caveats: way_out.caveats.iter().map(|caveat| caveat.name()).collect(),
            one_more_blocks: way_out.one_more_blocks.iter().map(|measure| measure.code()).collect(),
        }
    }
}

impl ExplainedLimit {
    fn new(limit: &blocks::ExplainedLimit<'_>, measures: &blocks::Measures) -> Self {
        let finding = &limit.finding;
        let blocks = finding.condition.blocks;
        let names = |actions: blocks::Actions| actions.iter().map(Action::name).collect();
        Self {
            patron_block_limit_id: finding.limit.id,
            patron_block_condition_id: finding.condition.id,
            measure: finding.measure().map(Measure::code),
            limit: finding.limit.value,
            measured: finding.measured.map(blocks::MeasuredValue::to_json),
            reached_at: ReachedAt::new(finding),
            reached_above: match finding.threshold(Action::Borrowing) {
                Some(Threshold::Above(limit)) => Some(blocks::decimal_to_json(limit)),
                Some(Threshold::Count(_)) | None => None,
            },
            reached: names(finding.reached),
            blocks: names(finding.blocked),
            switched_off: names(blocks::Actions::ALL.difference(blocks)),
            counted: limit.counted,
            left_out: limit.left_out.values().sum(),
            left_out_because: limit
                .left_out
                .iter()
                .map(|(reason, count)| (reason.name(), *count))
                .collect(),
            message: finding.message(measures).into_owned(),
        }
    }
}

impl ReachedAt {
    fn new(finding: &Finding<'_>) -> Option<Self> {
        let at = |action| match finding.threshold(action)? {
            Threshold::Count(count) => Some(count),
            Threshold::Above(_) => None,
        };
        Some(Self {
            borrowing: at(Action::Borrowing)?,
            renewals: at(Action::Renewals)?,
            requests: at(Action::Requests)?,
        })
    }
}

impl ExplainedLoan {
    fn new(explained: &blocks::ExplainedLoan) -> Self {
        let loan = &explained.loan;
        Self {
            loan_id: explained.id,
            due_date: loan.due_date,
            grace_minutes: loan.grace.map(|grace| grace.minutes()),
            overdue_from: explained.overdue_from,
            overdue_days: explained.overdue_days,
            recall: loan.recall,
            lost: loan.lost,
            claimed_returned: loan.claimed_returned,
            counts_for: explained.counts_for.iter().map(|measure| measure.code()).collect(),
            left_out_because: explained.left_out.map(LeftOut::name),
        }
    }
}

impl ExplainedFee {
    fn new(explained: &blocks::ExplainedFee) -> Self {
        Self {
            fee_fine_id: explained.id,
            loan_id: explained.fee.loan,
            balance: blocks::decimal_to_json(explained.fee.balance),
            counts: explained.left_out.is_none(),
            left_out_because: explained.left_out.map(LeftOut::name),
        }
    }
}

impl ExplainedNext {
    fn new(next: NextBlock) -> Self {
        Self { at: next.at, limit: next.limit, what: next.measure.code() }
    }
}
