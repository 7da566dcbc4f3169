//! The members of the eight kinds (events contract 7): each absent, null, empty and of a wrong type.

use patron_blocks::event::{Kind, Reading, Reason};
use serde_json::{Value, json};

use super::{event, read, record};

/// What a member's text may be.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// An empty text matches no pattern.
    Id,
    /// An empty text is none.
    Other,
}

use Form::{Id, Other};

type Members = &'static [(&'static str, Form)];

/// Required members, then optional ones, in the order of the contract.
const KINDS: [(Kind, Members, Members); 8] = [
    (Kind::ItemCheckedOut, &[("userId", Id), ("loanId", Id), ("dueDate", Other)], &[]),
    (Kind::ItemCheckedIn, &[("loanId", Id)], &[("userId", Id)]),
    (Kind::ItemDeclaredLost, &[("userId", Id), ("loanId", Id)], &[]),
    (Kind::ItemAgedToLost, &[("userId", Id), ("loanId", Id)], &[]),
    (Kind::ItemClaimedReturned, &[("userId", Id), ("loanId", Id)], &[]),
    (Kind::LoanClosed, &[("userId", Id), ("loanId", Id)], &[]),
    (
        Kind::LoanDueDateChanged,
        &[("userId", Id), ("loanId", Id), ("dueDate", Other), ("dueDateChangedByRecall", Other)],
        &[],
    ),
    (
        Kind::FeeFineBalanceChanged,
        &[("feeFineId", Id), ("balance", Other)],
        &[("userId", Id), ("feeFineTypeId", Id), ("loanId", Id)],
    ),
];

fn payload(kind: Kind) -> Value {
    let mut payload = json!({
        "userId": "7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01",
        "loanId": "0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11",
    });
    match kind {
        Kind::ItemCheckedOut => payload["dueDate"] = json!("2026-09-14T21:59:59.000Z"),
        Kind::LoanDueDateChanged => {
            payload["dueDate"] = json!("2026-09-14T21:59:59.000Z");
            payload["dueDateChangedByRecall"] = json!(true);
        }
        Kind::FeeFineBalanceChanged => {
            payload["feeFineId"] = json!("a41c7e90-3b5d-4f68-92c7-8e0d5b1a6f33");
            payload["feeFineTypeId"] = json!("c3f5b2a8-6d17-4e29-b840-97a1e4d0c544");
            payload["balance"] = json!(12.5);
        }
        _ => {}
    }
    payload
}

/// Why the record is parked, and the member that it is parked for; `None` where it is an event.
fn parked(kind: Kind, payload: &Value) -> Option<(Reason, &'static str)> {
    match read(&record(kind, "northlib", payload.to_string().as_bytes())) {
        Reading::Event(..) => None,
        Reading::Dead(_, reject) => Some((reject.reason, reject.field.unwrap())),
        Reading::Tombstone | Reading::Skipped(_) => panic!("it says something"),
    }
}

fn with(kind: Kind, member: &str, value: Value) -> Value {
    let mut payload = payload(kind);
    payload[member] = value;
    payload
}

fn without(kind: Kind, member: &str) -> Value {
    let mut payload = payload(kind);
    payload.as_object_mut().unwrap().remove(member).unwrap();
    payload
}

#[test]
fn a_required_member_that_is_absent_null_or_empty_is_missing() {
    for (kind, required, _) in KINDS {
        assert_eq!(parked(kind, &payload(kind)), None, "{kind:?}");
        for &(member, form) in required {
            let missing = Some((Reason::MissingField, member));
            let bad = Some((Reason::BadField, member));
            assert_eq!(parked(kind, &without(kind, member)), missing, "{kind:?}");
            assert_eq!(parked(kind, &with(kind, member, Value::Null)), missing, "{kind:?}");
            let empty = if form == Id { bad } else { missing };
            assert_eq!(parked(kind, &with(kind, member, json!(""))), empty, "{kind:?}");
        }
    }
}

#[test]
fn an_optional_member_may_be_absent_or_null() {
    for (kind, _, optional) in KINDS {
        for &(member, _) in optional {
            for payload in [without(kind, member), with(kind, member, Value::Null)] {
                assert_eq!(parked(kind, &payload), None, "{kind:?} {member}");
            }
        }
    }
}

#[test]
fn a_member_of_a_wrong_type_is_named() {
    for (kind, required, optional) in KINDS {
        for &(member, _) in required.iter().chain(optional) {
            for wrong in [json!({}), json!([]), json!([payload(kind)[member]]), json!("no such")] {
                let expected = Some((Reason::BadField, member));
                assert_eq!(parked(kind, &with(kind, member, wrong)), expected, "{kind:?}");
            }
        }
    }
}

#[test]
fn members_that_say_nothing_are_allowed_whatever_they_hold() {
    for (kind, ..) in KINDS {
        let plain = event(&record(kind, "northlib", payload(kind).to_string().as_bytes()));
        for (member, value) in [
            ("id", json!("not an id")),
            ("metadata", json!({"createdDate": "soon"})),
            ("returnDate", json!("yesterday")),
            ("old", json!({})),
            ("new", json!({"loanId": "0"})),
            ("data", json!({"loanId": "0"})),
            ("type", json!("UPDATED")),
            ("timestamp", json!(1)),
            ("tenant", json!("southlib")),
            ("patron", json!(["Ada", {"barcode": null}])),
        ] {
            let payload = with(kind, member, value).to_string();
            let read = event(&record(kind, "northlib", payload.as_bytes()));
            assert_eq!(read, plain, "{kind:?} {member}");
        }
    }
}

/// A loan policy may allow a grace of 0, and the loan counts all the same (7.1). The forms are in the
/// table beside the reader.
#[test]
fn a_senseless_grace_period_still_opens_the_loan() {
    let out = Kind::ItemCheckedOut;
    let plain = event(&record(out, "northlib", payload(out).to_string().as_bytes()));
    for grace in [
        json!({"duration": 0, "intervalId": "Days"}),
        json!({"duration": -1, "intervalId": "Days"}),
        json!({"duration": 2, "intervalId": "Fortnights"}),
        json!({"duration": 2}),
        json!("2 days"),
        json!([]),
        Value::Null,
    ] {
        let payload = with(out, "gracePeriod", grace.clone()).to_string();
        assert_eq!(event(&record(out, "northlib", payload.as_bytes())), plain, "{grace}");
    }
}
