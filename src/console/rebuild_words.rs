//! Sentences about rebuilds.

use serde_json::Value;

use super::{texts::Texts, words};
use crate::{
    blocks::Measure,
    event::parse_uuid,
    services::rebuild::{ItemDifference, PatronDifference},
    store::{
        jobs::{Job, Status},
        rebuild::{
            differences::PatronDifferences,
            rebuilds::{DifferenceCounts, Progress, Summary},
        },
    },
};

/// Returns what a request asks for.
pub(super) fn request(texts: &'static Texts, request: &Value) -> String {
    let source = request["source"].as_str().unwrap_or_default();
    let mut what = match (request["userId"].as_str(), source) {
        (None, "inbox") => texts.text("rebuild.tenantFromInbox").to_owned(),
        (None, "storage") => texts.text("rebuild.tenantFromStorage").to_owned(),
        (None, _) => texts.text("rebuild.tenantFromTopics").to_owned(),
        (Some(id), "inbox") => texts.fill("rebuild.patronFromInbox", &[("id", &id)]),
        (Some(id), "storage") => texts.fill("rebuild.patronFromStorage", &[("id", &id)]),
        (Some(id), _) => texts.fill("rebuild.patronFromTopics", &[("id", &id)]),
    };
    if let Some(from) = request["from"].as_str().filter(|from| *from != "earliest") {
        what = texts.fill("rebuild.from", &[("what", &what), ("from", &from)]);
    }
    if request["dryRun"] != Value::Bool(true) {
        what = texts.fill("rebuild.appliedByItself", &[("what", &what)]);
    }
    what
}

/// Returns the status.
pub(super) fn status(texts: &'static Texts, status: Status) -> &'static str {
    texts.text(match status {
        Status::Waiting => "status.waiting",
        Status::Reading => "status.reading",
        Status::Comparing => "status.comparing",
        Status::Compared => "status.compared",
        Status::Applying => "status.applying",
        Status::Publishing | Status::Enabling => "status.running",
        Status::Done => "status.done",
        Status::Failed => "status.failed",
        Status::Cancelled => "status.cancelled",
    })
}

/// Returns a sentence about the progress of a rebuild that runs.
pub(super) fn progress(
    texts: &'static Texts,
    status: Status,
    progress: &Progress,
) -> Option<String> {
    if status.has_ended() || status == Status::Compared {
        return None;
    }
    let (done, total) = (progress.done?, progress.total?);
    Some(match progress.seconds_left {
        Some(seconds) => {
            let seconds = seconds.ceil() as i64;
            texts.fill(
                "rebuild.progressLeft",
                &[("done", &done), ("total", &total), ("seconds", &seconds)],
            )
        }
        None => texts.fill("rebuild.progress", &[("done", &done), ("total", &total)]),
    })
}

/// Returns sentences about the result of a rebuild.
pub(super) fn result(texts: &'static Texts, job: &Job, summary: Option<&Summary>) -> Vec<String> {
    let Some(summary) = summary else { return Vec::new() };
    let (wrong, skipped) = (summary.wrong_counters, summary.skipped_records);
    if summary.patrons == 0 && skipped == 0 {
        return vec![texts.text("rebuild.agrees").to_owned()];
    }
    let mut sentences = vec![texts.fill("rebuild.differs", &[("patrons", &summary.patrons)])];
    for (is_loans, counts) in [(true, &summary.loans), (false, &summary.fees_fines)] {
        let DifferenceCounts { only_current, only_in_source, different, .. } = counts;
        if only_current + only_in_source + different > 0 {
            sentences.push(texts.fill(
                if is_loans { "rebuild.loans" } else { "rebuild.fees" },
                &[
                    ("onlyHere", only_current),
                    ("onlyInSource", only_in_source),
                    ("different", different),
                ],
            ));
        }
    }
    let (lifted, imposed) = (summary.blocks_lifted, summary.blocks_imposed);
    sentences.push(texts.fill("rebuild.blocks", &[("lifted", &lifted), ("imposed", &imposed)]));
    if wrong > 0 {
        sentences.push(texts.fill("rebuild.counters", &[("count", &wrong)]));
    }
    if skipped > 0 {
        sentences.push(texts.fill("rebuild.skipped", &[("count", &skipped)]));
    }
    if job.status == Status::Done {
        sentences.push(texts.fill("rebuild.applied", &[("count", &summary.applied)]));
    }
    sentences
}

/// Returns a difference of a patron.
pub(super) fn difference(texts: &'static Texts, difference: &PatronDifference<'_>) -> String {
    let (is_loan, id, kind) = match difference {
        PatronDifference::LoanCounts { current, target } => {
            return texts.fill("rebuild.loanCounts", &[("current", current), ("target", target)]);
        }
        PatronDifference::Counters => return texts.text("rebuild.wrongCounters").to_owned(),
        PatronDifference::Item { is_loan, id, kind } => (*is_loan, id, kind),
    };
    match (kind, is_loan) {
        (ItemDifference::ClosedAt(at), true) => {
            texts.fill("rebuild.loanClosedAt", &[("id", id), ("at", at)])
        }
        (ItemDifference::ClosedAt(at), false) => {
            texts.fill("rebuild.feeClosedAt", &[("id", id), ("at", at)])
        }
        (ItemDifference::Closed, true) => texts.fill("rebuild.loanClosed", &[("id", id)]),
        (ItemDifference::Closed, false) => texts.fill("rebuild.feeClosed", &[("id", id)]),
        (ItemDifference::Absent, true) => texts.fill("rebuild.loanAbsent", &[("id", id)]),
        (ItemDifference::Absent, false) => texts.fill("rebuild.feeAbsent", &[("id", id)]),
        (ItemDifference::Missing, true) => texts.fill("rebuild.loanMissing", &[("id", id)]),
        (ItemDifference::Missing, false) => texts.fill("rebuild.feeMissing", &[("id", id)]),
        (ItemDifference::Registers(names), true) => {
            texts.fill("rebuild.loanDiffers", &[("id", id), ("registers", &names.join(", "))])
        }
        (ItemDifference::Registers(names), false) => {
            texts.fill("rebuild.feeDiffers", &[("id", id), ("registers", &names.join(", "))])
        }
    }
}

/// Returns how the blocks of a patron change.
pub(super) fn blocks(texts: &'static Texts, patron: &PatronDifferences) -> String {
    let (Some(before), Some(after)) = (&patron.blocked_before, &patron.blocked_after) else {
        return texts.text("rebuild.blocksUnknown").to_owned();
    };
    let names = |ids: &[String]| {
        let named =
            ids.iter().map(|id| match parse_uuid(id).and_then(Measure::from_condition_id) {
                Some(measure) => words::measure(texts, measure).to_owned(),
                None => id.clone(),
            });
        named.collect::<Vec<_>>().join(", ")
    };
    match (before.is_empty(), after.is_empty()) {
        (true, true) => texts.text("rebuild.neverBlocked").to_owned(),
        _ if before == after => {
            texts.fill("rebuild.stillBlocked", &[("conditions", &names(before))])
        }
        (_, true) => texts.fill("rebuild.unblocked", &[("conditions", &names(before))]),
        (true, _) => texts.fill("rebuild.newlyBlocked", &[("conditions", &names(after))]),
        _ => {
            let (before, after) = (names(before), names(after));
            texts.fill("rebuild.otherBlocks", &[("before", &before), ("after", &after)])
        }
    }
}
