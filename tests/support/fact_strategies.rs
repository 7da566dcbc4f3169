//! Facts about one loan and one fee/fine, with times and sources that a property chooses. The order of
//! facts follows docs/contract/events.md#64-clocks and not the bytes of stamps.

use std::ops::Range;

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    event::{Event, Fact, IdentifiedBy, Kind, RecordPosition, Stamp, TimedBy},
    patron::{Fee, Loan, OpenFee, OpenLoan},
};
use proptest::{collection::vec, prelude::*, sample::select};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::support::history::noon;

pub(crate) const LOAN: Uuid = Uuid::from_u128(0x10);
pub(crate) const FEE: Uuid = Uuid::from_u128(0x20);
pub(crate) const ANNA: Uuid = Uuid::from_u128(0x30);
pub(crate) const BERT: Uuid = Uuid::from_u128(0x31);

/// The order of kinds in one millisecond (docs/contract/events.md#64-clocks); storage events precede
/// all.
const TIE_ORDER: [Kind; 7] = [
    Kind::ItemCheckedOut,
    Kind::LoanDueDateChanged,
    Kind::ItemAgedToLost,
    Kind::ItemDeclaredLost,
    Kind::ItemClaimedReturned,
    Kind::ItemCheckedIn,
    Kind::LoanClosed,
];

/// The source of a record. For two records of one kind in one millisecond, the greater source wins, in
/// the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Enveloped(Uuid),
    Bare { offset: i64, partition: i32 },
}

/// A fact with its time in milliseconds and its source.
#[derive(Debug, Clone)]
pub(crate) struct TimedFact {
    pub(crate) ms: i64,
    pub(crate) source: Source,
    pub(crate) fact: Fact,
}

impl TimedFact {
    /// Returns the key that orders facts by time.
    pub(crate) fn precedence(&self) -> (i64, Option<usize>, Source) {
        let kind = self.fact.kind();
        (self.ms, TIE_ORDER.iter().position(|other| *other == kind), self.source)
    }

    pub(crate) fn to_event(&self) -> Event {
        let (occurred_at, kind) = (instant(self.ms), self.fact.kind());
        let (key, identified_by, stamp) = match self.source {
            Source::Enveloped(id) => {
                (id, IdentifiedBy::Envelope, Stamp::from_envelope(occurred_at, kind, id))
            }
            Source::Bare { offset, partition } => {
                let place = RecordPosition { topic: kind.name().into(), partition, offset };
                let name = format!("{place:?} {occurred_at}");
                let key = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes());
                (key, IdentifiedBy::Position, Stamp::from_position(occurred_at, kind, &place))
            }
        };
        let fact = self.fact.clone();
        Event { key, identified_by, occurred_at, timed_by: TimedBy::Record, stamp, fact }
    }
}

pub(crate) fn instant(ms: i64) -> DateTime<Utc> {
    noon() + TimeDelta::milliseconds(ms)
}

/// Returns the latest of several facts.
pub(crate) fn newest(facts: &[TimedFact], which: impl Fn(&Fact) -> bool) -> Option<&TimedFact> {
    facts.iter().filter(|fact| which(&fact.fact)).max_by_key(|fact| fact.precedence())
}

pub(crate) fn fold_loan(facts: &[TimedFact]) -> Loan {
    let changes = facts.iter().filter_map(|fact| Loan::from_event(&fact.to_event()));
    changes.fold(Loan::default(), |loan, (_, change)| loan.merge(change))
}

pub(crate) fn fold_fee(facts: &[TimedFact]) -> Fee {
    let changes = facts.iter().filter_map(|fact| Fee::from_event(&fact.to_event()));
    changes.fold(Fee::default(), |fee, (_, change)| fee.merge(change))
}

/// Puts a fact in one of few milliseconds, so that ties are common. No two records are the same.
pub(crate) fn at_any_time(fact: Fact) -> impl Strategy<Value = TimedFact> {
    (0..6_i64, source()).prop_map(move |(ms, source)| TimedFact { ms, source, fact: fact.clone() })
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        any::<u128>().prop_map(|id| Source::Enveloped(Uuid::from_u128(id))),
        (0..3_i64, 0..i32::MAX).prop_map(|(offset, partition)| Source::Bare { offset, partition }),
    ]
}

/// Returns the bare source that corresponds to a source.
fn to_bare(source: Source) -> Source {
    match source {
        Source::Enveloped(id) => Source::Bare { offset: 0, partition: id.as_fields().2.into() },
        bare @ Source::Bare { .. } => bare,
    }
}

/// Returns this number of facts, each with a random time and source.
pub(crate) fn timed_facts(
    fact: impl Strategy<Value = Fact>,
    number: Range<usize>,
) -> impl Strategy<Value = Vec<TimedFact>> {
    vec(fact.prop_flat_map(at_any_time), number)
}

fn patron() -> impl Strategy<Value = Uuid> {
    select(vec![ANNA, BERT])
}

fn date() -> impl Strategy<Value = DateTime<Utc>> {
    (0..10_000_i64).prop_map(|minutes| noon() + TimeDelta::minutes(minutes))
}

pub(crate) fn check_out() -> impl Strategy<Value = Fact> {
    (patron(), date()).prop_map(|(user, due_date)| Fact::CheckedOut {
        loan: LOAN,
        user,
        due_date,
        grace: None,
    })
}

/// The two kinds of fact that end a loan.
pub(crate) fn loan_end() -> impl Strategy<Value = Fact> {
    prop_oneof![
        proptest::option::of(patron()).prop_map(|user| Fact::CheckedIn { loan: LOAN, user }),
        patron().prop_map(|user| Fact::LoanClosed { loan: LOAN, user }),
    ]
}

pub(crate) fn due_date_change() -> impl Strategy<Value = Fact> {
    (patron(), date(), any::<bool>()).prop_map(|(user, due_date, by_recall)| Fact::DueDateChanged {
        loan: LOAN,
        user,
        due_date,
        by_recall,
    })
}

/// The facts that may change a loan between its opening and its end.
pub(crate) fn loan_change() -> impl Strategy<Value = Fact> {
    prop_oneof![
        (patron(), any::<bool>()).prop_map(|(user, by_age)| Fact::Lost {
            loan: LOAN,
            user,
            by_age
        }),
        patron().prop_map(|user| Fact::ClaimedReturned { loan: LOAN, user }),
        due_date_change(),
    ]
}

pub(crate) fn balance(user: impl Strategy<Value = Option<Uuid>>) -> impl Strategy<Value = Fact> {
    let link = proptest::option::of(Just(LOAN));
    (user, link, 0..3_i64).prop_map(|(user, loan, balance)| Fact::BalanceChanged {
        fee_fine: FEE,
        user,
        fee_fine_type: None,
        loan,
        balance: Decimal::from(balance * 5),
    })
}

/// A balance of an account that names its owner.
pub(crate) fn owned_balance() -> impl Strategy<Value = Fact> {
    balance(patron().prop_map(Some))
}

/// The fact that mod-feesfines sends when an account is deleted.
pub(crate) fn deletion() -> Fact {
    Fact::BalanceChanged {
        fee_fine: FEE,
        user: None,
        fee_fine_type: None,
        loan: None,
        balance: Decimal::ZERO,
    }
}

/// An open loan in storage: lost, claimed returned, neither, or with an invalid status.
pub(crate) fn open_snapshot() -> impl Strategy<Value = Fact> {
    (patron(), date(), any::<bool>(), 0..4_u8).prop_map(|(user, due_date, by_recall, item)| {
        let (lost, claimed_returned) = (item < 3).then_some((item == 1, item == 2)).unzip();
        Fact::LoanSnapshot { loan: LOAN, user, due_date, by_recall, lost, claimed_returned }
    })
}

/// A loan that has ended in storage.
pub(crate) fn closed_snapshot() -> Fact {
    Fact::LoanSnapshotClosed { loan: LOAN }
}

/// Any fact about the loan or the fee/fine.
pub(crate) fn any_fact() -> impl Strategy<Value = Fact> {
    prop_oneof![
        2 => check_out(), 1 => loan_end(), 4 => loan_change(), 2 => owned_balance(), 1 => Just(deletion()),
    ]
}

pub(crate) fn sets_lost(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Lost { .. }
            | Fact::ClaimedReturned { .. }
            | Fact::DueDateChanged { by_recall: false, .. }
            | Fact::LoanSnapshot { lost: Some(_), .. }
    )
}

pub(crate) fn sets_claimed(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Lost { .. }
            | Fact::ClaimedReturned { .. }
            | Fact::LoanSnapshot { claimed_returned: Some(_), .. }
    )
}

pub(crate) fn is_due_date_change(fact: &Fact) -> bool {
    matches!(fact, Fact::DueDateChanged { .. })
}

fn sets_due_date(fact: &Fact) -> bool {
    is_due_date_change(fact) || matches!(fact, Fact::LoanSnapshot { .. })
}

fn is_opening(fact: &Fact) -> bool {
    is_check_out(fact) || matches!(fact, Fact::LoanSnapshot { .. })
}

pub(crate) fn is_check_out(fact: &Fact) -> bool {
    matches!(fact, Fact::CheckedOut { .. })
}

/// Returns the open loan that facts without an end produce, according to
/// docs/contract/events.md#9-transitions.
pub(crate) fn expected_loan(facts: &[TimedFact]) -> Option<OpenLoan> {
    let user = newest(facts, is_opening)?.fact.user()?;
    let newest_fact = |which: fn(&Fact) -> bool| newest(facts, which).map(|fact| &fact.fact);
    let (at_check_out, grace) = match newest_fact(is_check_out) {
        Some(Fact::CheckedOut { due_date, grace, .. }) => (Some(*due_date), *grace),
        _ => (None, None),
    };
    let (due_date, recall) = match newest_fact(sets_due_date) {
        Some(
            Fact::DueDateChanged { due_date, by_recall, .. }
            | Fact::LoanSnapshot { due_date, by_recall, .. },
        ) => (Some(*due_date), *by_recall),
        _ => (at_check_out, false),
    };
    Some(OpenLoan {
        user,
        due_date,
        grace,
        recall,
        lost: matches!(
            newest_fact(sets_lost),
            Some(Fact::Lost { .. } | Fact::LoanSnapshot { lost: Some(true), .. })
        ),
        claimed_returned: matches!(
            newest_fact(sets_claimed),
            Some(
                Fact::ClaimedReturned { .. }
                    | Fact::LoanSnapshot { claimed_returned: Some(true), .. }
            )
        ),
    })
}

/// Returns the open fee/fine that the balances produce.
pub(crate) fn expected_fee(facts: &[TimedFact]) -> Option<OpenFee> {
    let named = |fact: &Fact| matches!(fact, Fact::BalanceChanged { user: Some(_), .. });
    let user = newest(facts, named)?.fact.user()?;
    let Fact::BalanceChanged { loan, balance, .. } = newest(facts, |_| true)?.fact else {
        unreachable!("the fact is a balance");
    };
    (!balance.is_zero()).then_some(OpenFee { user, balance, loan, fee_fine_type: None })
}

/// Facts ten milliseconds apart.
pub(crate) fn fact_sequence() -> impl Strategy<Value = Vec<TimedFact>> {
    timed_facts(any_fact(), 1..10).prop_map(|facts| {
        let step = |(n, fact): (usize, TimedFact)| TimedFact { ms: 10 * n as i64, ..fact };
        facts.into_iter().enumerate().map(step).collect()
    })
}

/// Facts, and the same facts with copies of each fact before the next one happened, in any order. The
/// copies are all bare, or each from either source.
pub(crate) fn with_copies(
    facts: Vec<TimedFact>,
    any_source: bool,
) -> impl Strategy<Value = (Vec<TimedFact>, Vec<TimedFact>)> {
    let copies = vec(vec((0..10_i64, source()), 0..3), facts.len());
    copies.prop_flat_map(move |copies| {
        let again = facts.iter().zip(copies).flat_map(|(fact, copies)| {
            let copy = move |(later, source): (i64, _)| {
                let source = if any_source { source } else { to_bare(source) };
                TimedFact { ms: fact.ms + later, source, fact: fact.fact.clone() }
            };
            copies.into_iter().map(copy).chain([fact.clone()])
        });
        (Just(facts.clone()), Just(again.collect::<Vec<_>>()).prop_shuffle())
    })
}
