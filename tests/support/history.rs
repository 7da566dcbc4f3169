//! Random histories of events, for tests that compare two ways to the same state.

use std::fmt::Debug;

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::event::{
    Event, Fact, Grace, GraceUnit, IdentifiedBy, RecordPosition, Stamp, TimedBy,
};
use proptest::{collection::vec, prelude::*, sample::select};
use rust_decimal::Decimal;
use uuid::Uuid;

/// Returns the instant around which histories happen.
pub(crate) fn noon() -> DateTime<Utc> {
    "2026-09-15T12:00:00Z".parse().unwrap()
}

fn version_4(number: u128) -> Uuid {
    uuid::Builder::from_random_bytes(number.to_be_bytes()).into_uuid()
}

/// Returns the id of loan, patron or fee/fine `n` of a history.
fn id(kind: u128, n: u8) -> Uuid {
    version_4(kind << 64 | u128::from(n))
}

/// Returns one of the few patrons of a history.
pub(crate) fn patron(n: u8) -> Uuid {
    id(2, n)
}

fn instant() -> impl Strategy<Value = DateTime<Utc>> {
    (-4_000_000_i64..4_000_000).prop_map(|seconds| noon() + TimeDelta::milliseconds(seconds * 997))
}

fn grace() -> impl Strategy<Value = Option<Grace>> {
    let units = select(GraceUnit::ALL.to_vec());
    proptest::option::of((1..40_i32, units).prop_map(|(duration, unit)| Grace { duration, unit }))
}

/// Balances with few distinct values, and a frequent zero.
fn balance() -> impl Strategy<Value = Decimal> {
    prop_oneof![Just(Decimal::ZERO), (-300_i64..3000).prop_map(|n| Decimal::new(n, 2).normalize())]
}

/// Facts of the business events.
fn business_fact() -> impl Strategy<Value = Fact> {
    let loan = (0..4_u8).prop_map(|n| id(1, n));
    let user = (0..3_u8).prop_map(|n| id(2, n));
    let fee = (0..4_u8).prop_map(|n| id(3, n));
    let optional = |n| proptest::option::of((0..4_u8).prop_map(move |of| id(n, of)));
    prop_oneof![
        3 => (loan.clone(), user.clone(), instant(), grace()).prop_map(
            |(loan, user, due_date, grace)| Fact::CheckedOut { loan, user, due_date, grace }),
        1 => (loan.clone(), proptest::option::of(user.clone()))
            .prop_map(|(loan, user)| Fact::CheckedIn { loan, user }),
        1 => (loan.clone(), user.clone()).prop_map(|(loan, user)| Fact::LoanClosed { loan, user }),
        2 => (loan.clone(), user.clone(), any::<bool>())
            .prop_map(|(loan, user, by_age)| Fact::Lost { loan, user, by_age }),
        2 => (loan.clone(), user.clone())
            .prop_map(|(loan, user)| Fact::ClaimedReturned { loan, user }),
        3 => (loan, user.clone(), instant(), any::<bool>()).prop_map(
            |(loan, user, due_date, by_recall)| Fact::DueDateChanged { loan, user, due_date, by_recall }),
        4 => (fee, proptest::option::weighted(0.8, user), optional(4), optional(1), balance()).prop_map(
            |(fee_fine, user, fee_fine_type, loan, balance)| Fact::BalanceChanged {
                fee_fine, user, fee_fine_type, loan, balance,
            }),
    ]
}

/// Facts of the storage events.
fn storage_fact() -> impl Strategy<Value = Fact> {
    let loan = (0..4_u8).prop_map(|n| id(1, n));
    let user = (0..3_u8).prop_map(|n| id(2, n));
    let group = proptest::option::weighted(0.8, select(vec!["students", "staff"]));
    prop_oneof![
        6 => (loan.clone(), user.clone(), instant(), any::<bool>(), 0..5_u8).prop_map(
            |(loan, user, due_date, by_recall, item)| {
                let (lost, claimed_returned) = (item < 4).then_some((item == 1, item == 2)).unzip();
                Fact::LoanSnapshot { loan, user, due_date, by_recall, lost, claimed_returned }
            }),
        3 => loan.prop_map(|loan| Fact::LoanSnapshotClosed { loan }),
        1 => Just(Fact::AllLoansDeleted),
        2 => (user, group).prop_map(
            |(user, group)| Fact::PatronGroupChanged { user, group: group.map(str::to_owned) }),
    ]
}

/// An event at one of few milliseconds, so that ties are common, enveloped or bare. `n` makes its
/// identity unique.
fn event(n: usize, fact: BoxedStrategy<Fact>) -> impl Strategy<Value = Event> {
    (fact, 0..12_i64, any::<bool>(), any::<u64>()).prop_map(move |(fact, ms, bare, random)| {
        let occurred_at = noon() - TimeDelta::days(3) + TimeDelta::milliseconds(ms);
        let kind = fact.kind();
        let key = version_4(u128::from(random) << 64 | n as u128);
        let place =
            RecordPosition { topic: format!("t{}", n % 2).into(), partition: 0, offset: n as i64 };
        let stamp = if bare {
            Stamp::from_position(occurred_at, kind, &place)
        } else {
            Stamp::from_envelope(occurred_at, kind, key)
        };
        let identified_by = if bare { IdentifiedBy::Position } else { IdentifiedBy::Envelope };
        Event { key, identified_by, occurred_at, timed_by: TimedBy::Record, stamp, fact }
    })
}

fn events(most: usize, fact: BoxedStrategy<Fact>) -> impl Strategy<Value = Vec<Event>> {
    (1..=most).prop_flat_map(move |length| {
        (0..length).map(|n| event(n, fact.clone())).collect::<Vec<_>>()
    })
}

/// Distinct events in order of occurrence, including storage events.
pub(crate) fn event_history(most: usize) -> impl Strategy<Value = Vec<Event>> {
    events(most, prop_oneof![3 => business_fact(), 1 => storage_fact()].boxed())
}

/// Business events alone.
pub(crate) fn business_history(most: usize) -> impl Strategy<Value = Vec<Event>> {
    events(most, business_fact().boxed())
}

/// Events in order of occurrence, and in a possible order of arrival.
pub(crate) fn history_with_arrivals(
    most: usize,
) -> impl Strategy<Value = (Vec<Event>, Vec<Event>)> {
    event_history(most).prop_flat_map(with_arrivals)
}

/// The given items, and their possible arrival: in any order, each at least once, some twice.
pub(crate) fn with_arrivals<T>(ordered: Vec<T>) -> impl Strategy<Value = (Vec<T>, Vec<T>)>
where
    T: Clone + Debug + 'static,
{
    let is_repeated = vec(any::<bool>(), ordered.len());
    (Just(ordered), is_repeated).prop_flat_map(|(ordered, is_repeated)| {
        let twice = ordered
            .iter()
            .zip(is_repeated)
            .filter(|(_, is_repeated)| *is_repeated)
            .map(|(t, _)| t.clone());
        let arriving: Vec<T> = ordered.iter().cloned().chain(twice).collect();
        (Just(ordered), Just(arriving).prop_shuffle())
    })
}
