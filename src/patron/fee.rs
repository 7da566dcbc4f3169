//! A fee/fine: what was said about it, merged, and what follows.

use rust_decimal::Decimal;
use uuid::Uuid;

use super::{Register, latest, stamp_of};
use crate::event::{Event, Fact, Stamp, stamp::Horizon};

/// All that is known of one fee/fine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fee {
    /// The balance, with the loan link that came with it: each event sets both, and an absent link
    /// clears it (docs/contract/evaluation.md#7-cases, row 47).
    pub balance: Register<Balance>,
    /// The fee/fine type, from the newest event that named one.
    pub fee_fine_type: Register<Uuid>,
    /// The patron who owes it, from the newest event that named one: a deletion does not
    /// (docs/contract/events.md#10-hazards, H7).
    pub user: Register<Uuid>,
}

/// A balance as of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// What is still to be paid; zero closes the fee/fine.
    pub amount: Decimal,
    /// The loan it belongs to.
    pub loan: Option<Uuid>,
}

/// An open fee/fine, as evaluation and summary see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFee {
    /// Who owes it.
    pub user: Uuid,
    /// What is still to be paid; never zero.
    pub balance: Decimal,
    /// The loan it belongs to.
    pub loan: Option<Uuid>,
    /// Its type, where named.
    pub fee_fine_type: Option<Uuid>,
}

impl Fee {
    /// What one event says of its fee/fine; `None` for an event about anything else.
    pub fn from_event(event: &Event) -> Option<(Uuid, Self)> {
        Self::from_fact(event.stamp, &event.fact)
    }

    /// What a fact says of its fee/fine; `None` for one about anything else.
    pub fn from_fact(stamp: Stamp, fact: &Fact) -> Option<(Uuid, Self)> {
        let Fact::BalanceChanged { fee_fine, user, fee_fine_type, loan, balance } = *fact else {
            return None;
        };
        let with_stamp = |value: Option<Uuid>| value.map(|value| (stamp, value));
        let fee = Self {
            balance: Some((stamp, Balance { amount: balance, loan })),
            fee_fine_type: with_stamp(fee_fine_type),
            user: with_stamp(user),
        };
        Some((fee_fine, fee))
    }

    /// What a module that kept fees/fines before us held of an open one when it last wrote.
    pub fn from_snapshot(open: &OpenFee, stamp: Stamp) -> Self {
        Self {
            balance: Some((stamp, Balance { amount: open.balance, loan: open.loan })),
            fee_fine_type: open.fee_fine_type.map(|fee_fine_type| (stamp, fee_fine_type)),
            user: Some((stamp, open.user)),
        }
    }

    /// What is known after both were heard: commutative, associative, idempotent.
    pub fn merge(mut self, other: Self) -> Self {
        self.merge_from(&other);
        self
    }

    /// As [`Fee::merge`], in place.
    pub fn merge_from(&mut self, other: &Self) {
        self.balance = latest(self.balance, other.balance);
        self.fee_fine_type = latest(self.fee_fine_type, other.fee_fine_type);
        self.user = latest(self.user, other.user);
    }

    /// The stamps of its registers.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + use<> {
        [stamp_of(&self.balance), stamp_of(&self.fee_fine_type), stamp_of(&self.user)]
            .into_iter()
            .flatten()
    }

    /// The newest stamp of all that was said.
    pub fn newest_stamp(&self) -> Option<Stamp> {
        self.stamps().max()
    }

    /// Whether pruning may forget the fee/fine, as [`super::Loan::is_past`] says of a loan.
    pub fn is_prunable(&self, horizon: Option<Horizon>, prune_horizon: Horizon) -> bool {
        self.as_open(horizon).is_none()
            && self.newest_stamp().is_some_and(|stamp| !prune_horizon.admits(&stamp))
    }

    /// The fee/fine as it counts for its patron, if it does: the balance is not zero, its evidence not
    /// older than the horizon, and somebody is known to owe it. Without an owner it waits.
    pub fn as_open(&self, horizon: Option<Horizon>) -> Option<OpenFee> {
        let (stamp, balance) = self.balance?;
        let (_, user) = self.user?;
        let counts =
            !balance.amount.is_zero() && horizon.is_none_or(|horizon| horizon.admits(&stamp));
        counts.then_some(OpenFee {
            user,
            balance: balance.amount,
            loan: balance.loan,
            fee_fine_type: self.fee_fine_type.map(|(_, fee_fine_type)| fee_fine_type),
        })
    }
}
