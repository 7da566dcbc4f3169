//! The forecast of one patron: the next limit that time alone reaches, if the patron returns, renews and pays
//! nothing.

use chrono::{DateTime, Utc};

use super::{Actions, DatedLoan, Finding, Limit, Measure};

/// The next limit that time alone reaches, with the actions that are blocked before and from then on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ForecastBlock<'a> {
    /// The first instant at which the limit is reached.
    pub at: DateTime<Utc>,
    /// The limit; of several limits with the same instant the first in the order of the evaluation.
    pub limit: &'a Limit,
    /// The measure of the limit.
    pub measure: Measure,
    /// The actions that the limit blocks from then on.
    pub blocks: Actions,
    /// The actions that some limit blocks from then on and none blocks now.
    pub become_blocked: Actions,
    /// The actions that other limits block now.
    pub blocked_now: Actions,
}

impl<'a> ForecastBlock<'a> {
    /// Finds the next limit that time alone reaches after the evaluation with these findings, at the latest at
    /// `until`. `loans` has at least the patron's loans that are overdue at `until`.
    pub fn find(
        findings: &[Finding<'a>],
        loans: &[DatedLoan],
        until: DateTime<Utc>,
    ) -> Option<Self> {
        let reached_at = |finding: &Finding<'a>| finding.reached_by_time(loans);
        let reached: Vec<(DateTime<Utc>, &Finding<'a>)> = findings
            .iter()
            .filter_map(|finding| Some((reached_at(finding)?, finding)))
            .filter(|(at, _)| *at <= until)
            .collect();
        let (at, next) = reached.iter().min_by_key(|(at, _)| *at)?;
        let same_instant = reached.iter().filter(|(other, _)| other == at);
        // Time reaches a limit for all three actions at once.
        let blocked_then = union(same_instant.map(|(_, finding)| finding.condition.blocks));
        let blocked_now = union(findings.iter().map(|finding| finding.blocked));
        Some(Self {
            at: *at,
            limit: next.limit,
            measure: next.measure()?,
            blocks: next.condition.blocks,
            become_blocked: blocked_then.difference(blocked_now),
            blocked_now,
        })
    }
}

fn union(sets: impl Iterator<Item = Actions>) -> Actions {
    sets.fold(Actions::NONE, Actions::union)
}
