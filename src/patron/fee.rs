//! The registers of a fee/fine, their merge, and the open fee/fine that results.

use rust_decimal::Decimal;
use uuid::Uuid;

use super::{Register, latest, stamp_of};
use crate::event::{Event, Fact, Stamp, stamp::Horizon};

/// The registers of one fee/fine.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fee {
    /// The balance with its loan. Each event sets the two together, and an absent loan clears the loan
    /// (docs/contract/evaluation.md#7-cases, row 47).
    pub balance: Register<Balance>,
    /// The fee/fine type of the newest event that names one.
    pub fee_fine_type: Register<Uuid>,
    /// The patron of the newest event that names one; a deletion names none
    /// (docs/contract/events.md#10-hazards, H7).
    pub user: Register<Uuid>,
}

/// A balance as of one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Balance {
    /// The remaining amount; zero closes the fee/fine.
    pub amount: Decimal,
    /// The loan of the fee/fine.
    pub loan: Option<Uuid>,
}

/// An open fee/fine, the input of evaluation and of the summary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFee {
    /// The patron who owes it.
    pub user: Uuid,
    /// The remaining amount; never zero.
    pub balance: Decimal,
    /// The loan of the fee/fine.
    pub loan: Option<Uuid>,
    /// The fee/fine type, if an event named one.
    pub fee_fine_type: Option<Uuid>,
}

impl Fee {
    /// Returns the registers that one event sets; `None` for an event about another subject.
    pub fn from_event(event: &Event) -> Option<(Uuid, Self)> {
        Self::from_fact(event.stamp, &event.fact)
    }

    /// Returns the registers that a fact sets; `None` for a fact about another subject.
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

    /// Returns the registers of an open fee/fine of another module, such as the Java module; `stamp` is the
    /// time of that module's last write.
    pub fn from_snapshot(open: &OpenFee, stamp: Stamp) -> Self {
        Self {
            balance: Some((stamp, Balance { amount: open.balance, loan: open.loan })),
            fee_fine_type: open.fee_fine_type.map(|fee_fine_type| (stamp, fee_fine_type)),
            user: Some((stamp, open.user)),
        }
    }

    /// Returns the merge of two states: commutative, associative, idempotent.
    pub fn merge(mut self, other: Self) -> Self {
        self.merge_from(&other);
        self
    }

    /// Merges `other` in place, like [`Fee::merge`].
    pub fn merge_from(&mut self, other: &Self) {
        self.balance = latest(self.balance, other.balance);
        self.fee_fine_type = latest(self.fee_fine_type, other.fee_fine_type);
        self.user = latest(self.user, other.user);
    }

    /// Returns the stamps of the registers.
    pub fn stamps(&self) -> impl Iterator<Item = Stamp> + use<> {
        [stamp_of(&self.balance), stamp_of(&self.fee_fine_type), stamp_of(&self.user)]
            .into_iter()
            .flatten()
    }

    /// Returns the newest stamp of all registers.
    pub fn newest_stamp(&self) -> Option<Stamp> {
        self.stamps().max()
    }

    /// Returns whether pruning may delete the fee/fine, by the rule of [`super::Loan::is_prunable`].
    pub fn is_prunable(&self, horizon: Option<Horizon>, prune_horizon: Horizon) -> bool {
        self.as_open(horizon).is_none()
            && self.newest_stamp().is_some_and(|stamp| !prune_horizon.admits(&stamp))
    }

    /// Returns the fee/fine if it counts for its patron: the balance is not zero, the horizon admits its
    /// stamp, and the patron is known. A fee/fine without a patron waits.
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
