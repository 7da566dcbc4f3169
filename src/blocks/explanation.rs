//! The explanation of a patron's blocks: for every limit the measured number and its distance, for every loan
//! and fee/fine the conditions that count it, and the way out (docs/contract/insight.md#2-explanations).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    Action, Condition, DatedLoan, Finding, Limit, Measure, Measures, OpenItems, WayOut, evaluate,
    way_out::Situation,
};
use crate::patron::{OpenFee, OpenLoan, overdue_days};

/// The explanation of a patron's blocks at one instant.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation<'a> {
    /// The three actions, in the order of [`Action::ALL`].
    pub actions: Vec<ExplainedAction>,
    /// Every limit of the patron group, in the order of the evaluation.
    pub limits: Vec<ExplainedLimit<'a>>,
    /// The open loans, earliest due date first.
    pub loans: Vec<ExplainedLoan>,
    /// The open fees/fines, greatest balance first.
    pub fees_fines: Vec<ExplainedFee>,
    /// The next change that time alone causes; `None` if time causes none.
    pub next: Option<NextBlock>,
}

/// Whether an action is blocked, by which limits, and the way out.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainedAction {
    /// The action.
    pub action: Action,
    /// The ids of the limits that block it; empty if the action is not blocked.
    pub because: Vec<Uuid>,
    /// The way out; `None` if the action is not blocked or not all items are known.
    pub way_out: Option<WayOut>,
}

/// One limit of the patron group.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainedLimit<'a> {
    /// The comparison of the measured number with the limit.
    pub finding: Finding<'a>,
    /// Number of loans or fees/fines that the limit counts.
    pub counted: usize,
    /// Number of open loans or fees/fines that the limit does not count, by reason.
    pub left_out: BTreeMap<LeftOut, usize>,
}

/// One open loan.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainedLoan {
    /// Its id.
    pub id: Uuid,
    /// The loan.
    pub loan: OpenLoan,
    /// The first instant at which it is overdue; `None` without a due date.
    pub overdue_from: Option<DateTime<Utc>>,
    /// Days overdue; 0 while it is not overdue.
    pub overdue_days: i64,
    /// The measures that count it.
    pub counts_for: Vec<Measure>,
    /// The reason why it counts for no condition, or is not overdue; `None` for an overdue loan.
    pub left_out: Option<LeftOut>,
}

/// One open fee/fine.
#[derive(Debug, Clone, PartialEq)]
pub struct ExplainedFee {
    /// Its id.
    pub id: Uuid,
    /// The fee/fine.
    pub fee: OpenFee,
    /// The reason why it does not count; `None` if it counts.
    pub left_out: Option<LeftOut>,
}

/// The reason why a measure does not count a loan or a fee/fine. The list is closed: clients see the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LeftOut {
    /// The patron claims to have returned the item.
    ClaimedReturned,
    /// The loan of the fee/fine is claimed returned.
    LoanClaimedReturned,
    /// The due date is in the future, or passed less than a minute ago.
    NotOverdue,
    /// The due date is past, and the grace period is not over.
    InGrace,
    /// The loan has no due date.
    NoDueDate,
    /// The loan is not recalled.
    NotRecalled,
    /// The item is not lost.
    NotLost,
}

impl LeftOut {
    /// Returns the name in explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClaimedReturned => "claimed-returned",
            Self::LoanClaimedReturned => "loan-claimed-returned",
            Self::NotOverdue => "not-overdue",
            Self::InGrace => "in-grace",
            Self::NoDueDate => "no-due-date",
            Self::NotRecalled => "not-recalled",
            Self::NotLost => "not-lost",
        }
    }
}

/// The next limit that time alone reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextBlock {
    /// The instant.
    pub at: DateTime<Utc>,
    /// The id of the limit.
    pub limit: Uuid,
    /// The measure of the limit.
    pub measure: Measure,
}

/// The input of an explanation.
#[derive(Debug, Clone, Copy)]
pub struct ExplanationInput<'a> {
    /// The items of the patron.
    pub items: &'a OpenItems,
    /// The measures of all items; `None` if `items` has all of them.
    pub total_measures: Option<&'a Measures>,
    /// The limits of the patron group.
    pub limits: &'a [&'a Limit],
    /// All conditions.
    pub conditions: &'a [Condition],
    /// The instant of the evaluation.
    pub now: DateTime<Utc>,
}

impl<'a> Explanation<'a> {
    /// Explains the blocks of a patron. Without all items, the explanation has no way out.
    pub fn new(input: ExplanationInput<'a>) -> Self {
        let ExplanationInput { items, limits, conditions, now, .. } = input;
        let measures = input.total_measures.cloned().unwrap_or_else(|| items.measures(now));
        let findings = evaluate(&measures, limits.iter().copied(), conditions);
        let situation =
            Situation { items, measures: &measures, limits, conditions, findings: &findings, now };
        let explain_action = |action| ExplainedAction {
            action,
            because: findings
                .iter()
                .filter(|finding| finding.blocked.contains(action))
                .map(|finding| finding.limit.id)
                .collect(),
            way_out: match input.total_measures {
                None => WayOut::find(&situation, action),
                Some(_) => None,
            },
        };
        let actions = Action::ALL.into_iter().map(explain_action).collect();
        let dated: Vec<_> = items.loans.values().filter_map(DatedLoan::from_open_loan).collect();
        let next = findings.iter().filter_map(|finding| NextBlock::of(finding, &dated));
        let next = next.min_by_key(|next| next.at);
        let (loans, fees_fines) = (explain_loans(items, now), explain_fees(items));
        let explain_limit = |finding| ExplainedLimit::new(finding, &loans, &fees_fines, now);
        let limits = findings.into_iter().map(explain_limit).collect();
        Self { actions, limits, loans, fees_fines, next }
    }
}

fn explain_loans(items: &OpenItems, now: DateTime<Utc>) -> Vec<ExplainedLoan> {
    let mut loans: Vec<_> =
        items.loans.iter().map(|(id, loan)| ExplainedLoan::new(*id, loan, now)).collect();
    loans.sort_by_key(|loan| (loan.loan.due_date.is_none(), loan.loan.due_date, loan.id));
    loans
}

fn explain_fees(items: &OpenItems) -> Vec<ExplainedFee> {
    let explain = |(id, fee): (&Uuid, &OpenFee)| ExplainedFee {
        id: *id,
        fee: *fee,
        left_out: (!items.counts(fee)).then_some(LeftOut::LoanClaimedReturned),
    };
    let mut fees: Vec<_> = items.fees.iter().map(explain).collect();
    fees.sort_by_key(|fee| (std::cmp::Reverse(fee.fee.balance), fee.id));
    fees
}

impl ExplainedLoan {
    fn new(id: Uuid, loan: &OpenLoan, now: DateTime<Utc>) -> Self {
        let counts = |measure: &Measure| {
            *measure != Measure::FeeFineBalance && reason_left_out(loan, *measure, now).is_none()
        };
        let overdue_reason = reason_left_out(loan, Measure::OverdueItems, now);
        Self {
            id,
            loan: *loan,
            overdue_from: loan.overdue_from(),
            overdue_days: loan.due_date.map_or(0, |due| overdue_days(due, loan.grace, now)),
            counts_for: Measure::ALL.into_iter().filter(counts).collect(),
            left_out: overdue_reason,
        }
    }
}

/// Returns the reason why a measure of loans does not count the loan; `None` if the measure counts the loan.
fn reason_left_out(loan: &OpenLoan, measure: Measure, now: DateTime<Utc>) -> Option<LeftOut> {
    if loan.claimed_returned {
        return Some(LeftOut::ClaimedReturned);
    }
    let not_recalled = || (!loan.recall).then_some(LeftOut::NotRecalled);
    let not_overdue = || {
        let (Some(due_date), Some(overdue_from)) = (loan.due_date, loan.overdue_from()) else {
            return Some(LeftOut::NoDueDate);
        };
        let is_in_grace = due_date <= now && loan.grace.is_some();
        let reason = if is_in_grace { LeftOut::InGrace } else { LeftOut::NotOverdue };
        (overdue_from > now).then_some(reason)
    };
    match measure {
        Measure::ChargedOut | Measure::FeeFineBalance => None,
        Measure::LostItems => (!loan.lost).then_some(LeftOut::NotLost),
        Measure::OverdueItems => not_overdue(),
        Measure::OverdueRecalls | Measure::RecallOverdueDays => not_recalled().or_else(not_overdue),
    }
}

impl<'a> ExplainedLimit<'a> {
    fn new(
        finding: Finding<'a>,
        loans: &[ExplainedLoan],
        fees_fines: &[ExplainedFee],
        now: DateTime<Utc>,
    ) -> Self {
        let reasons: Vec<Option<LeftOut>> = match finding.measure() {
            Some(Measure::FeeFineBalance) => fees_fines.iter().map(|fee| fee.left_out).collect(),
            Some(measure) => {
                loans.iter().map(|loan| reason_left_out(&loan.loan, measure, now)).collect()
            }
            None => Vec::new(),
        };
        let counted = reasons.iter().filter(|reason| reason.is_none()).count();
        let mut left_out = BTreeMap::new();
        for reason in reasons.into_iter().flatten() {
            *left_out.entry(reason).or_default() += 1;
        }
        Self { finding, counted, left_out }
    }
}

impl NextBlock {
    /// Returns when time alone reaches the limit; `None` if the limit is reached, blocks nothing, or time does
    /// not change its measure.
    fn of(finding: &Finding<'_>, loans: &[DatedLoan]) -> Option<Self> {
        let at = finding.reached_by_time(loans)?;
        Some(Self { at, limit: finding.limit.id, measure: finding.measure()? })
    }
}
