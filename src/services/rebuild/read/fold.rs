//! Reduction of many events to one entry per loan, fee/fine and patron, within a memory budget.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    event::Event,
    patron::{Fee, Loan, Register, StateDelta},
};

/// Estimated size of an entry, with its share of the tree.
const LOAN_BYTES: usize = size_of::<(Uuid, Loan)>() * 3 / 2;
const FEE_BYTES: usize = size_of::<(Uuid, Fee)>() * 3 / 2;
const GROUP_BYTES: usize = size_of::<(Uuid, Register<Option<String>>)>() * 3 / 2 + 36;

/// Entries that are not yet loaded into the shadow.
#[derive(Default)]
pub(in crate::services::rebuild) struct StateAccumulator {
    delta: StateDelta,
}

impl StateAccumulator {
    pub(in crate::services::rebuild) fn apply(&mut self, event: &Event) {
        self.delta.apply(event);
    }

    /// Estimates the size of all entries.
    pub(in crate::services::rebuild) fn size_bytes(&self) -> usize {
        let StateDelta { loans, fees, groups, .. } = &self.delta;
        loans.len() * LOAN_BYTES + fees.len() * FEE_BYTES + groups.len() * GROUP_BYTES
    }

    /// Removes and returns the closed entries: few events follow for them. Open entries remain, because
    /// events still follow, and each spill would add another row.
    pub(in crate::services::rebuild) fn take_ended(&mut self) -> StateDelta {
        let has_ended =
            |_: &Uuid, loan: &mut Loan| loan.check_out.is_some() && loan.closed.is_some();
        let is_paid = |_: &Uuid, fee: &mut Fee| {
            fee.user.is_some() && fee.balance.is_some_and(|(_, balance)| balance.amount.is_zero())
        };
        StateDelta {
            loans: self.delta.loans.extract_if(.., has_ended).collect(),
            fees: self.delta.fees.extract_if(.., is_paid).collect(),
            ..StateDelta::default()
        }
    }

    /// Removes and returns the entries with the lowest ids, of about `target_bytes`.
    pub(in crate::services::rebuild) fn take_first(&mut self, target_bytes: usize) -> StateDelta {
        take_entries(&mut self.delta, (target_bytes / LOAN_BYTES).max(1)).unwrap_or_default()
    }

    pub(in crate::services::rebuild) fn take_all(&mut self) -> StateDelta {
        std::mem::take(&mut self.delta)
    }
}

/// Removes and returns at most `entries_max` entries of each kind, or `None` if `delta` is empty.
pub(in crate::services::rebuild) fn take_entries(
    delta: &mut StateDelta,
    entries_max: usize,
) -> Option<StateDelta> {
    if *delta == StateDelta::default() {
        return None;
    }
    Some(StateDelta {
        loans: take_first_entries(&mut delta.loans, entries_max),
        fees: take_first_entries(&mut delta.fees, entries_max),
        groups: take_first_entries(&mut delta.groups, entries_max),
        loans_deleted_before: delta.loans_deleted_before.take(),
    })
}

fn take_first_entries<T>(entries: &mut BTreeMap<Uuid, T>, entries_max: usize) -> BTreeMap<Uuid, T> {
    let Some(next) = entries.keys().nth(entries_max).copied() else {
        return std::mem::take(entries);
    };
    let rest = entries.split_off(&next);
    std::mem::replace(entries, rest)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use rust_decimal::Decimal;

    use super::*;
    use crate::event::{Fact, IdentifiedBy, Kind, Stamp, TimedBy};

    const USER: Uuid = Uuid::from_u128(1);

    fn apply_fact(accumulator: &mut StateAccumulator, n: u128, fact: Fact) {
        let key = Uuid::from_u128(1000 + n);
        let occurred_at: DateTime<Utc> = DateTime::UNIX_EPOCH + chrono::TimeDelta::days(1);
        let stamp = Stamp::from_envelope(occurred_at, Kind::ItemCheckedOut, key);
        let (identified_by, timed_by) = (IdentifiedBy::Envelope, TimedBy::Envelope);
        accumulator.apply(&Event { key, identified_by, occurred_at, timed_by, stamp, fact });
    }

    fn checked_out(n: u128) -> Fact {
        let due_date = DateTime::UNIX_EPOCH;
        Fact::CheckedOut { loan: Uuid::from_u128(n), user: USER, due_date, grace: None }
    }

    fn checked_in(n: u128) -> Fact {
        Fact::CheckedIn { loan: Uuid::from_u128(n), user: None }
    }

    fn balance_changed(n: u128, user: Option<Uuid>, balance: i64) -> Fact {
        Fact::BalanceChanged {
            fee_fine: Uuid::from_u128(n),
            user,
            fee_fine_type: None,
            loan: None,
            balance: Decimal::from(balance),
        }
    }

    #[test]
    fn incomplete_entries_stay_and_ended_ones_are_taken_once() {
        let mut accumulator = StateAccumulator::default();
        // A check-out with its check-in; a check-out alone; a check-in before its check-out.
        for (n, fact) in [checked_out(10), checked_in(10), checked_out(11), checked_in(12)]
            .into_iter()
            .enumerate()
        {
            apply_fact(&mut accumulator, n as u128, fact);
        }
        // Paid; owed; paid, of an unknown patron.
        for fact in [
            balance_changed(20, Some(USER), 0),
            balance_changed(21, Some(USER), 5),
            balance_changed(22, None, 0),
        ] {
            apply_fact(&mut accumulator, 9, fact);
        }
        let ids = |delta: &StateDelta| {
            let ids = delta.loans.keys().chain(delta.fees.keys());
            ids.map(|id| id.as_u128()).collect::<Vec<_>>()
        };
        let before = accumulator.size_bytes();
        assert_eq!(ids(&accumulator.take_ended()), [10, 20]);
        assert!(accumulator.size_bytes() < before);
        assert_eq!(ids(&accumulator.take_ended()), [0; 0]);
        assert_eq!(ids(&accumulator.take_first(LOAN_BYTES)), [11, 21]);
        assert_eq!(ids(&accumulator.take_all()), [12, 22]);
        assert_eq!(accumulator.size_bytes(), 0);
        assert_eq!(accumulator.take_first(LOAN_BYTES), StateDelta::default());
    }
}
