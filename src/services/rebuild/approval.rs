//! What is too much to be applied unasked. A source that lost records, or that is not the one it says it is, looks
//! just like one of which the loans have ended: patrons who are blocked would not be any more. One that names all
//! loans with later due dates unblocks them as well, and closes nothing.

use std::time::Instant;

use uuid::Uuid;

use super::context::{RebuildContext, RebuildError};
use crate::{
    services::{
        block_events::{self, PatronFindings},
        policy::Policy,
    },
    store::{
        differences,
        patrons::{self, PatronState},
        rows,
    },
};

/// Patrons whose blocks are looked at at once.
const PATRON_PAGE_ROWS: i64 = 200;

/// What a rebuild may close, and whom it may unblock, without an operator.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalThreshold {
    /// This share of what is open in the tenant, or of all who are blocked, in percent.
    pub percent: u8,
    /// And so many in any case.
    pub count: u32,
}

impl ApprovalThreshold {
    /// Whether closing so many, of so many that are open, is for an operator to decide.
    pub fn is_exceeded(&self, closed: i64, open: i64) -> bool {
        self.percent < 100
            && closed > i64::from(self.count)
            && closed.saturating_mul(100) > open.saturating_mul(i64::from(self.percent))
    }
}

/// Says what would be closed, or who would be unblocked, where that is too much.
pub(super) async fn approval_reason(
    context: &RebuildContext,
) -> Result<Option<String>, RebuildError> {
    // What fills a tenant drops nothing.
    if context.request.dry_run || context.request.fill {
        return Ok(None);
    }
    let summary = differences::summarize(context.db(), &context.tenant.schema, context.id).await?;
    let open = rows::count_open(context.db(), &context.tenant.schema).await?;
    let threshold = context.config.approval_threshold;
    let excess = |what: &str, is_loan: bool, open: i64| {
        let closed = summary.count(is_loan, differences::ONLY_CURRENT_KIND);
        threshold.is_exceeded(closed, open).then(|| format!("{closed} of {open} open {what}"))
    };
    let loans = excess("loans", true, open.loans);
    let fees = excess("fees/fines", false, open.fees_fines);
    let closed: Vec<String> = loans.into_iter().chain(fees).collect();
    let closed = (!closed.is_empty()).then(|| format!("close {}", closed.join(" and ")));
    let all: Vec<String> =
        closed.into_iter().chain(unblock_reason(context, summary.unblocked).await?).collect();
    Ok((!all.is_empty()).then(|| {
        format!(
            "rebuild {} would {}, more than {} percent: nothing was changed; look at its differences, then \
             apply it or cancel it",
            context.id,
            all.join(" and "),
            threshold.percent
        )
    }))
}

/// Says how many patrons would be unblocked where that is too much. Due dates, owners and amounts that a source
/// changes lift blocks as well as what it closes does. Patrons are counted only as long as that matters.
async fn unblock_reason(
    context: &RebuildContext,
    unblocked: i64,
) -> Result<Option<String>, RebuildError> {
    let (schema, threshold) = (&context.tenant.schema, context.config.approval_threshold);
    if !threshold.is_exceeded(unblocked, 0) {
        return Ok(None);
    }
    let mut tx = context.begin().await?;
    let policy = Policy::load(&mut tx, schema).await?;
    drop(tx);
    let (mut blocked, mut after) = (0, Uuid::nil());
    while threshold.is_exceeded(unblocked, blocked) {
        let began = Instant::now();
        let users =
            patrons::list_with_open_items(context.db(), schema, after, PATRON_PAGE_ROWS).await?;
        let Some(last) = users.last() else {
            return Ok(Some(format!("lift blocks of {unblocked} of {blocked} blocked patrons")));
        };
        after = *last;
        let states =
            patrons::load_states(context.db(), schema, &users, context.clock.now()).await?;
        let states = states.values().filter(|(state, _)| is_blocked(state, &policy));
        blocked += i64::try_from(states.count()).unwrap_or(i64::MAX);
        context.throttle.rest_after(began).await;
    }
    Ok(None)
}

fn is_blocked(state: &PatronState, policy: &Policy) -> bool {
    match block_events::evaluate(Some(state), policy) {
        PatronFindings::Findings(findings) => {
            findings.iter().any(|finding| !finding.blocked.is_empty())
        }
        PatronFindings::GroupUnknown => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const THRESHOLD: ApprovalThreshold = ApprovalThreshold { percent: 25, count: 20 };

    #[test]
    fn few_closed_loans_never_exceed_the_bound() {
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
            assert_eq!(THRESHOLD.is_exceeded(closed, open), expected, "{closed} of {open}");
        }
    }

    proptest! {
        #[test]
        fn closing_more_never_lowers_suspicion(open in 0..1_000_000_i64, closed in 0..1_000_000_i64) {
            let closed = closed.min(open);
            prop_assert!(!THRESHOLD.is_exceeded(closed, open) || THRESHOLD.is_exceeded(closed + 1, open));
            let all = ApprovalThreshold { percent: 100, count: 0 };
            prop_assert!(!all.is_exceeded(closed, open));
        }
    }
}
