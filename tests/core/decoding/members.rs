//! The members of the eight kinds (docs/contract/events.md#7-events): each absent, null, empty and
//! of a wrong type.

use patron_blocks::event::{DecodeOutcome, Fact, Kind, Reason};
use serde_json::{Value, json};

use super::{decode_record, event, record};

/// The rule for an empty text in a member.
#[derive(Clone, Copy, PartialEq)]
enum Form {
    /// An empty text matches no id pattern and rejects the record.
    Id,
    /// An empty text counts as absent.
    Other,
}

use Form::{Id, Other};

type Members = &'static [(&'static str, Form)];

/// Required members, then optional ones, in the order of docs/contract/events.md#7-events.
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

/// Returns the reason of a rejection and its member, or `None` for an event.
fn reject_of(kind: Kind, payload: &Value) -> Option<(Reason, &'static str)> {
    match decode_record(&record(kind, "northlib", payload.to_string().as_bytes())) {
        DecodeOutcome::Event(..) => None,
        DecodeOutcome::Rejected(_, reject) => Some((reject.reason, reject.field.unwrap())),
        DecodeOutcome::Tombstone | DecodeOutcome::Skipped(_) => panic!("the event has a fact"),
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
fn absent_null_or_empty_required_member_is_missing() {
    for (kind, required, _) in KINDS {
        assert_eq!(reject_of(kind, &payload(kind)), None, "{kind:?}");
        for &(member, form) in required {
            let missing = Some((Reason::MissingField, member));
            let bad = Some((Reason::BadField, member));
            assert_eq!(reject_of(kind, &without(kind, member)), missing, "{kind:?}");
            assert_eq!(reject_of(kind, &with(kind, member, Value::Null)), missing, "{kind:?}");
            let empty = if form == Id { bad } else { missing };
            assert_eq!(reject_of(kind, &with(kind, member, json!(""))), empty, "{kind:?}");
        }
    }
}

#[test]
fn optional_member_may_be_absent_or_null() {
    for (kind, _, optional) in KINDS {
        for &(member, _) in optional {
            for payload in [without(kind, member), with(kind, member, Value::Null)] {
                assert_eq!(reject_of(kind, &payload), None, "{kind:?} {member}");
            }
        }
    }
}

/// Optional members that do not identify the subject of the event. An invalid value counts as absent,
/// and the event counts.
const MINOR_MEMBERS: [(Kind, &str); 3] = [
    (Kind::ItemCheckedIn, "userId"),
    (Kind::FeeFineBalanceChanged, "feeFineTypeId"),
    (Kind::FeeFineBalanceChanged, "loanId"),
];

#[test]
fn invalid_minor_member_does_not_reject_the_event() {
    for (kind, member) in MINOR_MEMBERS {
        let absent = without(kind, member).to_string();
        let absent = event(&record(kind, "northlib", absent.as_bytes())).fact;
        for odd in [json!("0"), json!(""), json!(7), json!([]), json!({"id": null})] {
            let payload = with(kind, member, odd.clone()).to_string();
            let read = event(&record(kind, "northlib", payload.as_bytes())).fact;
            assert_eq!(read, absent, "{kind:?} {member} {odd}");
        }
        // The same is true of a text that is not Unicode.
        let payload = with(kind, member, json!("odd")).to_string().replace("odd", "\\ud800");
        let read = event(&record(kind, "northlib", payload.as_bytes())).fact;
        assert_eq!(read, absent, "{kind:?} {member}");
    }
}

/// The floating-point remainder of a payment closes the fee/fine.
#[test]
fn balance_is_rounded_to_15_decimals() {
    let fee = Kind::FeeFineBalanceChanged;
    for (sent, expected) in [
        ("4.996003610813204e-16", "0"),
        ("0.0000000000000004996003610813204", "0"),
        ("12.550000000000000710542735760100186", "12.550000000000001"),
    ] {
        let payload = with(fee, "balance", json!("#")).to_string().replace("\"#\"", sent);
        let read = event(&record(fee, "northlib", payload.as_bytes())).fact;
        let Fact::BalanceChanged { balance, .. } = read else { panic!("{sent}") };
        assert_eq!(balance.to_string(), expected, "{sent}");
    }
}

#[test]
fn member_of_wrong_type_is_named() {
    for (kind, required, optional) in KINDS {
        for &(member, _) in required.iter().chain(optional) {
            if MINOR_MEMBERS.contains(&(kind, member)) {
                continue;
            }
            for wrong in [json!({}), json!([]), json!([payload(kind)[member]]), json!("no such")] {
                let expected = Some((Reason::BadField, member));
                assert_eq!(reject_of(kind, &with(kind, member, wrong)), expected, "{kind:?}");
            }
        }
    }
}

#[test]
fn unknown_members_may_have_any_value() {
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
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        for value in [r#""\ud800""#, r#""\udc00x\ud800\ud800""#, "1e400", "-1e-999999", &deep] {
            let payload = with(kind, "title", json!("#")).to_string().replace("\"#\"", value);
            let flat = event(&record(kind, "northlib", payload.as_bytes()));
            assert_eq!(flat, plain, "{kind:?} {value}");
            if Kind::BUSINESS.contains(&kind) {
                let within = json!({ "eventType": kind.name(), "eventPayload": "#" }).to_string();
                // The text contains the value with its escapes escaped again, then the value without
                // backslashes.
                for payload in [payload.clone(), payload.replace('\\', "")] {
                    let text = serde_json::to_string(&payload).unwrap();
                    let stored = within.replace("\"#\"", &text);
                    let read = event(&record(kind, "northlib", stored.as_bytes()));
                    assert_eq!(read.fact, plain.fact, "{kind:?} {stored}");
                }
            }
        }
    }
}

/// A loan policy may allow a grace of 0, and the loan still counts
/// (docs/contract/events.md#71-item_checked_out). `src/event/decode/fields_tests.rs` lists the forms.
#[test]
fn invalid_grace_period_still_opens_the_loan() {
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
