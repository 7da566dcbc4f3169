//! The findings of a rebuild, as JSON and as text.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::compare::Pair;
use crate::{
    clock,
    event::Stamp,
    patron::{Fee, Loan, OpenFee, OpenLoan, Register},
    store::{
        differences::{
            Difference, DifferenceSummary, INSIGNIFICANT_KIND, ONLY_CURRENT_KIND, PatronDifferences,
        },
        rebuilds::Rebuild,
    },
};

fn time_json(at: DateTime<Utc>) -> Value {
    json!(clock::format_instant(at))
}

/// Names of the registers that differ.
struct ChangedRegisters(Vec<String>);

impl ChangedRegisters {
    fn compare<T: PartialEq>(&mut self, name: &str, a: &Register<T>, b: &Register<T>) {
        if a != b {
            self.0.push(name.to_owned());
        }
    }
}

/// Returns the difference of a loan, if its rows differ.
pub(super) fn loan_difference(id: Uuid, pair: &Pair<Loan>) -> Option<Difference> {
    let (current, target) = (&pair.current.state, &pair.target.state);
    let mut registers = ChangedRegisters(Vec::new());
    registers.compare("checkOut", &current.check_out, &target.check_out);
    registers.compare("snapshot", &current.snapshot, &target.snapshot);
    registers.compare("dueDate", &current.due, &target.due);
    registers.compare("lost", &current.lost, &target.lost);
    registers.compare("claimedReturned", &current.claimed_returned, &target.claimed_returned);
    let closed = |loan: &Loan| loan.closed.map(|stamp| (stamp, ()));
    registers.compare("closed", &closed(current), &closed(target));
    let (open_current, open_target) = (pair.current.open_loan(), pair.target.open_loan());
    let owner = |loan: &Loan| loan.opening().map(|(_, user)| user).or(loan.fallback_user);
    let user = open_target.or(open_current).map(|open| open.user);
    let user = user.or_else(|| owner(target)).or_else(|| owner(current));
    difference(
        (id, true),
        user,
        registers,
        (open_current.is_some(), open_target.is_some(), open_current == open_target),
        (loan_json(current, open_current), loan_json(target, open_target)),
    )
}

/// Returns the difference of a fee/fine, if its rows differ.
pub(super) fn fee_difference(id: Uuid, pair: &Pair<Fee>) -> Option<Difference> {
    let (current, target) = (&pair.current.state, &pair.target.state);
    let mut registers = ChangedRegisters(Vec::new());
    registers.compare("balance", &current.balance, &target.balance);
    registers.compare("feeFineType", &current.fee_fine_type, &target.fee_fine_type);
    registers.compare("owner", &current.user, &target.user);
    let (open_current, open_target) = (pair.current.open_fee(), pair.target.open_fee());
    let owner = |fee: &Fee| fee.user.map(|(_, user)| user);
    difference(
        (id, false),
        owner(target).or_else(|| owner(current)),
        registers,
        (open_current.is_some(), open_target.is_some(), open_current == open_target),
        (fee_json(current, open_current), fee_json(target, open_target)),
    )
}

fn difference(
    (subject, is_loan): (Uuid, bool),
    user: Option<Uuid>,
    ChangedRegisters(registers): ChangedRegisters,
    counts: (bool, bool, bool),
    (current, target): (Option<Value>, Option<Value>),
) -> Option<Difference> {
    let kind = match counts {
        (true, false, _) => ONLY_CURRENT_KIND,
        (false, true, _) => "only_target",
        (true, true, false) => "differs",
        _ if registers.is_empty() => return None,
        _ => INSIGNIFICANT_KIND,
    };
    let kind = kind.to_owned();
    Some(Difference {
        subject,
        is_loan,
        user_id: user,
        kind,
        registers,
        current_state: current,
        target_state: target,
    })
}

fn loan_json(known: &Loan, open: Option<OpenLoan>) -> Option<Value> {
    let closed_at = known.closed.map(|stamp: Stamp| time_json(stamp.at()));
    let Some(open) = open else {
        let nothing = *known == Loan::default();
        return (!nothing).then(|| json!({ "open": false, "closedAt": closed_at }));
    };
    let grace = open.grace.map(|g| json!({ "duration": g.duration, "intervalId": g.unit.name() }));
    Some(json!({
        "open": true, "userId": open.user, "dueDate": open.due_date.map(time_json), "recall": open.recall,
        "itemLost": open.lost, "itemClaimedReturned": open.claimed_returned, "gracePeriod": grace,
    }))
}

fn fee_json(known: &Fee, open: Option<OpenFee>) -> Option<Value> {
    let Some(open) = open else {
        let balance = known.balance.map(|(_, balance)| balance.amount);
        return (*known != Fee::default()).then(|| json!({ "open": false, "balance": balance }));
    };
    Some(json!({
        "open": true, "userId": open.user, "balance": open.balance, "loanId": open.loan,
        "feeFineTypeId": open.fee_fine_type,
    }))
}

/// Returns the totals of the differences as JSON.
pub(super) fn summary_json(found: &DifferenceSummary, groups: i64, passed_over: i32) -> Value {
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
        "skippedRecords": passed_over,
    })
}

/// Returns a rebuild as the HTTP interface represents it.
pub fn rebuild_json(stored: &Rebuild) -> Value {
    let mut body = stored.request.clone();
    let more = json!({
        "id": stored.id, "status": stored.status, "requestedBy": stored.requested_by, "requestedAt": time_json(stored.requested_at),
        "startedAt": stored.started_at.map(time_json), "endedAt": stored.ended_at.map(time_json), "progress": stored.progress,
        "summary": stored.summary, "error": stored.error, "problems": stored.problems,
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
