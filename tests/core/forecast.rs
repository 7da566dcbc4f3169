//! The forecast of a patron against brute force. `stories::forecast` tests the same
//! over HTTP.

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    blocks::{
        Actions, Condition, DatedLoan, Finding, ForecastBlock, Limit, Measure, OpenItems, evaluate,
    },
    event::{Grace, GraceUnit},
    patron::{OpenFee, OpenLoan},
};
use proptest::{
    collection::vec,
    option,
    prelude::*,
    sample::{select, subsequence},
};
use uuid::Uuid;

use crate::support::policy;

const MINUTE: i64 = 60_000;
const DAY: i64 = 24 * 60 * MINUTE;

fn now() -> DateTime<Utc> {
    "2026-09-15T12:00:00.000Z".parse().unwrap()
}

fn at(milliseconds: i64) -> DateTime<Utc> {
    now() + TimeDelta::milliseconds(milliseconds)
}

/// A patron with limits.
#[derive(Debug, Clone)]
struct Patron {
    items: OpenItems,
    limits: Vec<Limit>,
    conditions: Vec<Condition>,
}

fn loan() -> impl Strategy<Value = OpenLoan> {
    let due = (-3 * 24 * 60..3 * 24 * 60_i64, select(vec![0, 1, 59_999]));
    let due_date = due.prop_map(|(minutes, milliseconds)| at(minutes * MINUTE + milliseconds));
    let unit = select(vec![GraceUnit::Minutes, GraceUnit::Hours, GraceUnit::Days]);
    let grace = (1..40, unit).prop_map(|(duration, unit)| Grace { duration, unit });
    let due_date = option::weighted(0.95, due_date);
    let flags = (any::<bool>(), any::<bool>(), prop::bool::weighted(0.2));
    (due_date, option::weighted(0.4, grace), flags).prop_map(
        |(due_date, grace, (recall, lost, claimed_returned))| OpenLoan {
            user: Uuid::nil(),
            due_date,
            grace,
            recall,
            lost,
            claimed_returned,
        },
    )
}

fn actions() -> impl Strategy<Value = Actions> {
    [prop::bool::weighted(0.7), prop::bool::weighted(0.5), prop::bool::weighted(0.5)]
        .prop_map(|[borrowing, renewals, requests]| Actions { borrowing, renewals, requests })
}

fn patron() -> impl Strategy<Value = Patron> {
    let value = option::weighted(0.95, select(vec![-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 1e300]));
    let measure = select(Measure::ALL.to_vec());
    let limits = vec((measure, value), 1..6).prop_map(|limits| {
        let numbered = (0..).zip(limits);
        numbered.map(|(n, (measure, value))| policy::limit(n, measure, value)).collect()
    });
    let conditions = (subsequence(Measure::ALL.to_vec(), 4..=6), vec(actions(), 6));
    let conditions = conditions.prop_map(|(measures, blocks)| {
        let pairs = measures.into_iter().zip(blocks);
        pairs.map(|(measure, blocks)| policy::condition(measure, blocks)).collect()
    });
    (vec(loan(), 0..6), vec(0..4_i64, 0..2), limits, conditions).prop_map(
        |(loans, fees, limits, conditions)| Patron {
            items: OpenItems {
                loans: (0x1000..).map(Uuid::from_u128).zip(loans).collect(),
                fees: (0x2000..).map(Uuid::from_u128).zip(fees.into_iter().map(fee)).collect(),
            },
            limits,
            conditions,
        },
    )
}

fn fee(balance: i64) -> OpenFee {
    OpenFee { user: Uuid::nil(), balance: balance.into(), loan: None, fee_fine_type: None }
}

impl Patron {
    fn findings(&self, at: DateTime<Utc>) -> Vec<Finding<'_>> {
        evaluate(&self.items.measures(at), &self.limits, &self.conditions)
    }

    fn blocked(&self, at: DateTime<Utc>) -> Actions {
        let findings = self.findings(at);
        findings.iter().fold(Actions::NONE, |all, finding| all.union(finding.blocked))
    }

    /// Returns the first limit that blocks at this instant and not in the findings of now.
    fn new_limit(&self, before: &[Finding<'_>], at: DateTime<Utc>) -> Option<(Uuid, Actions)> {
        let mut pairs = before.iter().zip(self.findings(at));
        let found =
            pairs.find(|(before, after)| before.blocked.is_empty() && !after.blocked.is_empty());
        found.map(|(_, after)| (after.limit.id, after.blocked))
    }

    /// The loans that a page of the database has.
    fn dated_loans(&self, until: DateTime<Utc>) -> Vec<DatedLoan> {
        let dated = self.items.loans.values().filter_map(DatedLoan::from_open_loan);
        dated.filter(|loan| loan.overdue_from <= until).collect()
    }

    fn forecast(&self, until: DateTime<Utc>) -> Option<ForecastBlock<'_>> {
        let findings = self.findings(now());
        // The block borrows the limits of the patron, not the findings.
        ForecastBlock::find(&findings, &self.dated_loans(until), until)
    }

    /// Returns every instant of the period at which a loan may count differently.
    fn instants(&self, until: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        let mut all: Vec<_> = self
            .items
            .loans
            .values()
            .filter_map(|loan| loan.due_date)
            .flat_map(|due_date| {
                let first = (now() - due_date).num_minutes() - 1;
                (first..)
                    .map(move |minutes| due_date + TimeDelta::minutes(minutes))
                    .take_while(move |instant| *instant <= until)
            })
            .filter(|instant| *instant > now())
            .collect();
        all.sort();
        all.dedup();
        all
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn forecast_equals_brute_force(patron in patron(), ahead in 1..2 * DAY) {
        let (until, findings) = (at(ahead), patron.findings(now()));
        let first = patron.instants(until).into_iter().find_map(|instant| {
            Some((instant, patron.new_limit(&findings, instant)?))
        });
        let found = patron.forecast(until);
        prop_assert_eq!(found.map(|block| (block.at, (block.limit.id, block.blocks))), first);
        if let Some(block) = found {
            let before = block.at - TimeDelta::milliseconds(1);
            prop_assert_eq!(patron.new_limit(&findings, before), None);
            let (now, then) = (patron.blocked(now()), patron.blocked(block.at));
            prop_assert_eq!(block.blocked_now, now);
            prop_assert_eq!(block.become_blocked, then.difference(now));
        } else {
            prop_assert_eq!(patron.new_limit(&findings, until), None);
        }
    }
}

/// A patron with one loan and one limit; every action is blocked.
fn with_one_loan(measure: Measure, value: f64, change: impl FnOnce(&mut OpenLoan)) -> Patron {
    let mut loan = OpenLoan {
        user: Uuid::nil(),
        due_date: Some(at(DAY)),
        grace: None,
        recall: true,
        lost: false,
        claimed_returned: false,
    };
    change(&mut loan);
    Patron {
        items: OpenItems { loans: [(Uuid::from_u128(2), loan)].into(), ..OpenItems::default() },
        limits: vec![policy::limit(1, measure, value)],
        conditions: policy::conditions(Actions::ALL),
    }
}

#[test]
fn grace_days_and_claims_determine_the_instant() {
    let hours = |loan: &mut OpenLoan| {
        loan.grace = Some(Grace { duration: 2, unit: GraceUnit::Hours });
    };
    let claimed = |loan: &mut OpenLoan| loan.claimed_returned = true;
    let overdue = |loan: &mut OpenLoan| loan.due_date = Some(at(-DAY));
    let due = DAY;
    for (patron, expected) in [
        (with_one_loan(Measure::OverdueItems, 0.0, |_| ()), Some(due + MINUTE)),
        (with_one_loan(Measure::OverdueItems, 1.0, |_| ()), None),
        (with_one_loan(Measure::OverdueItems, 0.0, hours), Some(due + 121 * MINUTE)),
        (with_one_loan(Measure::OverdueItems, 0.0, claimed), None),
        (with_one_loan(Measure::OverdueItems, 0.0, overdue), None),
        (with_one_loan(Measure::OverdueRecalls, 0.0, |_| ()), Some(due + MINUTE)),
        (with_one_loan(Measure::RecallOverdueDays, 3.0, |_| ()), Some(due + 3 * DAY + MINUTE)),
        (with_one_loan(Measure::RecallOverdueDays, 3.0, overdue), Some(2 * DAY + MINUTE)),
        (with_one_loan(Measure::ChargedOut, 2.0, |_| ()), None),
    ] {
        let found = patron.forecast(at(10 * DAY)).map(|block| block.at);
        assert_eq!(found, expected.map(at), "{patron:?}");
        if let Some(expected) = expected {
            assert!(patron.forecast(at(expected)).is_some(), "the end belongs to the period");
            assert!(patron.forecast(at(expected - 1)).is_none());
        }
    }
}
