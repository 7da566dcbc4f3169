//! The limit beyond which an operator has to approve the differences.
//!
//! A wrong source, or a source with lost records, looks like a source with closed loans. Applied, either
//! source would unblock patrons. A source with later due dates unblocks patrons too, and closes no loan.

use std::time::Instant;

use uuid::Uuid;

use super::{context::RebuildContext, error::RebuildError};
use crate::{
    config::ApprovalThreshold,
    services::{
        block_events::{self, PatronFindings},
        evaluation::policy::Policy,
    },
    store::{
        rebuild::differences,
        state::{
            patrons::{self, PatronState},
            rows,
        },
    },
};

/// Patrons per page.
const PATRON_PAGE_ROWS: i64 = 200;

impl ApprovalThreshold {
    /// Returns `true` if an operator has to approve the closing of `closed` items out of `open`.
    pub fn is_exceeded(&self, closed: i64, open: i64) -> bool {
        self.percent < 100
            && closed > i64::from(self.count)
            && closed.saturating_mul(100) > open.saturating_mul(i64::from(self.percent))
    }
}

/// Describes the closed items and unblocked patrons if their number exceeds the threshold.
pub(super) async fn approval_reason(
    context: &RebuildContext,
) -> Result<Option<String>, RebuildError> {
    // A dry run applies nothing, and a fill drops nothing.
    if context.request.dry_run || context.request.fill {
        return Ok(None);
    }
    let summary = differences::summarize(context.db(), &context.tenant.schema, context.id).await?;
    let open = rows::count_open(context.db(), &context.tenant.schema).await?;
    let threshold = context.config.approval_threshold;
    let excess = |what: &str, is_loan: bool, open: i64| {
        let closed = summary.counts(is_loan).only_current;
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
            "rebuild {} would {}, which is more than {} percent; nothing was changed; check the \
             differences, then apply or cancel the rebuild",
            context.id,
            all.join(" and "),
            threshold.percent
        )
    }))
}

/// Describes the unblocked patrons if their number exceeds the threshold. Changed due dates, owners and
/// amounts lift blocks, as closed items do. The function counts blocked patrons only until the result is
/// certain.
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
            return Ok(Some(format!(
                "remove the blocks of {unblocked} of {blocked} blocked patrons"
            )));
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
