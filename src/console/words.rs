//! Sentences of the pages. Each takes a value of the core and returns a text without markup.

use std::fmt;

use chrono::{DateTime, Utc};

use super::texts::Texts;
use crate::{
    blocks::{Action, Actions, Caveat, CertaintyState, LeftOut, Measure},
    clock,
    okapi::reader::LoanedItem,
    patron::OpenLoan,
    services::evaluation::{AnswerSource, certainty::CertaintyReport},
    store::tenants::Completeness,
};

/// A sentence, or two parts of a sentence with an instant between them.
pub(super) struct Dated {
    pub(super) before: String,
    pub(super) at: Option<String>,
    pub(super) after: String,
}

impl fmt::Display for Dated {
    /// Writes the sentence with the instant as the service formats instants.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { before, at, after } = self;
        write!(f, "{before}{}{after}", at.as_deref().unwrap_or_default())
    }
}

impl Dated {
    /// Creates a sentence with an instant.
    pub(super) fn at([before, after]: [String; 2], at: DateTime<Utc>) -> Self {
        Self { before, at: Some(clock::format_instant(at)), after }
    }

    /// Creates a sentence without an instant.
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { before: text.into(), at: None, after: String::new() }
    }
}

/// Returns whether evaluations are certain, and a sentence about it.
pub(super) fn certainty(texts: &'static Texts, report: &CertaintyReport) -> (bool, &'static str) {
    let has_dead_letters = report.has_dead_letters == Some(true);
    let (is_good, key) = match (report.certainty.state, report.completeness) {
        (CertaintyState::Certain, _) if has_dead_letters => (false, "certainty.parked"),
        (CertaintyState::Certain, _) => (true, "certainty.certain"),
        (CertaintyState::Late, _) if !report.freshness.has_log => (false, "certainty.httpOnly"),
        (CertaintyState::Late, _) => (false, "certainty.late"),
        (CertaintyState::Incomplete, Completeness::Filling) => (false, "certainty.filling"),
        (CertaintyState::Incomplete, _) => (false, "certainty.incomplete"),
        (CertaintyState::Doubtful, _) => (false, "certainty.doubtful"),
        (CertaintyState::Unknown, _) => (false, "certainty.unknown"),
    };
    (is_good, texts.text(key))
}

/// Returns a sentence about the certainty of one patron's evaluation; `None` if the evaluation is certain.
pub(super) fn patron_certainty(
    texts: &'static Texts,
    state: CertaintyState,
) -> Option<&'static str> {
    Some(texts.text(match state {
        CertaintyState::Certain => return None,
        CertaintyState::Late => "answer.late",
        CertaintyState::Incomplete => "answer.incomplete",
        CertaintyState::Doubtful => "answer.doubtful",
        CertaintyState::Unknown => "answer.unknown",
    }))
}

/// Returns what a patron does.
pub(super) fn action(texts: &'static Texts, action: Action) -> &'static str {
    texts.text(match action {
        Action::Borrowing => "action.borrow",
        Action::Renewals => "action.renew",
        Action::Requests => "action.request",
    })
}

/// Returns what a patron does, as a part of a list.
pub(super) fn listed_action(texts: &'static Texts, action: Action) -> &'static str {
    texts.text(match action {
        Action::Borrowing => "action.listedBorrow",
        Action::Renewals => "action.listedRenew",
        Action::Requests => "action.listedRequest",
    })
}

/// Returns actions as a list, or `nothing`.
pub(super) fn actions(texts: &'static Texts, actions: Actions) -> String {
    let names: Vec<&str> = actions.iter().map(|action| listed_action(texts, action)).collect();
    if names.is_empty() { texts.text("action.listedNone").to_owned() } else { names.join(", ") }
}

/// Returns the title and the barcode of an item.
pub(super) fn item(item: &LoanedItem) -> String {
    let texts = [&*item.title, &*item.barcode];
    texts.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(", ")
}

/// Returns the name of a condition.
pub(super) fn measure(texts: &'static Texts, measure: Measure) -> &'static str {
    texts.text(match measure {
        Measure::ChargedOut => "condition.chargedOut",
        Measure::LostItems => "condition.lostItems",
        Measure::OverdueItems => "condition.overdueItems",
        Measure::OverdueRecalls => "condition.overdueRecalls",
        Measure::RecallOverdueDays => "condition.recallOverdueDays",
        Measure::FeeFineBalance => "condition.feeFineBalance",
    })
}

/// Returns the name of a condition, as a part of a list.
pub(super) fn listed_measure(texts: &'static Texts, measure: Measure) -> &'static str {
    texts.text(match measure {
        Measure::ChargedOut => "condition.listedChargedOut",
        Measure::LostItems => "condition.listedLostItems",
        Measure::OverdueItems => "condition.listedOverdueItems",
        Measure::OverdueRecalls => "condition.listedOverdueRecalls",
        Measure::RecallOverdueDays => "condition.listedRecallOverdueDays",
        Measure::FeeFineBalance => "condition.listedFeeFineBalance",
    })
}

/// Returns the sentence about what time alone will do.
pub(super) fn next_block(texts: &'static Texts, measure: Measure, at: DateTime<Utc>) -> Dated {
    Dated::at(
        match measure {
            Measure::RecallOverdueDays => texts.around("answer.nextRecall", "at", &[]),
            _ => texts.around("answer.nextOverdue", "at", &[]),
        },
        at,
    )
}

/// Returns a possible side effect of a way out.
pub(super) fn caveat(texts: &'static Texts, caveat: Caveat) -> &'static str {
    texts.text(match caveat {
        Caveat::LateReturnMayCharge => "answer.lateReturnMayCharge",
        Caveat::LostReturnMayCancel => "answer.lostReturnMayCancel",
        Caveat::ClaimAddsFees => "answer.claimAddsFees",
        Caveat::RenewalMayHelp => "answer.renewalMayHelp",
    })
}

/// Returns why something does not count.
pub(super) fn left_out(texts: &'static Texts, reason: LeftOut) -> &'static str {
    texts.text(match reason {
        LeftOut::ClaimedReturned => "leftOut.claimedReturned",
        LeftOut::LoanClaimedReturned => "leftOut.loanClaimedReturned",
        LeftOut::NotOverdue => "leftOut.notOverdue",
        LeftOut::InGrace => "leftOut.inGrace",
        LeftOut::NoDueDate => "leftOut.noDueDate",
        LeftOut::NotRecalled => "leftOut.notRecalled",
        LeftOut::NotLost => "leftOut.notLost",
    })
}

/// Returns the states of a loan that are set.
pub(super) fn set_states(
    texts: &'static Texts,
    is_recalled: bool,
    is_lost: bool,
    is_claimed_returned: bool,
) -> Vec<String> {
    let states = [
        (is_recalled, "loanState.recalled"),
        (is_lost, "loanState.lost"),
        (is_claimed_returned, "loanState.claimedReturned"),
    ];
    let set = states.into_iter().filter(|(is_set, _)| *is_set);
    set.map(|(_, key)| texts.text(key).to_owned()).collect()
}

/// Returns the state of a loan.
pub(super) fn loan_state(
    texts: &'static Texts,
    loan: &OpenLoan,
    overdue_days: i64,
    reason: Option<LeftOut>,
) -> String {
    let mut states = Vec::new();
    match (overdue_days, reason) {
        (1.., _) => states.push(texts.fill("loanState.overdue", &[("days", &overdue_days)])),
        (_, Some(LeftOut::InGrace)) => states.push(left_out(texts, LeftOut::InGrace).to_owned()),
        _ => {}
    }
    states.extend(set_states(texts, loan.recall, loan.lost, loan.claimed_returned));
    if states.is_empty() {
        texts.text("loanState.notOverdue").to_owned()
    } else {
        states.join(", ")
    }
}

/// Returns a sentence about the patron group.
pub(super) fn group(texts: &'static Texts, group: Option<&str>, source: AnswerSource) -> String {
    let plain = match (group, source) {
        (_, AnswerSource::NothingOpen) => "group.nothingOpen",
        (_, AnswerSource::NoLimits) => "group.noLimits",
        (_, AnswerSource::GroupNone) => "group.none",
        (Some(group), source) if source.is_group_current() => {
            return texts.fill("group.current", &[("group", &group)]);
        }
        (Some(group), _) => return texts.fill("group.lastKnown", &[("group", &group)]),
        (None, _) => "group.unknown",
    };
    texts.text(plain).to_owned()
}

/// Returns a sentence about the records that are not applied.
pub(super) fn ingest(texts: &'static Texts, report: &CertaintyReport) -> String {
    let (freshness, behind) = (&report.freshness, report.behind.len());
    if !freshness.has_log {
        return texts.text("ingest.httpOnly").to_owned();
    }
    if freshness.lag > 0 || behind > 0 {
        let (records, partitions) = (&freshness.lag, &behind);
        return texts.fill("ingest.behind", &[("records", records), ("partitions", partitions)]);
    }
    let is_old = matches!(report.certainty.state, CertaintyState::Late | CertaintyState::Unknown);
    texts.text(if is_old { "ingest.oldComparison" } else { "ingest.applied" }).to_owned()
}

/// Returns the meaning of an incident's kind, or the kind itself if it is unknown.
pub(super) fn incident<'a>(texts: &'static Texts, kind: &'a str) -> &'a str {
    texts.text(match kind {
        "records_lost" => "incident.recordsLost",
        "topic_recreated" => "incident.topicRecreated",
        "database_restored" => "incident.databaseRestored",
        "offsets_advanced" => "incident.offsetsAdvanced",
        "offsets_reset" => "incident.offsetsReset",
        "partition_stopped" => "incident.partitionStopped",
        "tenant_unusable" => "incident.tenantUnusable",
        "partition_stalled" => "incident.partitionStalled",
        "snapshot_not_applied" => "incident.snapshotNotApplied",
        "repair_incomplete" => "incident.repairIncomplete",
        other => return other,
    })
}

/// Returns where a record lies in the log.
pub(super) fn place(texts: &'static Texts, topic: &str, partition: i32, offset: i64) -> String {
    texts.fill("record.place", &[("topic", &topic), ("partition", &partition), ("offset", &offset)])
}

/// Returns an age in the largest unit that fits.
pub(super) fn age(texts: &'static Texts, since: DateTime<Utc>, now: DateTime<Utc>) -> String {
    let seconds = (now - since).num_seconds().max(0);
    match seconds {
        0..120 => texts.fill("age.seconds", &[("count", &seconds)]),
        120..7_200 => texts.fill("age.minutes", &[("count", &(seconds / 60))]),
        7_200..172_800 => texts.fill("age.hours", &[("count", &(seconds / 3_600))]),
        _ => texts.fill("age.days", &[("count", &(seconds / 86_400))]),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::store::ingest::incidents::IncidentKind;

    #[test]
    fn every_kind_of_incident_has_a_sentence() {
        for kind in IncidentKind::ALL {
            assert_ne!(incident(Texts::english(), kind.name()), kind.name());
        }
    }

    #[test]
    fn age_has_the_largest_unit_that_fits() {
        let since = DateTime::UNIX_EPOCH;
        let ages = [-5, 0, 119, 120, 7_199, 7_200, 172_799, 172_800];
        let ages =
            ages.map(|seconds| age(Texts::english(), since, since + TimeDelta::seconds(seconds)));
        assert_eq!(ages, ["0 s", "0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 days"]);
    }
}
