//! The 60 rows of docs/contract/evaluation.md#7-cases, against the pure core. Events create each state,
//! so the rows also test the merge. `stories::evaluation` tests the statements of rows 9, 54 to 56, 59
//! and 60 about HTTP and the users module.

use std::collections::BTreeMap;

use Measure::{
    ChargedOut as CO, FeeFineBalance as FB, LostItems as LI, OverdueItems as OI,
    OverdueRecalls as OR, RecallOverdueDays as RD,
};
use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    blocks::{Actions, Limit, Measure, Measures, evaluate},
    event::{Event, Fact, Grace, GraceUnit, IdentifiedBy, Stamp, TimedBy},
    patron::{Fee, Loan, OpenFee, OpenLoan},
};
use uuid::Uuid;

use crate::support::policy;

const USER: Uuid = Uuid::from_u128(0xA);
const B: Actions = Actions { borrowing: true, renewals: false, requests: false };
const ALL: Actions = Actions::ALL;

fn now() -> DateTime<Utc> {
    "2026-09-15T12:00:00.000Z".parse().unwrap()
}

/// The facts about a patron, in their order.
#[derive(Default)]
struct PatronHistory {
    facts: Vec<Fact>,
}

fn loan(n: u32) -> Uuid {
    Uuid::from_u128(0x1000 + u128::from(n))
}

fn patron() -> PatronHistory {
    PatronHistory::default()
}

/// Returns the instant this many minutes and milliseconds ago.
fn ago(minutes: i64, milliseconds: i64) -> DateTime<Utc> {
    now() - TimeDelta::minutes(minutes) - TimeDelta::milliseconds(milliseconds)
}

const DAY: i64 = 24 * 60;

impl PatronHistory {
    fn with_fact(mut self, fact: Fact) -> Self {
        self.facts.push(fact);
        self
    }

    fn checked_out(self, n: u32, due_date: DateTime<Utc>, grace: Option<(i32, GraceUnit)>) -> Self {
        let grace = grace.map(|(duration, unit)| Grace { duration, unit });
        self.with_fact(Fact::CheckedOut { loan: loan(n), user: USER, due_date, grace })
    }

    /// Adds loans 1 to `n`, due in a week.
    fn loans(self, n: u32) -> Self {
        (1..=n).fold(self, |history, n| history.checked_out(n, now() + TimeDelta::days(7), None))
    }

    /// Adds loans 1 to `n`, overdue by a day.
    fn overdue(self, n: u32) -> Self {
        (1..=n).fold(self, |history, n| history.checked_out(n, ago(DAY, 0), None))
    }

    fn lost(self, numbers: impl IntoIterator<Item = u32>) -> Self {
        numbers.into_iter().fold(self, |history, n| {
            history.with_fact(Fact::Lost { loan: loan(n), user: USER, by_age: n % 3 == 0 })
        })
    }

    fn claimed(self, numbers: impl IntoIterator<Item = u32>) -> Self {
        numbers.into_iter().fold(self, |history, n| {
            history.with_fact(Fact::ClaimedReturned { loan: loan(n), user: USER })
        })
    }

    fn due_date_changed(self, n: u32, due_date: DateTime<Utc>, by_recall: bool) -> Self {
        self.with_fact(Fact::DueDateChanged { loan: loan(n), user: USER, due_date, by_recall })
    }

    fn recalled(self, n: u32, due_date: DateTime<Utc>) -> Self {
        self.due_date_changed(n, due_date, true)
    }

    fn checked_in(self, n: u32) -> Self {
        self.with_fact(Fact::CheckedIn { loan: loan(n), user: Some(USER) })
    }

    fn owing(self, n: u32, balance: &str, loan: Option<Uuid>) -> Self {
        self.with_fact(Fact::BalanceChanged {
            fee_fine: Uuid::from_u128(0x2000 + u128::from(n)),
            user: Some(USER),
            fee_fine_type: None,
            loan,
            balance: balance.parse().unwrap(),
        })
    }

    fn measures(&self) -> Measures {
        let (mut loans, mut fees) = (BTreeMap::<_, Loan>::new(), BTreeMap::<_, Fee>::new());
        for (n, fact) in (0..).zip(&self.facts) {
            let occurred_at = DateTime::from_timestamp_millis(n).unwrap();
            let key = Uuid::from_u128(u128::try_from(n).unwrap());
            let event = Event {
                key,
                identified_by: IdentifiedBy::Envelope,
                occurred_at,
                timed_by: TimedBy::Envelope,
                stamp: Stamp::from_envelope(occurred_at, fact.kind(), key),
                fact: fact.clone(),
            };
            if let Some((id, change)) = Loan::from_event(&event) {
                let known = loans.entry(id).or_default();
                *known = std::mem::take(known).merge(change);
            }
            if let Some((id, change)) = Fee::from_event(&event) {
                let known = fees.entry(id).or_default();
                *known = std::mem::take(known).merge(change);
            }
        }
        let open: Vec<(Uuid, OpenLoan)> =
            loans.iter().filter_map(|(id, loan)| Some((*id, loan.as_open(None)?))).collect();
        let owed: Vec<OpenFee> = fees.values().filter_map(|fee| fee.as_open(None)).collect();
        Measures::compute(open.iter().map(|(id, loan)| (*id, loan)), &owed, now())
    }
}

/// One row: its number, the patron, the limits, the conditions' flags, and the expected entries.
struct Row(u8, Measures, &'static [(Measure, f64)], Actions, &'static [Actions]);

fn row(
    n: u8,
    history: PatronHistory,
    limits: &'static [(Measure, f64)],
    expected: &'static [Actions],
) -> Row {
    Row(n, history.measures(), limits, ALL, expected)
}

fn rows() -> Vec<Row> {
    let g = |n, unit| Some((n, unit));
    let x = Some(loan(1));
    let unknown_loan = Some(Uuid::from_u128(0x9999));
    let flags = |borrowing| Actions { borrowing, renewals: !borrowing, requests: !borrowing };
    let due_missing = Measures { open_loans: 1, charged_out: 1, ..Measures::default() };
    const RENEWALS: Actions = Actions { borrowing: false, renewals: true, requests: false };
    vec![
        row(1, patron().loans(4), &[(CO, 5.0)], &[]),
        row(2, patron().loans(5), &[(CO, 5.0)], &[B]),
        row(3, patron().loans(6), &[(CO, 5.0)], &[ALL]),
        Row(4, patron().loans(5).measures(), &[(CO, 5.0)], flags(false), &[]),
        Row(5, patron().loans(6).measures(), &[(CO, 5.0)], RENEWALS, &[RENEWALS]),
        row(6, patron().loans(6).claimed([1, 2]), &[(CO, 5.0)], &[]),
        row(7, patron().loans(6).claimed([1]).lost([2, 3, 4]), &[(CO, 5.0)], &[B]),
        row(8, patron().owing(1, "1.00", None), &[(CO, 0.0)], &[B]),
        row(9, patron(), &[(CO, 0.0)], &[]),
        row(10, patron().loans(1), &[(CO, 0.0)], &[ALL]),
        row(11, patron().loans(2).lost([1, 2]), &[(LI, 2.0)], &[]),
        row(12, patron().loans(3).lost([1, 2, 3]), &[(LI, 2.0)], &[ALL]),
        row(13, patron().loans(3).lost([1, 2, 3]).claimed([1]), &[(LI, 2.0)], &[]),
        row(
            14,
            patron().loans(3).lost([1, 2, 3]).due_date_changed(
                1,
                now() + TimeDelta::days(9),
                false,
            ),
            &[(LI, 2.0)],
            &[],
        ),
        row(
            15,
            patron().loans(3).lost([1, 2, 3]).recalled(1, now() + TimeDelta::days(2)),
            &[(LI, 2.0)],
            &[ALL],
        ),
        row(16, patron().loans(1).lost([1]), &[(LI, 0.0)], &[ALL]),
        row(17, patron().checked_out(1, ago(0, 59_999), None), &[(OI, 0.0)], &[]),
        row(18, patron().checked_out(1, ago(1, 0), None), &[(OI, 0.0)], &[ALL]),
        row(19, patron().checked_out(1, now(), None), &[(OI, 0.0)], &[]),
        row(20, patron().checked_out(1, ago(120, 0), g(2, GraceUnit::Hours)), &[(OI, 0.0)], &[]),
        row(
            21,
            patron().checked_out(1, ago(120, 59_999), g(2, GraceUnit::Hours)),
            &[(OI, 0.0)],
            &[],
        ),
        row(22, patron().checked_out(1, ago(121, 0), g(2, GraceUnit::Hours)), &[(OI, 0.0)], &[ALL]),
        row(
            23,
            patron().checked_out(1, ago(31 * DAY, 0), g(1, GraceUnit::Months)),
            &[(OI, 0.0)],
            &[],
        ),
        row(
            24,
            patron().checked_out(1, ago(31 * DAY + 1, 0), g(1, GraceUnit::Months)),
            &[(OI, 0.0)],
            &[ALL],
        ),
        row(25, patron().overdue(2), &[(OI, 2.0)], &[]),
        row(26, patron().overdue(3).claimed([1]), &[(OI, 2.0)], &[]),
        row(27, patron().overdue(3).lost([1]), &[(OI, 2.0)], &[ALL]),
        Row(28, due_missing, &[(OI, 0.0), (CO, 1.0)], ALL, &[B]),
        row(29, patron().overdue(2).recalled(1, ago(DAY, 0)), &[(OR, 0.0)], &[ALL]),
        row(
            30,
            patron().loans(2).recalled(1, ago(-DAY, 0)).recalled(2, ago(-DAY, 0)),
            &[(OR, 0.0)],
            &[],
        ),
        row(
            31,
            patron().checked_out(1, ago(-DAY, 0), g(10, GraceUnit::Minutes)).recalled(1, ago(5, 0)),
            &[(OR, 0.0)],
            &[],
        ),
        row(32, patron().loans(1).recalled(1, ago(3 * DAY, 0)), &[(RD, 3.0)], &[]),
        row(33, patron().loans(1).recalled(1, ago(3 * DAY, 59_999)), &[(RD, 3.0)], &[]),
        row(34, patron().loans(1).recalled(1, ago(3 * DAY + 1, 0)), &[(RD, 3.0)], &[ALL]),
        row(35, patron().loans(1).recalled(1, ago(1, 0)), &[(RD, 0.0)], &[ALL]),
        row(
            36,
            patron().checked_out(1, now(), g(5, GraceUnit::Days)).recalled(1, ago(4 * DAY, 0)),
            &[(RD, 3.0)],
            &[],
        ),
        row(
            37,
            patron().checked_out(1, now(), g(5, GraceUnit::Days)).recalled(1, ago(5 * DAY + 1, 0)),
            &[(RD, 3.0)],
            &[ALL],
        ),
        row(
            38,
            patron().loans(1).recalled(1, ago(10 * DAY, 0)).due_date_changed(
                1,
                ago(9 * DAY, 0),
                false,
            ),
            &[(RD, 3.0)],
            &[],
        ),
        row(39, patron().loans(1).recalled(1, ago(10 * DAY, 0)).claimed([1]), &[(RD, 3.0)], &[]),
        row(40, patron().owing(1, "7.25", None).owing(2, "2.75", None), &[(FB, 10.0)], &[]),
        row(41, patron().owing(1, "7.25", None).owing(2, "2.76", None), &[(FB, 10.0)], &[ALL]),
        row(42, patron().owing(1, "0.1", None).owing(2, "0.2", None), &[(FB, 0.3)], &[]),
        row(43, patron().owing(1, "10.40", None), &[(FB, 10.4)], &[]),
        row(
            44,
            patron().loans(1).owing(1, "6", x).owing(2, "6", None).claimed([1]),
            &[(FB, 10.0)],
            &[],
        ),
        row(
            45,
            patron().loans(1).owing(1, "6", x).owing(2, "6", None).claimed([1]).checked_in(1),
            &[(FB, 10.0)],
            &[ALL],
        ),
        row(46, patron().owing(1, "12", unknown_loan), &[(FB, 10.0)], &[ALL]),
        row(
            47,
            patron().loans(1).claimed([1]).owing(1, "12", x).owing(1, "12", None),
            &[(FB, 10.0)],
            &[ALL],
        ),
        row(48, patron().owing(1, "0.01", None), &[(FB, 0.0)], &[ALL]),
        row(49, patron().owing(1, "3", None).owing(1, "0.00", None), &[(FB, 0.0)], &[]),
        row(50, patron().owing(1, "999999.99", None), &[(FB, 999_999.99)], &[]),
        row(
            51,
            patron().overdue(6).lost(1..=6).owing(1, "50", None),
            &[(CO, 5.0), (LI, 5.0), (OI, 5.0), (FB, 49.99)],
            &[ALL; 4],
        ),
        row(52, patron().loans(6), &[(CO, 5.0), (CO, 5.0)], &[ALL; 2]),
        // Rows 53 to 56: the limits of no group, or of another group, do not apply.
        row(53, patron().loans(6), &[], &[]),
        row(54, patron().loans(6), &[], &[]),
        row(55, patron().loans(6), &[], &[]),
        row(56, patron().loans(6), &[(CO, 10.0)], &[]),
        row(57, patron().loans(6), &[(CO, 5.0)], &[ALL]),
        row(58, patron().overdue(3), &[(OI, 2.5)], &[ALL]),
        row(59, patron(), &[(CO, 5.0)], &[]),
        row(60, patron().loans(6), &[(CO, 5.0)], &[ALL]),
    ]
}

#[test]
fn evaluation_matches_every_contract_row() {
    let rows = rows();
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), (1..=60).collect::<Vec<_>>());
    for Row(n, measures, limits, blocks, expected) in rows {
        let conditions = policy::conditions(blocks);
        let limits: Vec<Limit> =
            limits.iter().map(|(measure, value)| policy::limit(0, *measure, *value)).collect();
        let findings = evaluate(&measures, &limits, &conditions);
        let blocked: Vec<Actions> =
            findings.iter().map(|finding| finding.blocked).filter(|b| !b.is_empty()).collect();
        assert_eq!(blocked, expected, "row {n}: {measures:?}");
        // If the patron has any open record, every limit has a finding, blocking or not.
        assert_eq!(findings.len(), if measures.is_empty() { 0 } else { limits.len() }, "row {n}");
    }
}

#[test]
fn invalid_limit_does_not_disable_other_limits() {
    let conditions = [policy::condition(CO, ALL)];
    let limit = |condition, value| Limit { condition, ..policy::limit(0, CO, value) };
    let limits = [
        limit(None, Some(0.0)),
        limit(Some(Uuid::from_u128(7)), Some(0.0)),
        limit(Some(CO.condition_id()), None),
        limit(Some(CO.condition_id()), Some(0.0)),
    ];
    let findings = evaluate(&patron().loans(1).measures(), &limits, &conditions);
    let blocked: Vec<Actions> = findings.iter().map(|finding| finding.blocked).collect();
    assert_eq!(blocked, [Actions::NONE, ALL]);
}

/// Six fixed rows (docs/contract/http-api.md#4-conditions): clients identify the conditions by their
/// ids, and sort the conditions by their names.
#[test]
fn six_conditions_have_the_known_ids_and_names() {
    let seeded = [CO, LI, OI, OR, FB, RD].map(|measure| {
        format!("{} {} {}", measure.condition_id(), measure.value_type(), measure.name())
    });
    assert_eq!(
        seeded,
        [
            "3d7c52dc-c732-4223-8bf8-e5917801386f Integer Maximum number of items charged out",
            "72b67965-5b73-4840-bc0b-be8f3f6e047e Integer Maximum number of lost items",
            "584fbd4f-6a34-4730-a6ca-73a6a6a9d845 Integer Maximum number of overdue items",
            "e5b45031-a202-4abb-917b-e1df9346fe2c Integer Maximum number of overdue recalls",
            "cf7a0d5f-a327-4ca1-aa9e-dc55ec006b8a Double Maximum outstanding fee/fine balance",
            "08530ac4-07f2-48e6-9dda-a97bc2bf7053 Integer Recall overdue by maximum number of days",
        ]
    );
    assert_eq!(Measure::ALL, [CO, LI, OI, OR, FB, RD]);
}

/// The rows above show a measure only through a limit.
#[test]
fn measures_count_exactly_what_they_name() {
    let measures = patron()
        .overdue(4)
        .lost([2])
        .claimed([3, 4])
        .recalled(1, ago(3 * DAY + 1, 0))
        .owing(1, "1.25", None)
        .owing(2, "3", Some(loan(3)))
        .owing(3, "0", None)
        .measures();
    let counted = Measures {
        open_loans: 4,
        open_fees_fines: 2,
        charged_out: 2,
        lost: 1,
        overdue: 2,
        overdue_recalls: 1,
        recall_days: vec![4],
        fee_fine_balance: "1.25".parse().unwrap(),
    };
    assert_eq!(measures, counted);
}

#[test]
fn no_overdue_recall_differs_from_zero_overdue_days() {
    let conditions = [policy::condition(RD, ALL)];
    let below_zero = [policy::limit(0, RD, -1.0)];
    let blocked =
        |history: PatronHistory| evaluate(&history.measures(), &below_zero, &conditions)[0].blocked;
    assert_eq!(blocked(patron().overdue(1)), Actions::NONE);
    assert_eq!(blocked(patron().overdue(1).recalled(1, ago(1, 0))), ALL);
}
