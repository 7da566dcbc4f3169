//! Sentences about acts of operators.

use serde_json::Value;

use super::words::counted;
use crate::{services::operator_actions::Action, store::operator_actions::StoredAction};

/// Returns what an operator did, as a heading.
pub(super) fn action(name: &str) -> &str {
    let Some(action) = Action::from_name(name) else { return name };
    match action {
        Action::RetryRecord => "Retry a parked record",
        Action::RetryRecords => "Retry parked records",
        Action::DiscardRecord => "Discard a parked record",
        Action::DiscardRecords => "Discard parked records",
        Action::RestoreRecord => "Restore a discarded record",
        Action::RestoreRecords => "Restore discarded records",
        Action::ResolveIncident => "Resolve an incident",
        Action::RequestRebuild => "Start a rebuild",
        Action::ApplyRebuild => "Apply a rebuild",
        Action::CancelRebuild => "Cancel a rebuild",
        Action::RequestSynchronization => "Request a synchronization",
        Action::RequestExport => "Request an export",
        Action::CancelExport => "Cancel an export",
        Action::ReplaceCertaintyPolicy => "Replace the certainty policy",
        Action::ChangeCondition => "Change a condition",
        Action::CreateLimit => "Set a limit",
        Action::ChangeLimit => "Change a limit",
        Action::DeleteLimit => "Remove a limit",
        Action::RepairCounters => "Repair counters",
        Action::EnableTenant => "Enable a tenant",
        Action::GiveBackTenant => "Return a tenant to the Java module",
    }
}

/// Returns whether an act was done, and a sentence about its end.
pub(super) fn end(act: &StoredAction) -> (bool, String) {
    match &*act.outcome {
        "done" => (true, done(act)),
        "failed" => {
            let why = act.detail["why"].as_str().unwrap_or("the cause is in the log");
            (false, format!("Not done: {}.", why.trim_end_matches('.')))
        }
        "unknown" => {
            (false, "The act may be done: the database did not report its end.".to_owned())
        }
        _ => (false, "The act has begun, and its end is not known.".to_owned()),
    }
}

fn done(act: &StoredAction) -> String {
    let count = |member: &str| act.detail[member].as_i64().unwrap_or_default();
    let records = |count| counted(count, "record", "records");
    match Action::from_name(&act.action) {
        Some(Action::RetryRecord) => "The record is applied.".to_owned(),
        Some(Action::RetryRecords) => {
            let (applied, parked) = (records(count("applied")), records(count("stillParked")));
            format!("Applied: {applied}. Still parked: {parked}.")
        }
        Some(Action::DiscardRecord) => {
            "The record is discarded. It can be restored for some days.".to_owned()
        }
        Some(Action::DiscardRecords) => {
            format!(
                "Discarded: {}. They can be restored for some days.",
                records(count("discarded"))
            )
        }
        Some(Action::RestoreRecords) => {
            format!("Parked again: {}.", records(count("restored")))
        }
        Some(Action::RestoreRecord) => "The record is parked again.".to_owned(),
        Some(Action::ResolveIncident) => {
            "The incident is resolved. A stopped partition resumes within seconds.".to_owned()
        }
        Some(Action::RequestRebuild) => "The rebuild is requested.".to_owned(),
        Some(Action::ApplyRebuild) => "The differences are applied in the background.".to_owned(),
        Some(Action::RequestExport) => "The export is requested.".to_owned(),
        Some(Action::CancelExport) => "The export is cancelled.".to_owned(),
        Some(Action::RepairCounters) => "The counters are repaired.".to_owned(),
        Some(Action::CancelRebuild) => "The rebuild is cancelled.".to_owned(),
        Some(Action::CreateLimit | Action::ChangeLimit | Action::DeleteLimit) => {
            change(&act.detail)
        }
        _ => "Done.".to_owned(),
    }
}

/// Returns a sentence about the value of a limit before and after.
fn change(detail: &Value) -> String {
    let value = |side: &str| match &detail[side]["value"] {
        Value::Null => "no limit".to_owned(),
        value => value.to_string(),
    };
    format!("The limit was {} and is {} now.", value("before"), value("after"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_a_heading() {
        for one in Action::ALL {
            assert_ne!(action(one.name()), one.name());
        }
        assert_eq!(action("of-a-newer-version"), "of-a-newer-version");
    }
}
