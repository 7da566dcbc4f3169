//! The rows of docs/contract/insight.md#5-cases against the pure core, and the way out against brute
//! force. `stories::explanations` tests the same explanations over HTTP.

mod properties;

use std::collections::BTreeMap;

use Action::{Borrowing, Renewals, Requests};
use Measure::{
    ChargedOut as CO, FeeFineBalance as FB, LostItems as LI, OverdueItems as OI,
    OverdueRecalls as OR, RecallOverdueDays as RD,
};
use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    blocks::{
        Action, Actions, Caveat, Condition, Explanation, ExplanationInput, LeftOut, Limit, Measure,
        OpenItems, Threshold, WayOut, evaluate,
    },
    event::{Grace, GraceUnit},
    patron::{OpenFee, OpenLoan},
};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::support::policy;

const DAY: i64 = 24 * 60;

fn now() -> DateTime<Utc> {
    "2026-09-15T12:00:00.000Z".parse().unwrap()
}

fn ago(minutes: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(minutes)
}

fn loan_id(n: u32) -> Uuid {
    Uuid::from_u128(0x1000 + u128::from(n))
}

fn fee_id(n: u32) -> Uuid {
    Uuid::from_u128(0x2000 + u128::from(n))
}

fn decimal(text: &str) -> Decimal {
    text.parse().unwrap()
}

/// A patron with limits.
#[derive(Debug, Clone, Default)]
struct Patron {
    items: OpenItems,
    limits: Vec<Limit>,
    conditions: Vec<Condition>,
}

fn patron(limits: &[(Measure, f64)]) -> Patron {
    let numbered = (0..).zip(limits);
    Patron {
        items: OpenItems::default(),
        limits: numbered.map(|(n, (measure, value))| policy::limit(n, *measure, *value)).collect(),
        conditions: policy::conditions(Actions::ALL),
    }
}

impl Patron {
    fn with_loan(mut self, n: u32, change: impl FnOnce(&mut OpenLoan)) -> Self {
        let mut loan = OpenLoan {
            user: Uuid::nil(),
            due_date: Some(now() + TimeDelta::days(7)),
            grace: None,
            recall: false,
            lost: false,
            claimed_returned: false,
        };
        change(&mut loan);
        self.items.loans.insert(loan_id(n), loan);
        self
    }

    fn loans(self, numbers: std::ops::RangeInclusive<u32>) -> Self {
        numbers.fold(self, |patron, n| patron.with_loan(n, |_| ()))
    }

    fn claimed(self, n: u32) -> Self {
        self.with_loan(n, |loan| loan.claimed_returned = true)
    }

    fn overdue(self, n: u32, days: i64) -> Self {
        self.with_loan(n, |loan| loan.due_date = Some(ago(days * DAY)))
    }

    fn owing(mut self, n: u32, balance: &str, loan: Option<u32>) -> Self {
        let (balance, loan) = (decimal(balance), loan.map(loan_id));
        let fee = OpenFee { user: Uuid::nil(), balance, loan, fee_fine_type: None };
        self.items.fees.insert(fee_id(n), fee);
        self
    }

    fn without_borrowing_flag(mut self) -> Self {
        for condition in &mut self.conditions {
            condition.blocks.borrowing = false;
        }
        self
    }

    /// Checks every way out against the evaluation, then passes the explanation to `check`. Row 15 of the
    /// contract is this check.
    fn explained(&self, check: impl FnOnce(&Explanation<'_>)) {
        let limits: Vec<_> = self.limits.iter().collect();
        let explanation = Explanation::new(ExplanationInput {
            items: &self.items,
            total_measures: None,
            limits: &limits,
            conditions: &self.conditions,
            now: now(),
        });
        for explained in &explanation.actions {
            let is_blocked = self.is_blocked(&self.items, explained.action);
            assert_eq!(!explained.because.is_empty(), is_blocked, "{self:?}");
            assert_eq!(explained.way_out.is_some(), is_blocked, "{self:?}");
            if let Some(way_out) = &explained.way_out {
                self.check_way_out(way_out, explained.action);
            }
        }
        check(&explanation);
    }

    fn is_blocked(&self, items: &OpenItems, action: Action) -> bool {
        let findings = evaluate(&items.measures(now()), &self.limits, &self.conditions);
        findings.iter().any(|finding| finding.blocked.contains(action))
    }

    /// The way out frees the action, and one loan or one step of payment less does not.
    fn check_way_out(&self, way_out: &WayOut, action: Action) {
        assert!(!self.is_blocked(&way_out.apply(&self.items), action), "{self:?} {way_out:?}");
        for index in 0..way_out.returns.as_ref().map_or(0, |returns| returns.suggested.len()) {
            let mut less = WayOut { only_when_nothing_is_open: false, ..way_out.clone() };
            less.returns.as_mut().unwrap().suggested.remove(index);
            assert!(self.is_blocked(&less.apply(&self.items), action), "{self:?} {less:?}");
        }
        if !way_out.only_when_nothing_is_open && way_out.payment.is_some() {
            let mut less = way_out.clone();
            less.payment.as_mut().unwrap().amount -= decimal("0.001");
            assert!(self.is_blocked(&less.apply(&self.items), action), "{self:?} {less:?}");
        }
    }
}

/// The loans and the amount of a way out.
fn demands(explanation: &Explanation<'_>, action: Action) -> Option<(usize, Option<Decimal>)> {
    let way_out = way_out(explanation, action)?;
    let loans = way_out.returns.as_ref().map_or(0, |returns| returns.suggested.len());
    Some((loans, way_out.payment.as_ref().map(|payment| payment.amount)))
}

fn way_out<'a>(explanation: &'a Explanation<'_>, action: Action) -> Option<&'a WayOut> {
    let mut actions = explanation.actions.iter();
    actions.find(|explained| explained.action == action).unwrap().way_out.as_ref()
}

fn ids(loans: &[u32]) -> Vec<Uuid> {
    loans.iter().map(|n| loan_id(*n)).collect()
}

#[test]
fn row_1_borrowing_stops_at_the_limit() {
    patron(&[(CO, 5.0)]).loans(1..=5).explained(|explanation| {
        assert_eq!(demands(explanation, Borrowing), Some((1, None)));
        assert_eq!(demands(explanation, Renewals), None);
        assert_eq!(demands(explanation, Requests), None);
        let limit = &explanation.limits[0];
        assert_eq!(limit.counted, 5);
        let thresholds = Action::ALL.map(|action| limit.finding.threshold(action));
        assert_eq!(thresholds, [5, 6, 6].map(|count| Some(Threshold::Count(count))));
        let returns = way_out(explanation, Borrowing).unwrap().returns.as_ref().unwrap();
        assert_eq!((returns.suggested.len(), returns.alternatives.len()), (1, 4));
        assert_eq!(way_out(explanation, Borrowing).unwrap().one_more_blocks, [CO]);
    });
}

#[test]
fn row_2_each_action_has_a_number_of_returns() {
    patron(&[(CO, 5.0)]).loans(1..=6).explained(|explanation| {
        let demanded = Action::ALL.map(|action| demands(explanation, action));
        assert_eq!(demanded, [Some((2, None)), Some((1, None)), Some((1, None))]);
    });
}

#[test]
fn row_3_claimed_loans_are_left_out() {
    patron(&[(CO, 5.0)]).loans(1..=4).claimed(5).claimed(6).explained(|explanation| {
        assert!(explanation.actions.iter().all(|action| action.because.is_empty()));
        let limit = &explanation.limits[0];
        assert_eq!(limit.counted, 4);
        assert_eq!(limit.left_out, BTreeMap::from([(LeftOut::ClaimedReturned, 2)]));
        let claimed: Vec<_> =
            explanation.loans.iter().filter(|loan| loan.counts_for.is_empty()).collect();
        assert_eq!(claimed.len(), 2);
        assert!(claimed.iter().all(|loan| loan.left_out == Some(LeftOut::ClaimedReturned)));
    });
}

#[test]
fn row_4_one_loan_may_serve_three_needs() {
    let lost_and_overdue = |loan: &mut OpenLoan| {
        loan.due_date = Some(ago(DAY));
        loan.lost = true;
    };
    let patron = patron(&[(CO, 5.0), (OI, 2.0), (LI, 0.0)])
        .loans(1..=4)
        .overdue(5, 3)
        .overdue(6, 2)
        .with_loan(7, lost_and_overdue);
    patron.explained(|explanation| {
        let returns = way_out(explanation, Borrowing).unwrap().returns.as_ref().unwrap();
        assert_eq!(returns.suggested.len(), 3);
        assert_eq!(returns.suggested[0], loan_id(7));
        assert!(returns.required.is_empty());
        assert!(!returns.is_any, "no other loan is lost");
        let caveats = &way_out(explanation, Borrowing).unwrap().caveats;
        assert_eq!(*caveats, [Caveat::LateReturnMayCharge, Caveat::LostReturnMayCancel]);
    });
    self::patron(&[(CO, 5.0), (LI, 2.0)]).loans(1..=7).explained(|explanation| {
        assert!(way_out(explanation, Borrowing).unwrap().returns.as_ref().unwrap().is_any);
    });
}

#[test]
fn row_5_limits_of_days_require_their_loans() {
    let recalled = |days: i64| {
        move |loan: &mut OpenLoan| {
            loan.due_date = Some(ago(days * DAY));
            loan.recall = true;
        }
    };
    let patron = patron(&[(RD, 3.0), (OR, 2.0)])
        .with_loan(1, recalled(2))
        .with_loan(2, recalled(4))
        .with_loan(3, recalled(6))
        .with_loan(4, recalled(9));
    patron.explained(|explanation| {
        let returns = way_out(explanation, Borrowing).unwrap().returns.as_ref().unwrap();
        assert_eq!(returns.required, ids(&[4, 3, 2]));
        assert_eq!(returns.suggested, returns.required);
        assert!(returns.alternatives.is_empty());
    });
}

#[test]
fn row_6_amount_is_exact_and_fees_are_fewest() {
    patron(&[(FB, 10.0)]).owing(1, "2.76", None).owing(2, "7.25", None).explained(|explanation| {
        assert_eq!(demands(explanation, Borrowing), Some((0, Some(decimal("0.01")))));
        let payment = way_out(explanation, Borrowing).unwrap().payment.as_ref().unwrap();
        assert_eq!(payment.fees_fines, [fee_id(2)]);
        assert_eq!(
            explanation.limits[0].finding.threshold(Borrowing),
            Some(Threshold::Above(decimal("10")))
        );
    });
}

#[test]
fn row_7_fees_of_claimed_loans_are_left_out_and_come_back() {
    let patron = patron(&[(FB, 5.0)]).claimed(1).owing(1, "6", Some(1)).owing(2, "6", None);
    patron.explained(|explanation| {
        assert_eq!(demands(explanation, Requests), Some((0, Some(decimal("1")))));
        assert_eq!(way_out(explanation, Requests).unwrap().caveats, [Caveat::ClaimAddsFees]);
        let left_out: Vec<_> = explanation.fees_fines.iter().map(|fee| fee.left_out).collect();
        assert_eq!(left_out, [Some(LeftOut::LoanClaimedReturned), None]);
        let limit = &explanation.limits[0];
        assert_eq!(
            (limit.counted, &limit.left_out),
            (1, &BTreeMap::from([(LeftOut::LoanClaimedReturned, 1)]))
        );
    });
}

#[test]
fn row_8_only_nothing_open_frees_a_patron_with_a_fee() {
    patron(&[(CO, 0.0)]).owing(1, "1.00", None).explained(|explanation| {
        let way_out = way_out(explanation, Borrowing).unwrap();
        assert!(way_out.only_when_nothing_is_open);
        assert_eq!(way_out.returns, None);
        assert_eq!(way_out.payment.as_ref().unwrap().fees_fines, [fee_id(1)]);
        assert_eq!(demands(explanation, Borrowing), Some((0, Some(decimal("1")))));
        assert_eq!(demands(explanation, Renewals), None);
    });
}

#[test]
fn row_9_only_nothing_open_frees_a_patron_with_a_claimed_loan() {
    patron(&[(CO, 0.0)]).claimed(1).explained(|explanation| {
        let way_out = way_out(explanation, Borrowing).unwrap();
        assert!(way_out.only_when_nothing_is_open);
        assert_eq!(way_out.returns.as_ref().unwrap().suggested, ids(&[1]));
        assert_eq!(way_out.payment, None);
        assert_eq!(way_out.one_more_blocks, [CO]);
    });
}

#[test]
fn row_10_fractional_limits_round_to_whole_loans() {
    let patron = patron(&[(OI, 2.5)]).overdue(1, 1).overdue(2, 2).overdue(3, 3);
    patron.explained(|explanation| {
        let demanded = Action::ALL.map(|action| demands(explanation, action));
        assert_eq!(demanded, [Some((1, None)); 3]);
        // Renewals are blocked, so no renewal can help.
        let caveats = &way_out(explanation, Borrowing).unwrap().caveats;
        assert_eq!(*caveats, [Caveat::LateReturnMayCharge]);
    });
}

#[test]
fn row_11_greatest_need_of_two_limits_counts() {
    patron(&[(CO, 5.0), (CO, 4.0)]).loans(1..=6).explained(|explanation| {
        assert_eq!(explanation.limits.len(), 2);
        assert_eq!(demands(explanation, Borrowing), Some((3, None)));
        assert_eq!(explanation.actions[0].because.len(), 2);
    });
}

#[test]
fn row_12_switched_off_action_is_reached_and_not_blocked() {
    patron(&[(CO, 5.0)]).loans(1..=6).without_borrowing_flag().explained(|explanation| {
        assert_eq!(demands(explanation, Borrowing), None);
        assert_eq!(demands(explanation, Renewals), Some((1, None)));
        let finding = &explanation.limits[0].finding;
        assert!(finding.reached.contains(Borrowing) && !finding.blocked.contains(Borrowing));
        assert!(!finding.condition.blocks.contains(Borrowing));
    });
}

#[test]
fn row_13_next_names_the_first_day_over_the_limit() {
    let due = ago(3 * DAY) - TimeDelta::milliseconds(59_999);
    let recalled = |loan: &mut OpenLoan| {
        loan.due_date = Some(due);
        loan.recall = true;
    };
    patron(&[(RD, 3.0)]).with_loan(1, recalled).explained(|explanation| {
        assert_eq!(demands(explanation, Borrowing), None);
        let next = explanation.next.unwrap();
        assert_eq!((next.at, next.measure), (due + TimeDelta::minutes(4321), RD));
    });
}

#[test]
fn row_14_next_names_the_end_of_the_grace_period() {
    let in_grace = |loan: &mut OpenLoan| {
        loan.due_date = Some(ago(120));
        loan.grace = Some(Grace { duration: 2, unit: GraceUnit::Hours });
    };
    patron(&[(OI, 0.0)]).with_loan(1, in_grace).explained(|explanation| {
        assert_eq!(demands(explanation, Borrowing), None);
        assert_eq!(explanation.loans[0].left_out, Some(LeftOut::InGrace));
        assert_eq!(explanation.limits[0].left_out, BTreeMap::from([(LeftOut::InGrace, 1)]));
        let next = explanation.next.unwrap();
        assert_eq!((next.at, next.measure), (ago(120) + TimeDelta::minutes(121), OI));
    });
}

#[test]
fn reasons_of_left_out_loans_are_named() {
    let patron = patron(&[(OI, 0.0), (OR, 0.0), (LI, 0.0)])
        .loans(1..=1)
        .with_loan(2, |loan| loan.due_date = None)
        .overdue(3, 1);
    patron.explained(|explanation| {
        let reasons: Vec<_> = explanation
            .limits
            .iter()
            .map(|limit| (limit.counted, limit.left_out.clone()))
            .collect();
        assert_eq!(
            reasons,
            [
                (1, BTreeMap::from([(LeftOut::NotOverdue, 1), (LeftOut::NoDueDate, 1)])),
                (0, BTreeMap::from([(LeftOut::NotRecalled, 3)])),
                (0, BTreeMap::from([(LeftOut::NotLost, 3)])),
            ]
        );
    });
}

#[test]
fn grace_is_the_reason_only_after_the_due_date() {
    let hour = Some(Grace { duration: 1, unit: GraceUnit::Hours });
    for (due_date, grace, reason) in [
        (ago(-5), hour, Some(LeftOut::NotOverdue)),
        (ago(0), hour, Some(LeftOut::InGrace)),
        (ago(60), hour, Some(LeftOut::InGrace)),
        (ago(61), hour, None),
        (ago(0), None, Some(LeftOut::NotOverdue)),
        (ago(1), None, None),
    ] {
        let patron = patron(&[(OI, 5.0)]).with_loan(1, |loan| {
            loan.due_date = Some(due_date);
            loan.grace = grace;
        });
        patron.explained(|explanation| {
            assert_eq!(explanation.loans[0].left_out, reason, "{due_date} {grace:?}");
            assert_eq!(explanation.limits[0].counted, usize::from(reason.is_none()));
        });
    }
}

/// The lists of docs/contract/insight.md#2-explanations are closed: clients compare the names.
#[test]
fn names_are_those_of_the_contract() {
    assert_eq!(
        Measure::ALL.map(Measure::code),
        ["charged-out", "lost", "overdue", "overdue-recalls", "balance", "recall-overdue-days"]
    );
    assert_eq!(Action::ALL.map(Action::name), ["borrowing", "renewals", "requests"]);
    let caveats = [
        Caveat::LateReturnMayCharge,
        Caveat::LostReturnMayCancel,
        Caveat::ClaimAddsFees,
        Caveat::RenewalMayHelp,
    ];
    assert_eq!(
        caveats.map(Caveat::name),
        ["late-return-may-charge", "lost-return-may-cancel", "claim-adds-fees", "renewal-may-help"]
    );
    let reasons = [
        LeftOut::ClaimedReturned,
        LeftOut::LoanClaimedReturned,
        LeftOut::NotOverdue,
        LeftOut::InGrace,
        LeftOut::NoDueDate,
        LeftOut::NotRecalled,
        LeftOut::NotLost,
    ];
    assert_eq!(
        reasons.map(LeftOut::name),
        [
            "claimed-returned",
            "loan-claimed-returned",
            "not-overdue",
            "in-grace",
            "no-due-date",
            "not-recalled",
            "not-lost"
        ]
    );
}

/// A message fills its numbers in, and leaves everything else as it is.
#[test]
fn placeholders_become_numbers() {
    let message = |template: &str, patron: &Patron| {
        let mut conditions = patron.conditions.clone();
        conditions.iter_mut().for_each(|condition| condition.message = template.to_owned());
        let measures = patron.items.measures(now());
        let findings = evaluate(&measures, &patron.limits, &conditions);
        findings[0].message(&measures).into_owned()
    };
    let items = patron(&[(CO, 5.0)]).loans(1..=6).overdue(7, 1);
    for (template, expected) in [
        ("{measured} of {limit} items. Return {toReturn}.", "7 of 5 items. Return 3."),
        ("{toSettle} {overdue}", "0 1"),
        ("no number", "no number"),
        ("", ""),
        ("{", "{"),
        ("}{", "}{"),
        ("{}{unknown} {Measured} { measured }", "{}{unknown} {Measured} { measured }"),
        ("{{measured}}", "{7}"),
        ("{measured", "{measured"),
        ("ü{limit}ß{", "ü5ß{"),
        ("{{{{{{", "{{{{{{"),
    ] {
        assert_eq!(message(template, &items), expected, "{template}");
    }
    // The largest number of the blocked actions: borrowing stops at the limit.
    assert_eq!(message("{toReturn}", &patron(&[(CO, 2.0)]).loans(1..=4)), "3");
    // Only nothing open helps: two loans and a claimed one.
    assert_eq!(message("{toReturn}", &patron(&[(CO, 0.0)]).loans(1..=2).claimed(3)), "3");
    let owing = patron(&[(FB, 10.4)]).owing(1, "12.5", None);
    assert_eq!(message("{measured} {limit} {toSettle}", &owing), "12.50 10.40 2.10");
    let recall_of = |days| {
        move |loan: &mut OpenLoan| (loan.due_date, loan.recall) = (Some(ago(days * DAY)), true)
    };
    let long = patron(&[(RD, 1.5)]).with_loan(1, recall_of(2));
    assert_eq!(message("{measured} {limit} {toReturn}", &long), "2 1.5 1");
    // A recall at the limit blocks nothing.
    let two = patron(&[(RD, 2.0)]).with_loan(1, recall_of(2)).with_loan(2, recall_of(3));
    assert_eq!(message("{measured} {limit} {toReturn}", &two), "3 2 1");
}
