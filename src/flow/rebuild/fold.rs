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
