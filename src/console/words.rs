//! Sentences of the pages. Each takes a value of the core and returns a text without markup.

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

/// A sentence without its full stop, and the instant that ends the sentence.
pub(super) struct Dated {
    pub(super) text: String,
    pub(super) at: Option<String>,
}

impl Dated {
    /// Creates a sentence that ends with an instant.
    pub(super) fn at(text: impl Into<String>, at: DateTime<Utc>) -> Self {
        Self { text: text.into(), at: Some(clock::format_instant(at)) }
    }

    /// Creates a sentence without an instant.
    pub(super) fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), at: None }
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
pub(super) fn patron_certainty(state: CertaintyState) -> Option<&'static str> {
    Some(match state {
        CertaintyState::Certain => return None,
        CertaintyState::Late => {
            "This answer may be late: the newest check-outs, returns and payments may be missing."
        }
        CertaintyState::Incomplete => {
            "Earlier loans, fees and fines may be missing in this answer."
        }
        CertaintyState::Doubtful => {
            "This answer is doubtful: a change of the loans, fees or the group of the patron may be missing."
        }
        CertaintyState::Unknown => "It is not known whether this answer is complete.",
    })
}

/// Returns what a patron does.
pub(super) const fn action(action: Action) -> &'static str {
    match action {
        Action::Borrowing => "Borrow",
        Action::Renewals => "Renew",
        Action::Requests => "Request",
    }
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

/// Returns the sentence about what time alone will do.
pub(super) fn next_block(measure: Measure) -> &'static str {
    match measure {
        Measure::RecallOverdueDays => "A recalled item reaches its limit of days on",
        _ => "An item becomes overdue and reaches a limit on",
    }
}

/// Returns a possible side effect of a way out.
pub(super) const fn caveat(caveat: Caveat) -> &'static str {
    match caveat {
        Caveat::LateReturnMayCharge => "The return of an overdue item may charge a fine.",
        Caveat::LostReturnMayCancel => "The return of a lost item may cancel fees.",
        Caveat::ClaimAddsFees => {
            "The check-in of an item that is claimed returned makes its fees count again."
        }
        Caveat::RenewalMayHelp => "A renewal may help instead.",
    }
}

/// Returns why something does not count.
pub(super) const fn left_out(reason: LeftOut) -> &'static str {
    match reason {
        LeftOut::ClaimedReturned => "claimed returned",
        LeftOut::LoanClaimedReturned => "its loan is claimed returned",
        LeftOut::NotOverdue => "not overdue",
        LeftOut::InGrace => "in the grace period",
        LeftOut::NoDueDate => "no due date",
        LeftOut::NotRecalled => "not recalled",
        LeftOut::NotLost => "not lost",
    }
}

/// Returns the state of a loan.
pub(super) fn loan_state(loan: &OpenLoan, overdue_days: i64, reason: Option<LeftOut>) -> String {
    let mut states = Vec::new();
    match (overdue_days, reason) {
        (1.., _) => states.push(counted(overdue_days, "day overdue", "days overdue")),
        (_, Some(LeftOut::InGrace)) => states.push(left_out(LeftOut::InGrace).to_owned()),
        _ => {}
    }
    let flags = [
        (loan.recall, "recalled"),
        (loan.lost, "lost"),
        (loan.claimed_returned, "claimed returned"),
    ];
    states.extend(flags.iter().filter(|(is_set, _)| *is_set).map(|(_, name)| (*name).to_owned()));
    if states.is_empty() { "not overdue".to_owned() } else { states.join(", ") }
}

/// Returns a sentence about the patron group.
pub(super) fn group(group: Option<&str>, source: AnswerSource) -> String {
    match (group, source) {
        (_, AnswerSource::NothingOpen) => "The patron has no open loan, fee or fine.".to_owned(),
        (_, AnswerSource::NoLimits) => "The library has set no limits.".to_owned(),
        (_, AnswerSource::GroupNone) => "The patron has no patron group.".to_owned(),
        (Some(group), source) if source.is_group_current() => format!("Patron group {group}."),
        (Some(group), _) => {
            format!(
                "Patron group {group}, as last known: the users module did not return the current one."
            )
        }
        (None, _) => "The patron group is unknown: the users module did not return it.".to_owned(),
    }
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

/// Returns a count with its noun.
pub(super) fn counted(count: i64, one: &str, many: &str) -> String {
    format!("{count} {}", if count == 1 { one } else { many })
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
