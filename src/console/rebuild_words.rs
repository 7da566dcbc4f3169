//! Sentences about rebuilds.

use serde_json::Value;

use super::{
    texts::Texts,
    words::{self, counted},
};
use crate::{
    blocks::Measure,
    event::parse_uuid,
    store::{
        jobs::{Job, Status},
        rebuild::{
            differences::PatronDifferences,
            rebuilds::{DifferenceCounts, Progress, Summary},
        },
    },
};

/// Returns what a request asks for.
pub(super) fn request(request: &Value) -> String {
    let scope = match request["userId"].as_str() {
        Some(user) => format!("Patron {user}"),
        None => "The whole tenant".to_owned(),
    };
    let source = source(request);
    let from = match request["from"].as_str() {
        None | Some("earliest") => String::new(),
        Some(from) => format!(", from {from}"),
    };
    let mode = if request["dryRun"] == Value::Bool(true) { "" } else { ", applied by itself" };
    format!("{scope} from {source}{from}{mode}")
}

/// Returns the source of a request.
pub(super) fn source(request: &Value) -> &'static str {
    match request["source"].as_str() {
        Some("inbox") => "the inbox",
        Some("storage") => "the storage modules",
        _ => "the topics",
    }
}

/// Returns the status.
pub(super) fn status(status: Status) -> &'static str {
    match status {
        Status::Waiting => "waits for a free worker",
        Status::Reading => "reads the source",
        Status::Comparing => "compares",
        Status::Compared => "waits for a decision",
        Status::Applying => "applies the differences",
        Status::Publishing | Status::Enabling => "runs",
        Status::Done => "done",
        Status::Failed => "failed",
        Status::Cancelled => "cancelled",
    }
}

/// Returns the progress of a rebuild that runs.
pub(super) fn progress(status: Status, progress: &Progress) -> Option<String> {
    if status.has_ended() || status == Status::Compared {
        return None;
    }
    let (done, total) = (progress.done?, progress.total?);
    let left = progress.seconds_left.map_or_else(String::new, |seconds| {
        format!(", about {} left", counted(seconds.ceil() as i64, "second", "seconds"))
    });
    Some(format!("{done} of {total}{left}"))
}

/// Returns sentences about the result of a rebuild.
pub(super) fn result(job: &Job, summary: Option<&Summary>) -> Vec<String> {
    let Some(summary) = summary else { return Vec::new() };
    let patrons = |count| counted(count, "patron", "patrons");
    if summary.patrons == 0 {
        return vec!["The stored state and the source agree about every patron.".to_owned()];
    }
    let mut sentences = vec![
        format!("The stored state differs from the source for {}.", patrons(summary.patrons)),
        counts("loan", "loans", summary.loans),
        counts("fee or fine", "fees and fines", summary.fees_fines),
        format!(
            "The rebuild lifts a block from {}, and imposes one on {}.",
            patrons(summary.blocks_lifted),
            summary.blocks_imposed
        ),
    ];
    sentences.retain(|sentence| !sentence.is_empty());
    if summary.wrong_counters > 0 {
        let patrons = patrons(summary.wrong_counters);
        sentences.push(format!("The counters of {patrons} differ from a recount."));
    }
    if summary.skipped_records > 0 {
        let records = counted(summary.skipped_records.into(), "record", "records");
        sentences.push(format!("The rebuild skipped {records} that cannot be read."));
    }
    if job.status == Status::Done {
        sentences.push(format!("The differences of {} are applied.", patrons(summary.applied)));
    }
    sentences
}

fn counts(one: &str, many: &str, counts: DifferenceCounts) -> String {
    let DifferenceCounts { only_current, only_in_source, different, .. } = counts;
    if only_current + only_in_source + different == 0 {
        return String::new();
    }
    format!(
        "{} open here only, {only_in_source} in the source only, and {different} differ.",
        match only_current {
            1 => format!("1 {one} is"),
            count => format!("{count} {many} are"),
        }
    )
}

/// Returns how the blocks of a patron change.
pub(super) fn blocks(patron: &PatronDifferences) -> String {
    let (Some(before), Some(after)) = (&patron.blocked_before, &patron.blocked_after) else {
        return "unknown, because the patron group is unknown".to_owned();
    };
    let names = |ids: &[String]| {
        let named =
            ids.iter().map(|id| match parse_uuid(id).and_then(Measure::from_condition_id) {
                Some(measure) => words::measure(Texts::english(), measure).to_owned(),
                None => id.clone(),
            });
        named.collect::<Vec<_>>().join(", ")
    };
    match (before.is_empty(), after.is_empty()) {
        _ if before == after && before.is_empty() => "not blocked, before and after".to_owned(),
        _ if before == after => format!("blocked as before: {}", names(before)),
        (_, true) => format!("no longer blocked: {}", names(before)),
        (true, _) => format!("blocked afterwards: {}", names(after)),
        _ => format!("blocked by {}, afterwards by {}", names(before), names(after)),
    }
}
