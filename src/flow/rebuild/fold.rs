//! What a source says, folded in memory to one entry a loan, fee/fine and patron, as far as the budget allows.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::{
    event::Event,
    patron::{Fee, Loan, Register, Said},
};

/// What an entry takes, with its share of the tree.
const OF_LOAN: usize = size_of::<(Uuid, Loan)>() * 3 / 2;
const OF_FEE: usize = size_of::<(Uuid, Fee)>() * 3 / 2;
const OF_GROUP: usize = size_of::<(Uuid, Register<Option<String>>)>() * 3 / 2 + 36;

/// What was heard and is not laid out yet.
#[derive(Default)]
pub(super) struct Fold {
    said: Said,
}

impl Fold {
    pub(super) fn hear(&mut self, event: &Event) {
        self.said.hear(event);
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let Said { loans, fees, groups, .. } = &self.said;
        loans.len() * OF_LOAN + fees.len() * OF_FEE + groups.len() * OF_GROUP
    }

    /// Lets go of what has ended: most of it is never spoken of again. Of what is open there is more to come,
    /// and it would be laid out in several parts.
    pub(super) fn take_ended(&mut self) -> Said {
        let has_ended =
            |_: &Uuid, loan: &mut Loan| loan.check_out.is_some() && loan.closed.is_some();
        let is_paid = |_: &Uuid, fee: &mut Fee| {
            fee.user.is_some() && fee.balance.is_some_and(|(_, balance)| balance.amount.is_zero())
        };
        Said {
            loans: self.said.loans.extract_if(.., has_ended).collect(),
            fees: self.said.fees.extract_if(.., is_paid).collect(),
            ..Said::default()
        }
    }

    /// Lets go of the first of it, of about so many bytes.
    pub(super) fn take_first(&mut self, bytes: usize) -> Said {
        split(&mut self.said, (bytes / OF_LOAN).max(1)).unwrap_or_default()
    }

    pub(super) fn take_all(&mut self) -> Said {
        std::mem::take(&mut self.said)
    }
}

/// The first entries of it, for one statement of each kind; none once there are no more.
pub(super) fn split(of: &mut Said, most: usize) -> Option<Said> {
    if *of == Said::default() {
        return None;
    }
    Some(Said {
        loans: first(&mut of.loans, most),
        fees: first(&mut of.fees, most),
        groups: first(&mut of.groups, most),
        no_loans_before: of.no_loans_before.take(),
    })
}

fn first<T>(of: &mut BTreeMap<Uuid, T>, most: usize) -> BTreeMap<Uuid, T> {
    let Some(next) = of.keys().nth(most).copied() else {
        return std::mem::take(of);
    };
    let rest = of.split_off(&next);
    std::mem::replace(of, rest)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use rust_decimal::Decimal;

    use super::*;
    use crate::event::{Fact, IdentifiedBy, Kind, Stamp, TimedBy};

    const USER: Uuid = Uuid::from_u128(1);

    fn heard(fold: &mut Fold, n: u128, fact: Fact) {
        let key = Uuid::from_u128(1000 + n);
        let occurred_at: DateTime<Utc> = DateTime::UNIX_EPOCH + chrono::TimeDelta::days(1);
        let stamp = Stamp::enveloped(occurred_at, Kind::ItemCheckedOut, key);
        let (identified_by, timed_by) = (IdentifiedBy::Envelope, TimedBy::Envelope);
        fold.hear(&Event { key, identified_by, occurred_at, timed_by, stamp, fact });
    }

    fn out(n: u128) -> Fact {
        let due_date = DateTime::UNIX_EPOCH;
        Fact::CheckedOut { loan: Uuid::from_u128(n), user: USER, due_date, grace: None }
    }

    fn back(n: u128) -> Fact {
        Fact::CheckedIn { loan: Uuid::from_u128(n), user: None }
    }

    fn owes(n: u128, user: Option<Uuid>, balance: i64) -> Fact {
        Fact::BalanceChanged {
            fee_fine: Uuid::from_u128(n),
            user,
            fee_fine_type: None,
            loan: None,
            balance: Decimal::from(balance),
        }
    }

    #[test]
    fn what_there_is_more_to_come_of_stays_and_what_has_ended_goes_once() {
        let mut fold = Fold::default();
        // Out and back; out alone; back of which the check-out is still to come.
        for (n, fact) in [out(10), back(10), out(11), back(12)].into_iter().enumerate() {
            heard(&mut fold, n as u128, fact);
        }
        // Paid; owed; paid by nobody knows whom.
        for fact in [owes(20, Some(USER), 0), owes(21, Some(USER), 5), owes(22, None, 0)] {
            heard(&mut fold, 9, fact);
        }
        let ids = |said: &Said| {
            let ids = said.loans.keys().chain(said.fees.keys());
            ids.map(|id| id.as_u128()).collect::<Vec<_>>()
        };
        let before = fold.bytes();
        assert_eq!(ids(&fold.take_ended()), [10, 20]);
        assert!(fold.bytes() < before);
        assert_eq!(ids(&fold.take_ended()), [0; 0]);
        assert_eq!(ids(&fold.take_first(OF_LOAN)), [11, 21]);
        assert_eq!(ids(&fold.take_all()), [12, 22]);
        assert_eq!(fold.bytes(), 0);
        assert_eq!(fold.take_first(OF_LOAN), Said::default());
    }
}
