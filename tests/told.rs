//! Facts about one loan and one fee/fine, told at times and by sources that a property chooses, with
//! what decides between them spelled out as the contract lists it and not as stamps lay it out.

use std::ops::Range;

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{
    event::{Event, Fact, IdentifiedBy, Kind, Place, Stamp, TimedBy},
    patron::{Fee, Loan, OpenFee, OpenLoan},
};
use proptest::{collection::vec, prelude::*, sample::select};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::history::noon;

pub(crate) const LOAN: Uuid = Uuid::from_u128(0x10);
pub(crate) const FEE: Uuid = Uuid::from_u128(0x20);
pub(crate) const ANNA: Uuid = Uuid::from_u128(0x30);
pub(crate) const BERT: Uuid = Uuid::from_u128(0x31);

/// The order of kinds in one millisecond (events contract 6.4); what storage holds comes before all.
const IN_A_TIE: [Kind; 7] = [
    Kind::ItemCheckedOut,
    Kind::LoanDueDateChanged,
    Kind::ItemAgedToLost,
    Kind::ItemDeclaredLost,
    Kind::ItemClaimedReturned,
    Kind::ItemCheckedIn,
    Kind::LoanClosed,
];

/// Of two records of one kind in one millisecond the greater one counts, in the order of this list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Source {
    Enveloped(Uuid),
    Bare { offset: i64, partition: i32 },
}

/// A fact, and how it came to be known.
#[derive(Debug, Clone)]
pub(crate) struct Told {
    pub(crate) ms: i64,
    pub(crate) source: Source,
    pub(crate) fact: Fact,
}

impl Told {
    /// What decides which of two facts is the later one.
    pub(crate) fn when(&self) -> (i64, Option<usize>, Source) {
        let kind = self.fact.kind();
        (self.ms, IN_A_TIE.iter().position(|other| *other == kind), self.source)
    }

    pub(crate) fn event(&self) -> Event {
        let (occurred_at, kind) = (instant(self.ms), self.fact.kind());
        let (key, identified_by, stamp) = match self.source {
            Source::Enveloped(id) => {
                (id, IdentifiedBy::Envelope, Stamp::enveloped(occurred_at, kind, id))
            }
            Source::Bare { offset, partition } => {
                let place = Place { topic: kind.name().into(), partition, offset };
                let name = format!("{place:?} {occurred_at}");
                let key = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes());
                (key, IdentifiedBy::Place, Stamp::bare(occurred_at, kind, &place))
            }
        };
        let fact = self.fact.clone();
        Event { key, identified_by, occurred_at, timed_by: TimedBy::Record, stamp, fact }
    }
}

pub(crate) fn instant(ms: i64) -> DateTime<Utc> {
    noon() + TimeDelta::milliseconds(ms)
}

/// The latest of several facts.
pub(crate) fn newest(told: &[Told], which: impl Fn(&Fact) -> bool) -> Option<&Told> {
    told.iter().filter(|told| which(&told.fact)).max_by_key(|told| told.when())
}

pub(crate) fn loan_after(told: &[Told]) -> Loan {
    let said = told.iter().filter_map(|told| Loan::said_by(&told.event()));
    said.fold(Loan::default(), |loan, (_, said)| loan.merge(said))
}

pub(crate) fn fee_after(told: &[Told]) -> Fee {
    let said = told.iter().filter_map(|told| Fee::said_by(&told.event()));
    said.fold(Fee::default(), |fee, (_, said)| fee.merge(said))
}

/// Tells a fact in one of few milliseconds, so that ties are common. No two records are the same.
pub(crate) fn tell(fact: Fact) -> impl Strategy<Value = Told> {
    (0..6_i64, source()).prop_map(move |(ms, source)| Told { ms, source, fact: fact.clone() })
}

fn source() -> impl Strategy<Value = Source> {
    prop_oneof![
        any::<u128>().prop_map(|id| Source::Enveloped(Uuid::from_u128(id))),
        (0..3_i64, 0..i32::MAX).prop_map(|(offset, partition)| Source::Bare { offset, partition }),
    ]
}

/// The record without an envelope that stands for a source.
fn bare_of(source: Source) -> Source {
    match source {
        Source::Enveloped(id) => Source::Bare { offset: 0, partition: id.as_fields().2.into() },
        bare @ Source::Bare { .. } => bare,
    }
}

/// So many facts of a sort, each told somehow.
pub(crate) fn some(
    fact: impl Strategy<Value = Fact>,
    number: Range<usize>,
) -> impl Strategy<Value = Vec<Told>> {
    vec(fact.prop_flat_map(tell), number)
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

/// The two ways in which a loan ends.
pub(crate) fn end() -> impl Strategy<Value = Fact> {
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

/// What may happen to a loan between its two ends.
pub(crate) fn in_between() -> impl Strategy<Value = Fact> {
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

/// What mod-feesfines sends when an account is deleted.
pub(crate) fn deletion() -> Fact {
    Fact::BalanceChanged {
        fee_fine: FEE,
        user: None,
        fee_fine_type: None,
        loan: None,
        balance: Decimal::ZERO,
    }
}

/// An open loan as storage holds it: lost, claimed returned, neither, or with a status that can't be read.
pub(crate) fn held() -> impl Strategy<Value = Fact> {
    (patron(), date(), any::<bool>(), 0..4_u8).prop_map(|(user, due_date, by_recall, item)| {
        let (lost, claimed_returned) = (item < 3).then_some((item == 1, item == 2)).unzip();
        Fact::LoanHeld { loan: LOAN, user, due_date, by_recall, lost, claimed_returned }
    })
}

/// The loan has ended in storage.
pub(crate) fn ended_in_storage() -> Fact {
    Fact::LoanEnded { loan: LOAN }
}

/// Anything that may be told of the loan or the fee/fine.
pub(crate) fn anything() -> impl Strategy<Value = Fact> {
    prop_oneof![
        2 => check_out(), 1 => end(), 4 => in_between(), 2 => owned_balance(), 1 => Just(deletion()),
    ]
}

pub(crate) fn sets_lost(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Lost { .. }
            | Fact::ClaimedReturned { .. }
            | Fact::DueDateChanged { by_recall: false, .. }
            | Fact::LoanHeld { lost: Some(_), .. }
    )
}

pub(crate) fn sets_claimed(fact: &Fact) -> bool {
    matches!(
        fact,
        Fact::Lost { .. }
            | Fact::ClaimedReturned { .. }
            | Fact::LoanHeld { claimed_returned: Some(_), .. }
    )
}

pub(crate) fn is_due_date_change(fact: &Fact) -> bool {
    matches!(fact, Fact::DueDateChanged { .. })
}

fn sets_due_date(fact: &Fact) -> bool {
    is_due_date_change(fact) || matches!(fact, Fact::LoanHeld { .. })
}

fn opens(fact: &Fact) -> bool {
    is_check_out(fact) || matches!(fact, Fact::LoanHeld { .. })
}

pub(crate) fn is_check_out(fact: &Fact) -> bool {
    matches!(fact, Fact::CheckedOut { .. })
}

/// The open loan that facts without an end must come to, as the contract words it.
pub(crate) fn expected(told: &[Told]) -> Option<OpenLoan> {
    let user = newest(told, opens)?.fact.user()?;
    let said = |which: fn(&Fact) -> bool| newest(told, which).map(|told| &told.fact);
    let (at_check_out, grace) = match said(is_check_out) {
        Some(Fact::CheckedOut { due_date, grace, .. }) => (Some(*due_date), *grace),
        _ => (None, None),
    };
    let (due_date, recall) = match said(sets_due_date) {
        Some(
            Fact::DueDateChanged { due_date, by_recall, .. }
            | Fact::LoanHeld { due_date, by_recall, .. },
        ) => (Some(*due_date), *by_recall),
        _ => (at_check_out, false),
    };
    Some(OpenLoan {
        user,
        due_date,
        grace,
        recall,
        lost: matches!(
            said(sets_lost),
            Some(Fact::Lost { .. } | Fact::LoanHeld { lost: Some(true), .. })
        ),
        claimed_returned: matches!(
            said(sets_claimed),
            Some(
                Fact::ClaimedReturned { .. } | Fact::LoanHeld { claimed_returned: Some(true), .. }
            )
        ),
    })
}

/// The open fee/fine that balances must come to.
pub(crate) fn expected_fee(told: &[Told]) -> Option<OpenFee> {
    let named = |fact: &Fact| matches!(fact, Fact::BalanceChanged { user: Some(_), .. });
    let user = newest(told, named)?.fact.user()?;
    let Fact::BalanceChanged { loan, balance, .. } = newest(told, |_| true)?.fact else {
        unreachable!("it is a balance");
    };
    (!balance.is_zero()).then_some(OpenFee { user, balance, loan, fee_fine_type: None })
}

/// Facts ten milliseconds apart.
pub(crate) fn a_life() -> impl Strategy<Value = Vec<Told>> {
    some(anything(), 1..10).prop_map(|life| {
        let step = |(n, told): (usize, Told)| Told { ms: 10 * n as i64, ..told };
        life.into_iter().enumerate().map(step).collect()
    })
}

/// A life, and the same told with copies of each fact before the next one happened, in any order:
/// all bare, or each of them from either source.
pub(crate) fn resent(
    life: Vec<Told>,
    any_source: bool,
) -> impl Strategy<Value = (Vec<Told>, Vec<Told>)> {
    let copies = vec(vec((0..10_i64, source()), 0..3), life.len());
    copies.prop_flat_map(move |copies| {
        let again = life.iter().zip(copies).flat_map(|(told, copies)| {
            let copy = move |(later, source): (i64, _)| {
                let source = if any_source { source } else { bare_of(source) };
                Told { ms: told.ms + later, source, fact: told.fact.clone() }
            };
            copies.into_iter().map(copy).chain([told.clone()])
        });
        (Just(life.clone()), Just(again.collect::<Vec<_>>()).prop_shuffle())
    })
}
