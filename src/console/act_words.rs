//! Sentences about acts of operators.

use serde_json::Value;

use super::texts::Texts;
use crate::{services::operator_actions::Action, store::operator_actions::StoredAction};

/// Returns what an operator did, as a heading.
pub(super) fn action<'a>(texts: &'static Texts, name: &'a str) -> &'a str {
    let Some(action) = Action::from_name(name) else { return name };
    texts.text(match action {
        Action::RetryRecord => "act.retryRecord",
        Action::RetryRecords => "act.retryRecords",
        Action::DiscardRecord => "act.discardRecord",
        Action::DiscardRecords => "act.discardRecords",
        Action::RestoreRecord => "act.restoreRecord",
        Action::RestoreRecords => "act.restoreRecords",
        Action::ResolveIncident => "act.resolveIncident",
        Action::RequestRebuild => "act.requestRebuild",
        Action::ApplyRebuild => "act.applyRebuild",
        Action::CancelRebuild => "act.cancelRebuild",
        Action::RequestSynchronization => "act.requestSynchronization",
        Action::RequestExport => "act.requestExport",
        Action::CancelExport => "act.cancelExport",
        Action::ReplaceCertaintyPolicy => "act.replaceCertaintyPolicy",
        Action::ChangeCondition => "act.changeCondition",
        Action::CreateLimit => "act.createLimit",
        Action::ChangeLimit => "act.changeLimit",
        Action::DeleteLimit => "act.deleteLimit",
        Action::RepairCounters => "act.repairCounters",
        Action::EnableTenant => "act.enableTenant",
        Action::GiveBackTenant => "act.giveBackTenant",
    })
}

/// Returns whether an act was done, and a sentence about its end.
pub(super) fn end(texts: &'static Texts, act: &StoredAction) -> (bool, String) {
    match &*act.outcome {
        "done" => (true, done(texts, act)),
        "failed" => {
            let why = act.detail["why"].as_str();
            let why = why.map(|why| texts.translated_error(why).trim_end_matches('.'));
            let why = why.unwrap_or_else(|| texts.text("act.causeInLog"));
            (false, texts.fill("act.failed", &[("why", &why)]))
        }
        "unknown" => (false, texts.text("act.unknown").to_owned()),
        _ => (false, texts.text("act.begun").to_owned()),
    }
}

fn done(texts: &'static Texts, act: &StoredAction) -> String {
    let count = |member: &str| act.detail[member].as_i64().unwrap_or_default();
    let plain = match Action::from_name(&act.action) {
        Some(Action::RetryRecords) => {
            let (applied, parked) = (count("applied"), count("stillParked"));
            return texts.fill("act.recordsRetried", &[("applied", &applied), ("parked", &parked)]);
        }
        Some(Action::DiscardRecords) => {
            return texts.fill("act.recordsDiscarded", &[("count", &count("discarded"))]);
        }
        Some(Action::RestoreRecords) => {
            return texts.fill("act.recordsRestored", &[("count", &count("restored"))]);
        }
        Some(Action::CreateLimit | Action::ChangeLimit | Action::DeleteLimit) => {
            return change(texts, &act.detail);
        }
        Some(Action::RetryRecord) => "act.recordApplied",
        Some(Action::DiscardRecord) => "act.recordDiscarded",
        Some(Action::RestoreRecord) => "act.recordRestored",
        Some(Action::ResolveIncident) => "act.incidentResolved",
        Some(Action::RequestRebuild) => "act.rebuildRequested",
        Some(Action::ApplyRebuild) => "act.rebuildApplied",
        Some(Action::CancelRebuild) => "act.rebuildCancelled",
        Some(Action::RequestExport) => "act.exportRequested",
        Some(Action::CancelExport) => "act.exportCancelled",
        Some(Action::RepairCounters) => "act.countersRepaired",
        _ => "act.done",
    };
    texts.text(plain).to_owned()
}

/// Returns a sentence about the value of a limit before and after.
fn change(texts: &'static Texts, detail: &Value) -> String {
    let value = |side: &str| detail[side].get("value").filter(|value| !value.is_null());
    match (value("before"), value("after")) {
        (Some(before), Some(after)) => {
            texts.fill("act.limitChanged", &[("before", before), ("after", after)])
        }
        (None, Some(after)) => texts.fill("act.limitSet", &[("after", after)]),
        (Some(before), None) => texts.fill("act.limitRemoved", &[("before", before)]),
        (None, None) => texts.text("act.done").to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_action_has_a_heading() {
        let english = Texts::english();
        for one in Action::ALL {
            assert_ne!(action(english, one.name()), one.name());
        }
        assert_eq!(action(english, "of-a-newer-version"), "of-a-newer-version");
    }
}
