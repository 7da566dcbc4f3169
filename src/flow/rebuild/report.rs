//! What a rebuild has found, for people and for programs.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::compare::Pair;
use crate::{
    clock,
    event::Stamp,
    patron::{Fee, Loan, OpenFee, OpenLoan, Register},
    store::{
        differences::{Difference, HIDDEN_KIND, ONLY_HERE_KIND, Patron, Summary},
        rebuilds::Rebuild,
    },
};

fn time(at: DateTime<Utc>) -> Value {
    json!(clock::written(at))
}

/// The registers that are not the same, by name.
struct Registers(Vec<String>);

impl Registers {
    fn compare<T: PartialEq>(&mut self, name: &str, a: &Register<T>, b: &Register<T>) {
        if a != b {
            self.0.push(name.to_owned());
        }
    }
}

/// How a loan differs, if it does.
pub(super) fn loan(id: Uuid, pair: &Pair<Loan>) -> Option<Difference> {
    let (here, there) = (&pair.here.known, &pair.there.known);
    let mut registers = Registers(Vec::new());
    registers.compare("checkOut", &here.check_out, &there.check_out);
    registers.compare("snapshot", &here.snapshot, &there.snapshot);
    registers.compare("dueDate", &here.due, &there.due);
    registers.compare("lost", &here.lost, &there.lost);
    registers.compare("claimedReturned", &here.claimed_returned, &there.claimed_returned);
    let closed = |loan: &Loan| loan.closed.map(|said| (said, ()));
    registers.compare("closed", &closed(here), &closed(there));
    let (open_here, open_there) = (pair.here.open_loan(), pair.there.open_loan());
    let owner = |loan: &Loan| loan.opened().map(|(_, user)| user).or(loan.named);
    let user = open_there.or(open_here).map(|open| open.user);
    let user = user.or_else(|| owner(there)).or_else(|| owner(here));
    difference(
        (id, true),
        user,
        registers,
        (open_here.is_some(), open_there.is_some(), open_here == open_there),
        (told_loan(here, open_here), told_loan(there, open_there)),
    )
}

/// How a fee/fine differs, if it does.
pub(super) fn fee(id: Uuid, pair: &Pair<Fee>) -> Option<Difference> {
    let (here, there) = (&pair.here.known, &pair.there.known);
    let mut registers = Registers(Vec::new());
    registers.compare("balance", &here.balance, &there.balance);
    registers.compare("feeFineType", &here.fee_fine_type, &there.fee_fine_type);
    registers.compare("owner", &here.user, &there.user);
    let (open_here, open_there) = (pair.here.open_fee(), pair.there.open_fee());
    let owner = |fee: &Fee| fee.user.map(|(_, user)| user);
    difference(
        (id, false),
        owner(there).or_else(|| owner(here)),
        registers,
        (open_here.is_some(), open_there.is_some(), open_here == open_there),
        (told_fee(here, open_here), told_fee(there, open_there)),
    )
}

fn difference(
    (subject, is_loan): (Uuid, bool),
    user: Option<Uuid>,
    Registers(registers): Registers,
    counts: (bool, bool, bool),
    (here, there): (Option<Value>, Option<Value>),
) -> Option<Difference> {
    let kind = match counts {
        (true, false, _) => ONLY_HERE_KIND,
        (false, true, _) => "only_there",
        (true, true, false) => "differs",
        _ if registers.is_empty() => return None,
        _ => HIDDEN_KIND,
    };
    let kind = kind.to_owned();
    Some(Difference { subject, is_loan, user_id: user, kind, registers, here, there })
}

fn told_loan(known: &Loan, open: Option<OpenLoan>) -> Option<Value> {
    let closed_at = known.closed.map(|said: Stamp| time(said.at()));
    let Some(open) = open else {
        let nothing = *known == Loan::default();
        return (!nothing).then(|| json!({ "open": false, "closedAt": closed_at }));
    };
    let grace = open.grace.map(|g| json!({ "duration": g.duration, "intervalId": g.unit.name() }));
    Some(json!({
        "open": true, "userId": open.user, "dueDate": open.due_date.map(time), "recall": open.recall,
        "itemLost": open.lost, "itemClaimedReturned": open.claimed_returned, "gracePeriod": grace,
    }))
}

fn told_fee(known: &Fee, open: Option<OpenFee>) -> Option<Value> {
    let Some(open) = open else {
        let balance = known.balance.map(|(_, balance)| balance.amount);
        return (*known != Fee::default()).then(|| json!({ "open": false, "balance": balance }));
    };
    Some(json!({
        "open": true, "userId": open.user, "balance": open.balance, "loanId": open.loan,
        "feeFineTypeId": open.fee_fine_type,
    }))
}

/// How much was found to be different.
pub(super) fn summary(found: &Summary, groups: i64, passed_over: i32) -> Value {
    let of = |is_loan| {
        let number = |kind: &str| found.number(is_loan, kind);
        json!({
            "onlyHere": number(ONLY_HERE_KIND), "onlyInSource": number("only_there"),
            "different": number("differs"), "hidden": number(HIDDEN_KIND),
        })
    };
    json!({
        "patrons": found.patrons, "wrongCounters": found.counters, "applied": found.applied,
        "blocksImposed": found.blocked, "blocksLifted": found.unblocked,
        "loans": of(true), "feesFines": of(false), "patronGroups": groups,
        "passedOver": passed_over,
    })
}

/// A rebuild as told over HTTP.
pub fn rebuild(of: &Rebuild) -> Value {
    let mut told = of.request.clone();
    let more = json!({
        "id": of.id, "status": of.status, "askedBy": of.asked_by, "askedAt": time(of.asked_at),
        "beganAt": of.begun_at.map(time), "endedAt": of.ended_at.map(time), "progress": of.progress,
        "summary": of.summary, "error": of.error, "problems": of.problems,
    });
    if let (Some(told), Value::Object(more)) = (told.as_object_mut(), more) {
        told.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
    }
    told
}

/// A patron of whom something differs, with what does.
pub fn patron(of: &Patron, differences: &[Difference]) -> Value {
    let kind = |kind: &str| match kind {
        "only_here" => "onlyHere",
        "only_there" => "onlyInSource",
        "differs" => "different",
        _ => "hidden",
    };
    let told = |is_loan| {
        let of_user = differences
            .iter()
            .filter(move |d| d.user_id == Some(of.user_id) && d.is_loan == is_loan);
        let told = of_user.map(move |d| {
            json!({ "id": d.subject, "kind": kind(&d.kind), "registers": d.registers, "here": d.here,
                    "there": d.there })
        });
        told.collect::<Vec<_>>()
    };
    json!({
        "userId": of.user_id, "wrongCounters": of.counters, "loansHere": of.loans_here,
        "loansThere": of.loans_there, "loans": told(true),
        "feesFines": told(false), "blockedBefore": of.blocked_before,
        "blockedAfter": of.blocked_after, "appliedAt": of.applied_at.map(time),
    })
}

/// The same in words, a line for each thing that counts. `source` is what was read, in words.
pub fn words(of: &Patron, differences: &[Difference], source: &str) -> Vec<String> {
    let mut words = Vec::new();
    if let (Some(here), Some(there)) = (of.loans_here, of.loans_there)
        && here != there
    {
        let s = if here == 1 { "" } else { "s" };
        words.push(format!("has {here} loan{s} here, {there} by {source}"));
    }
    let mine = differences.iter().filter(|d| d.user_id == Some(of.user_id));
    for d in mine.filter(|d| d.kind != "hidden") {
        let what = if d.is_loan { "loan" } else { "fee/fine" };
        let told = |side: &Option<Value>, name: &str| match side.as_ref().map(|side| &side[name]) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text.clone()),
            Some(other) => Some(other.to_string()),
        };
        let how = match d.kind.as_str() {
            "only_here" => match told(&d.there, "closedAt") {
                Some(at) => format!("is open here; it ended at {at}"),
                None if d.there.is_some() => "is open here; it is settled".to_owned(),
                None => format!("is open here; {source} knows nothing of it"),
            },
            "only_there" => "is missing here; it is open".to_owned(),
            _ => format!("is open, and differs here in {}", d.registers.join(", ")),
        };
        words.push(format!("{what} {} {how}", d.subject));
    }
    if of.counters {
        words.push("the counters are not what a recount gives".to_owned());
    }
    words
}
