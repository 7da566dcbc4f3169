//! What a source says, folded in memory to one entry a loan, fee/fine and patron, as far as the budget allows.

use std::collections::BTreeMap;

use uuid::Uuid;

use crate::patron::{Fee, Loan, Register, Said};

/// What an entry takes, with its share of the tree.
const OF_LOAN: usize = size_of::<(Uuid, Loan)>() * 3 / 2;
const OF_FEE: usize = size_of::<(Uuid, Fee)>() * 3 / 2;
const OF_GROUP: usize = size_of::<(Uuid, Register<Option<String>>)>() * 3 / 2 + 36;

/// About how many bytes it takes.
pub(super) fn bytes(of: &Said) -> usize {
    of.loans.len() * OF_LOAN + of.fees.len() * OF_FEE + of.groups.len() * OF_GROUP
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
