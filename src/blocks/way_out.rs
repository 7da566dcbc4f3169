//! The way out of blocks: the smallest set of returns and the exact payment after which a patron may act again
//! (docs/contract/insight.md#3-the-way-out).

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, VecDeque},
};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::{Action, Condition, Finding, Limit, Measure, Measures, Need, OpenItems, evaluate};
use crate::patron::{OpenLoan, overdue_days};

/// The returns and the payment after which no limit blocks one action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WayOut {
    /// Whether no smaller set suffices than all open loans and fees/fines, including those that do not count.
    pub only_when_nothing_is_open: bool,
    /// The loans to return; `None` without a loan to return.
    pub returns: Option<Returns>,
    /// The amount to pay; `None` without an amount to pay.
    pub payment: Option<Payment>,
    /// Possible side effects of the way out.
    pub caveats: Vec<Caveat>,
    /// The measures that would block the action again after one more check-out.
    pub one_more_blocks: Vec<Measure>,
}

/// A smallest set of loans to return.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Returns {
    /// The overdue recalls that a limit of days requires; part of `suggested`.
    pub required: Vec<Uuid>,
    /// The loans to return, the required ones first.
    pub suggested: Vec<Uuid>,
    /// The loans that can each replace a suggested loan.
    pub alternatives: Vec<Uuid>,
    /// Whether any of `suggested` and `alternatives` suffice, in the number of `suggested`.
    pub is_any: bool,
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payment {
    /// The exact amount.
    pub amount: Decimal,
    /// The fewest fees/fines with this sum of balances, greatest balance first. Paying a part of the last one
    /// may suffice.
    pub fees_fines: Vec<Uuid>,
}

/// A possible side effect of a way out. The fee/fine policies are unknown to this service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caveat {
    /// The return of an overdue item may charge a fine.
    LateReturnMayCharge,
    /// The return of a lost item may cancel fees.
    LostReturnMayCancel,
    /// The check-in of a loan that is claimed returned makes its fees/fines count again.
    ClaimAddsFees,
    /// A renewal may help, because it ends overdue, recall and loss.
    RenewalMayHelp,
}

impl Caveat {
    /// Returns the name in explanations.
    pub const fn name(self) -> &'static str {
        match self {
            Self::LateReturnMayCharge => "late-return-may-charge",
            Self::LostReturnMayCancel => "lost-return-may-cancel",
            Self::ClaimAddsFees => "claim-adds-fees",
            Self::RenewalMayHelp => "renewal-may-help",
        }
    }
}

/// The patron, the limits and the instant of a search.
#[derive(Clone, Copy)]
pub(super) struct Situation<'a> {
    pub(super) items: &'a OpenItems,
    pub(super) measures: &'a Measures,
    pub(super) limits: &'a [&'a Limit],
    pub(super) conditions: &'a [Condition],
    pub(super) findings: &'a [Finding<'a>],
    pub(super) now: DateTime<Utc>,
}

impl WayOut {
    /// Returns the way out for a blocked action. Returns `None` if the action is not blocked, or if the action
    /// would still be blocked afterwards, which is an error of this module.
    pub(super) fn find(situation: &Situation<'_>, action: Action) -> Option<Self> {
        let findings = situation.findings.iter();
        let needs: Vec<_> = findings
            .filter_map(|finding| Some((finding, finding.need(action, situation.measures)?)))
            .collect();
        if needs.is_empty() {
            return None;
        }
        let mut way_out =
            situation.smallest(&needs).unwrap_or_else(|| Self::with_nothing_open(situation.items));
        way_out.caveats = situation.caveats(action, &needs, &way_out);
        let after = way_out.apply(situation.items).measures(situation.now);
        if !situation.blocking(&after, action).is_empty() {
            return None;
        }
        let one_more = Measures {
            open_loans: after.open_loans + 1,
            charged_out: after.charged_out + 1,
            ..after
        };
        way_out.one_more_blocks = situation.blocking(&one_more, action);
        Some(way_out)
    }

    fn new(returns: Option<Returns>, payment: Option<Payment>) -> Self {
        let (caveats, one_more_blocks) = (Vec::new(), Vec::new());
        Self { only_when_nothing_is_open: false, returns, payment, caveats, one_more_blocks }
    }

    /// Returns the way out of a limit that only a patron with nothing open does not reach.
    fn with_nothing_open(items: &OpenItems) -> Self {
        let suggested: Vec<_> = items.loans.keys().copied().collect();
        let fees_fines: Vec<_> = items.fees.keys().copied().collect();
        let positive = items.fees.values().map(|fee| fee.balance.max(Decimal::ZERO));
        let amount = positive.sum();
        let returns = Returns {
            required: suggested.clone(),
            suggested,
            alternatives: Vec::new(),
            is_any: true,
        };
        Self {
            only_when_nothing_is_open: true,
            ..Self::new(
                (!items.loans.is_empty()).then_some(returns),
                (!items.fees.is_empty()).then_some(Payment { amount, fees_fines }),
            )
        }
    }

    /// Returns the items after the suggested returns and the payment.
    pub fn apply(&self, items: &OpenItems) -> OpenItems {
        if self.only_when_nothing_is_open {
            return OpenItems::default();
        }
        let mut left = items.clone();
        for loan in self.returns.iter().flat_map(|returns| &returns.suggested) {
            left.loans.remove(loan);
        }
        let Some(payment) = &self.payment else { return left };
        let mut unpaid = payment.amount;
        for id in &payment.fees_fines {
            let Some(fee) = left.fees.get_mut(id) else { continue };
            let part = fee.balance.min(unpaid);
            unpaid -= part;
            fee.balance -= part;
            if fee.balance.is_zero() {
                left.fees.remove(id);
            }
        }
        left
    }
}

impl Situation<'_> {
    /// Returns the smallest way out, or `None` if no returns and no payment suffice.
    fn smallest(&self, needs: &[(&Finding<'_>, Need)]) -> Option<WayOut> {
        let (mut counts, mut amount) = ([0; SETS.len()], None);
        let mut allowed_days: Option<f64> = None;
        for (finding, need) in needs {
            match *need {
                Need::Returns(loans) => {
                    let set = SETS.iter().position(|set| Some(*set) == finding.measure())?;
                    counts[set] = loans.max(counts[set]);
                }
                Need::LongRecalls(_) => {
                    let limit = finding.limit.value?;
                    allowed_days = Some(allowed_days.map_or(limit, |days| days.min(limit)));
                }
                Need::Payment(payment) => amount = amount.max(Some(payment)),
                Need::Impossible => return None,
            }
        }
        let is_required = |loan: &ReturnableLoan| {
            let days = loan.recall_days.zip(allowed_days);
            days.is_some_and(|(days, allowed)| days as f64 > allowed)
        };
        let (required, free): (Vec<_>, Vec<_>) =
            self.returnable().into_iter().partition(is_required);
        let returns = Returns::smallest(&required, &free, counts)?;
        let payment = match amount {
            Some(amount) => Some(self.payment(amount)?),
            None => None,
        };
        Some(WayOut::new((!returns.suggested.is_empty()).then_some(returns), payment))
    }

    /// Returns the loans that the five conditions of loans count, earliest due date first.
    fn returnable(&self) -> Vec<ReturnableLoan> {
        let counted = self.items.loans.iter().filter(|(_, loan)| !loan.claimed_returned);
        let mut loans: Vec<_> =
            counted.map(|(id, loan)| ReturnableLoan::new(*id, loan, self.now)).collect();
        loans.sort_by_key(|loan| loan.order);
        loans
    }

    /// Returns the fewest counted fees/fines with a sum of at least `amount`, or `None` if all together are
    /// less.
    fn payment(&self, amount: Decimal) -> Option<Payment> {
        let items = self.items;
        let counted = items.fees.iter().filter(|(_, fee)| items.counts(fee));
        let mut positive: Vec<_> = counted.filter(|(_, fee)| fee.balance > Decimal::ZERO).collect();
        positive.sort_by_key(|(id, fee)| (Reverse(fee.balance), **id));
        let (mut fees_fines, mut missing) = (Vec::new(), amount);
        for (id, fee) in positive {
            if missing <= Decimal::ZERO {
                break;
            }
            fees_fines.push(*id);
            missing -= fee.balance;
        }
        (missing <= Decimal::ZERO).then_some(Payment { amount, fees_fines })
    }

    fn caveats(
        &self,
        action: Action,
        needs: &[(&Finding<'_>, Need)],
        way_out: &WayOut,
    ) -> Vec<Caveat> {
        let items = self.items;
        let suggested = way_out.returns.iter().flat_map(|returns| &returns.suggested);
        let returned: Vec<_> = suggested.filter_map(|id| items.loans.get(id)).collect();
        let is_overdue = |loan: &OpenLoan| loan.overdue_from().is_some_and(|from| from <= self.now);
        let limits_balance = self.findings.iter().any(|finding| {
            finding.measure() == Some(Measure::FeeFineBalance)
                && finding.condition.blocks.contains(action)
        });
        let is_renewable = |finding: &Finding<'_>| {
            !matches!(finding.measure(), Some(Measure::ChargedOut | Measure::FeeFineBalance) | None)
        };
        let renewals_blocked =
            self.findings.iter().any(|finding| finding.blocked.contains(Action::Renewals));
        [
            (Caveat::LateReturnMayCharge, returned.iter().any(|loan| is_overdue(loan))),
            (Caveat::LostReturnMayCancel, returned.iter().any(|loan| loan.lost)),
            (
                Caveat::ClaimAddsFees,
                limits_balance && items.fees.values().any(|fee| !items.counts(fee)),
            ),
            (
                Caveat::RenewalMayHelp,
                !renewals_blocked && needs.iter().any(|(finding, _)| is_renewable(finding)),
            ),
        ]
        .into_iter()
        .filter_map(|(caveat, applies)| applies.then_some(caveat))
        .collect()
    }

    /// Returns the measures whose limits block `action` at these measures, each once.
    fn blocking(&self, measures: &Measures, action: Action) -> Vec<Measure> {
        let findings = evaluate(measures, self.limits.iter().copied(), self.conditions);
        let blocking = findings.iter().filter(|finding| finding.blocked.contains(action));
        let measures: BTreeSet<_> = blocking.filter_map(Finding::measure).collect();
        measures.into_iter().collect()
    }
}

/// The measures that count a set of loans. Each set contains the next ones, except that a lost loan need not be
/// overdue.
const SETS: [Measure; 4] =
    [Measure::ChargedOut, Measure::LostItems, Measure::OverdueItems, Measure::OverdueRecalls];

/// A loan that is not claimed returned.
struct ReturnableLoan {
    id: Uuid,
    /// Without a due date last; loans with the same due date by id.
    order: (bool, Option<DateTime<Utc>>, Uuid),
    /// Whether each of [`SETS`] contains the loan.
    sets: [bool; SETS.len()],
    /// The days overdue of an overdue recall.
    recall_days: Option<i64>,
}

impl ReturnableLoan {
    fn new(id: Uuid, loan: &OpenLoan, now: DateTime<Utc>) -> Self {
        let is_overdue = loan.overdue_from().is_some_and(|from| from <= now);
        let is_overdue_recall = is_overdue && loan.recall;
        let due_date = loan.due_date;
        Self {
            id,
            order: (due_date.is_none(), due_date, id),
            sets: [true, loan.lost, is_overdue, is_overdue_recall],
            recall_days: due_date
                .filter(|_| is_overdue_recall)
                .map(|due_date| overdue_days(due_date, loan.grace, now)),
        }
    }

    /// Returns the number of sets with an open need that contain the loan.
    fn needs_served(&self, needs: &[i64; SETS.len()]) -> usize {
        self.sets.iter().zip(needs).filter(|(contains, need)| **contains && **need > 0).count()
    }
}

/// Subtracts a returned loan from the needs of the sets that contain the loan.
fn subtract(needs: &mut [i64; SETS.len()], sets: [bool; SETS.len()]) {
    for (need, contains) in needs.iter_mut().zip(sets) {
        *need -= i64::from(contains);
    }
}

impl Returns {
    /// Returns the required loans and the fewest others with the needed number of loans of each set, or `None`
    /// if there are too few. The greedy choice is optimal, because overdue recalls are overdue.
    fn smallest(
        required: &[ReturnableLoan],
        free: &[ReturnableLoan],
        mut needs: [i64; SETS.len()],
    ) -> Option<Self> {
        required.iter().for_each(|loan| subtract(&mut needs, loan.sets));
        let mut unserved = needs;
        let is_needed = needs.map(|need| need > 0);
        // Loans of the same sets are equal, except for their order.
        let mut classes = BTreeMap::<_, VecDeque<&ReturnableLoan>>::new();
        free.iter().for_each(|loan| classes.entry(loan.sets).or_default().push_back(loan));
        let mut chosen = Vec::new();
        while unserved.iter().any(|need| *need > 0) {
            let first = classes
                .values_mut()
                .filter(|class| !class.is_empty())
                .max_by_key(|class| (class[0].needs_served(&unserved), Reverse(class[0].order)))?;
            let loan = first.pop_front().filter(|loan| loan.needs_served(&unserved) > 0)?;
            subtract(&mut unserved, loan.sets);
            chosen.push(loan);
        }
        let replaced: BTreeSet<_> = chosen.iter().map(|loan| loan.sets).collect();
        // `unserved` is at most 0: each set may lose that many loans.
        let replaces = |new: [bool; SETS.len()], old: [bool; SETS.len()]| {
            let mut after = unserved;
            subtract(&mut after, new);
            after.iter().zip(old).all(|(need, lost)| need + i64::from(lost) <= 0)
        };
        let is_alternative = |sets| replaced.iter().any(|old| replaces(sets, *old));
        let replacing = classes.into_iter().filter(|(sets, _)| is_alternative(*sets));
        let mut alternatives: Vec<_> = replacing.flat_map(|(_, loans)| loans).collect();
        alternatives.sort_by_key(|loan| loan.order);
        // A loan of all needed sets serves as well as any other of them.
        let serves_all = |loan: &&ReturnableLoan| {
            loan.sets.iter().zip(is_needed).all(|(contains, needed)| *contains || !needed)
        };
        let is_any = required.is_empty() && chosen.iter().chain(&alternatives).all(serves_all);
        let ids = |loans: Vec<&ReturnableLoan>| loans.into_iter().map(|loan| loan.id).collect();
        Some(Self {
            required: required.iter().map(|loan| loan.id).collect(),
            suggested: required.iter().chain(chosen).map(|loan| loan.id).collect(),
            alternatives: ids(alternatives),
            is_any,
        })
    }
}
