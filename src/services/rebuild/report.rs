//! The findings of a rebuild, as JSON and as text.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::{
    clock,
    store::rebuild::{
        differences::{
            Difference, DifferenceSummary, INSIGNIFICANT_KIND, ONLY_CURRENT_KIND, PatronDifferences,
        },
        rebuilds::Rebuild,
    },
};

pub(super) fn time_json(at: DateTime<Utc>) -> Value {
    json!(clock::format_instant(at))
}

/// Returns the totals of the differences as JSON.
pub(super) fn summary_json(found: &DifferenceSummary, groups: i64, skipped_records: i32) -> Value {
    let of = |is_loan| {
        let number = |kind: &str| found.count(is_loan, kind);
        json!({
            "onlyCurrent": number(ONLY_CURRENT_KIND), "onlyInSource": number("only_target"),
            "different": number("differs"), "insignificant": number(INSIGNIFICANT_KIND),
        })
    };
    json!({
        "patrons": found.patrons, "wrongCounters": found.counters, "applied": found.applied,
        "blocksImposed": found.blocked, "blocksLifted": found.unblocked,
        "loans": of(true), "feesFines": of(false), "patronGroups": groups,
        "skippedRecords": skipped_records,
    })
}

/// Returns a rebuild as the HTTP interface represents it.
pub fn rebuild_json(stored: &Rebuild) -> Value {
    let mut body = stored.request.clone();
    let more = json!({
        "id": stored.id, "status": stored.status, "requestedBy": stored.requested_by, "requestedAt": time_json(stored.requested_at),
        "startedAt": stored.started_at.map(time_json), "endedAt": stored.ended_at.map(time_json), "progress": stored.progress,
        "summary": stored.summary, "error": stored.error, "problems": stored.messages,
    });
    if let (Some(members), Value::Object(more)) = (body.as_object_mut(), more) {
        members.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
    }
    body
}

/// Returns a patron and the patron's differences as JSON.
pub fn patron_json(differing: &PatronDifferences, differences: &[Difference]) -> Value {
    let kind = |kind: &str| match kind {
        "only_current" => "onlyCurrent",
        "only_target" => "onlyInSource",
        "differs" => "different",
        _ => "insignificant",
    };
    let differences_json = |is_loan| {
        let of_user = differences
            .iter()
            .filter(move |d| d.user_id == Some(differing.user_id) && d.is_loan == is_loan);
        let rows = of_user.map(move |d| {
            json!({ "id": d.subject, "kind": kind(&d.kind), "registers": d.registers, "current": d.current_state,
                    "target": d.target_state })
        });
        rows.collect::<Vec<_>>()
    };
    json!({
        "userId": differing.user_id, "wrongCounters": differing.counters, "currentLoans": differing.current_loans,
        "targetLoans": differing.target_loans, "loans": differences_json(true),
        "feesFines": differences_json(false), "blockedBefore": differing.blocked_before,
        "blockedAfter": differing.blocked_after, "appliedAt": differing.applied_at.map(time_json),
    })
}

/// Returns the same differences as text, one line per significant difference; `source` is the name of the
/// source.
pub fn describe_patron(
    patron: &PatronDifferences,
    differences: &[Difference],
    source: &str,
) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(current), Some(target)) = (patron.current_loans, patron.target_loans)
        && current != target
    {
        let s = if current == 1 { "" } else { "s" };
        lines.push(format!("has {current} loan{s} here and {target} in {source}"));
    }
    let patron_differences = differences.iter().filter(|d| d.user_id == Some(patron.user_id));
    for d in patron_differences.filter(|d| d.kind != INSIGNIFICANT_KIND) {
        let what = if d.is_loan { "loan" } else { "fee/fine" };
        let member_text =
            |side: &Option<Value>, name: &str| match side.as_ref().map(|side| &side[name]) {
                None | Some(Value::Null) => None,
                Some(Value::String(text)) => Some(text.clone()),
                Some(other) => Some(other.to_string()),
            };
        let how = match d.kind.as_str() {
            "only_current" => match member_text(&d.target_state, "closedAt") {
                Some(at) => format!("is open here but was closed at {at}"),
                None if d.target_state.is_some() => {
                    "is open here but closed in the source".to_owned()
                }
                None => format!("is open here but absent from {source}"),
            },
            "only_target" => "is missing here but open in the source".to_owned(),
            _ => format!("is open but differs here in {}", d.registers.join(", ")),
        };
        lines.push(format!("{what} {} {how}", d.subject));
    }
    if patron.counters {
        lines.push("the counters differ from a recount".to_owned());
    }
    lines
}
