//! What is too much to be applied unasked. A source that lost records, or that is not the one it says it is, looks
//! just like one of which the loans have ended: patrons who are blocked would not be any more. One that names all
//! loans with later due dates unblocks them as well, and closes nothing.

use std::time::Instant;

use uuid::Uuid;

use super::work::{Failure, Work};
use crate::{
    flow::{
        policy::Policy,
        telling::{self, Found},
    },
    store::{
        differences,
        patrons::{self, State},
        rows,
    },
};

/// Patrons whose blocks are looked at at once.
const PATRONS: i64 = 200;

/// What a rebuild may close, and whom it may unblock, without an operator.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// This share of what is open in the tenant, or of all who are blocked, in percent.
    pub percent: u8,
    /// And so many in any case.
    pub anyway: u32,
}

impl Bound {
    /// Whether closing so many, of so many that are open, is for an operator to decide.
    pub fn is_exceeded(&self, closed: i64, open: i64) -> bool {
        self.percent < 100
            && closed > i64::from(self.anyway)
            && closed.saturating_mul(100) > open.saturating_mul(i64::from(self.percent))
    }
}

/// Says what would be closed, or who would be unblocked, where that is too much.
pub(super) async fn look(work: &Work) -> Result<Option<String>, Failure> {
    // What fills a tenant drops nothing.
    if work.ask.dry_run || work.ask.fill {
        return Ok(None);
    }
    let found = differences::summary(work.db(), &work.tenant.schema, work.id).await?;
    let open = rows::count_open(work.db(), &work.tenant.schema).await?;
    let bound = work.setting.closes;
    let too_much = |what: &str, is_loan: bool, open: i64| {
        let closed = found.number(is_loan, differences::ONLY_HERE_KIND);
        bound.is_exceeded(closed, open).then(|| format!("{closed} of {open} open {what}"))
    };
    let loans = too_much("loans", true, open.loans);
    let fees = too_much("fees/fines", false, open.fees_fines);
    let closed: Vec<String> = loans.into_iter().chain(fees).collect();
    let closed = (!closed.is_empty()).then(|| format!("close {}", closed.join(" and ")));
    let all: Vec<String> =
        closed.into_iter().chain(unblocks(work, found.unblocked).await?).collect();
    Ok((!all.is_empty()).then(|| {
        format!(
            "rebuild {} would {}, more than {} percent: nothing was changed; look at its differences, then \
             apply it or cancel it",
            work.id,
            all.join(" and "),
            bound.percent
        )
    }))
}

/// Says how many patrons would be unblocked where that is too much. Due dates, owners and amounts that a source
/// changes lift blocks as well as what it closes does. Patrons are counted only as long as that matters.
async fn unblocks(work: &Work, unblocked: i64) -> Result<Option<String>, Failure> {
    let (schema, bound) = (&work.tenant.schema, work.setting.closes);
    if !bound.is_exceeded(unblocked, 0) {
        return Ok(None);
    }
    let mut tx = work.begin().await?;
    let policy = Policy::load(&mut tx, schema).await?;
    drop(tx);
    let (mut blocked, mut after) = (0, Uuid::nil());
    while bound.is_exceeded(unblocked, blocked) {
        let began = Instant::now();
        let users = patrons::with_anything_open(work.db(), schema, after, PATRONS).await?;
        let Some(last) = users.last() else {
            return Ok(Some(format!("lift blocks of {unblocked} of {blocked} blocked patrons")));
        };
        after = *last;
        let states = patrons::states(work.db(), schema, &users, work.clock.now()).await?;
        let states = states.values().filter(|(state, _)| is_blocked(state, &policy));
        blocked += i64::try_from(states.count()).unwrap_or(i64::MAX);
        work.pace.keep(began).await;
    }
    Ok(None)
}

fn is_blocked(state: &State, policy: &Policy) -> bool {
    match telling::evaluate(Some(state), policy) {
        Found::Findings(findings) => findings.iter().any(|finding| !finding.blocked.is_empty()),
        Found::GroupUnknown => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUND: Bound = Bound { percent: 25, anyway: 20 };

    #[test]
    fn one_of_two_loans_is_never_too_much() {
        for (closed, open, expected) in [
            (1, 2, false),
            (20, 20, false),
            (21, 21, true),
            (21, 84, false),
            (22, 84, true),
            (250, 1000, false),
            (251, 1000, true),
            (0, 0, false),
            (21, 0, true),
        ] {
            assert_eq!(BOUND.is_exceeded(closed, open), expected, "{closed} of {open}");
        }
    }

    proptest! {
        #[test]
        fn closing_more_is_never_less_suspicious(open in 0..1_000_000_i64, closed in 0..1_000_000_i64) {
            let closed = closed.min(open);
            prop_assert!(!BOUND.is_exceeded(closed, open) || BOUND.is_exceeded(closed + 1, open));
            let all = Bound { percent: 100, anyway: 0 };
            prop_assert!(!all.is_exceeded(closed, open));
        }
    }
}
