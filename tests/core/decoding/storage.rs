//! Changes of loans and users from storage modules (docs/contract/events.md#43-change and
//! docs/contract/events.md#8-storage). Each type of change in both variants of the envelope, and members
//! absent, null and of a wrong type.

use chrono::TimeDelta;
use patron_blocks::{
    event::{DecodeOutcome, Fact, Kind, Reason, Stamp, decode::storage_record},
    patron::Loan,
};
use serde_json::{Value, json};
use uuid::{Uuid, uuid};

use super::{decode_record, event, outcome, record};

const LOAN: Uuid = uuid!("0c9a4d7e-51b2-4c3f-9a10-6d2e8b7f4a11");
const USER: Uuid = uuid!("7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01");
const GROUP: &str = "503732a7-0dc8-455c-9be9-3ff90c51f6a7";
const KINDS: [Kind; 2] = [Kind::StoredLoan, Kind::StoredUser];

fn loan() -> Value {
    json!({
        "id": LOAN, "userId": USER, "status": { "name": "Open" }, "itemStatus": "Checked out",
        "dueDate": "2026-09-13T21:59:59.000+00:00",
    })
}

fn user() -> Value {
    json!({ "id": USER, "patronGroup": GROUP, "personal": { "lastName": "Dahl" } })
}

fn entity(kind: Kind) -> Value {
    if kind == Kind::StoredLoan { loan() } else { user() }
}

fn with(mut entity: Value, member: &str, value: Value) -> Value {
    entity[member] = value;
    entity
}

fn without(mut entity: Value, member: &str) -> Value {
    entity.as_object_mut().unwrap().remove(member).unwrap();
    entity
}

fn envelope(done: &str, data: Value) -> Value {
    json!({
        "id": "2b7e4f81-90ac-4d5e-b1f3-6c8a0d9e4b77", "type": done, "tenant": "northlib",
        "timestamp": 1_788_300_000_123_i64, "data": data,
    })
}

fn changed_to(entity: &Value) -> Value {
    envelope("UPDATED", json!({ "old": entity, "new": entity }))
}

fn fact(kind: Kind, value: &Value) -> Fact {
    event(&record(kind, "northlib", value.to_string().as_bytes())).fact
}

fn reject_of(kind: Kind, value: &Value) -> (Reason, &'static str) {
    match decode_record(&record(kind, "northlib", value.to_string().as_bytes())) {
        DecodeOutcome::Rejected(_, reject) => (reject.reason, reject.field.unwrap()),
        other => panic!("not parked: {other:?}"),
    }
}

#[test]
fn entity_changes_are_decoded_in_both_envelope_variants() {
    let (snapshot, ended) =
        (fact(Kind::StoredLoan, &changed_to(&loan())), Fact::LoanSnapshotClosed { loan: LOAN });
    let group_changed = |group: Option<&str>| Fact::PatronGroupChanged {
        user: USER,
        group: group.map(str::to_owned),
    };
    for (done, older, member) in
        [("CREATED", "CREATE", "new"), ("UPDATED", "UPDATE", "new"), ("DELETED", "DELETE", "old")]
    {
        for kind in KINDS {
            let expected = match (kind, member) {
                (Kind::StoredLoan, "new") => snapshot.clone(),
                (Kind::StoredLoan, _) => ended.clone(),
                (_, "new") => group_changed(Some(GROUP)),
                _ => group_changed(None),
            };
            let data = json!({ member: entity(kind) });
            assert_eq!(fact(kind, &envelope(done, data)), expected, "{kind:?} {done}");
            let flat = json!({
                "type": older, "tenant": "northlib", "eventTs": "1788300000123",
                "eventId": "2b7e4f81-90ac-4d5e-b1f3-6c8a0d9e4b77", member: entity(kind),
            });
            assert_eq!(fact(kind, &flat), expected, "{kind:?} {older}");
        }
    }
    for done in ["ALL_DELETED", "DELETE_ALL"] {
        for all in [envelope(done, json!({})), json!({ "type": done })] {
            assert_eq!(fact(Kind::StoredLoan, &all), Fact::AllLoansDeleted, "{done}");
            let of_users = record(Kind::StoredUser, "northlib", all.to_string().as_bytes());
            assert_eq!(outcome(&of_users), "northlib: skipped");
        }
    }
}

#[test]
fn unknown_change_type_is_skipped() {
    for kind in KINDS {
        for done in ["REINDEX", "ITERATE", "MIGRATION", "updated", "x"] {
            let value = envelope(done, json!({ "new": entity(kind) })).to_string();
            let record = record(kind, "northlib", value.as_bytes());
            assert_eq!(outcome(&record), "northlib: skipped", "{done}");
        }
        let foreign = with(envelope("REINDEX", json!({})), "tenant", json!("southlib")).to_string();
        let record = record(kind, "northlib", foreign.as_bytes());
        assert_eq!(outcome(&record), "no tenant: tenant_mismatch tenant");
    }
}

#[test]
fn loan_flags_follow_the_storage_status_texts() {
    let of = |member: &str, value: Value| {
        fact(Kind::StoredLoan, &changed_to(&with(loan(), member, value)))
    };
    for status in ["Open", "open", "OPEN"] {
        let fact = of("status", json!({ "name": status, "more": 1 }));
        assert!(matches!(fact, Fact::LoanSnapshot { .. }), "{status}");
    }
    for status in ["Closed", "closed", "Opened", "Cancelled"] {
        let fact = of("status", json!({ "name": status }));
        assert_eq!(fact, Fact::LoanSnapshotClosed { loan: LOAN }, "{status}");
    }
    let flags = |item: Value| match of("itemStatus", item) {
        Fact::LoanSnapshot { lost, claimed_returned, by_recall: false, .. } => {
            (lost.unwrap(), claimed_returned.unwrap())
        }
        other => panic!("{other:?}"),
    };
    for (item, expected) in [
        (json!("Declared lost"), (true, false)),
        (json!("Aged to lost"), (true, false)),
        (json!("declared lost"), (false, false)),
        (json!("Claimed returned"), (false, true)),
        (json!("CLAIMED RETURNED"), (false, true)),
        (json!("Checked out"), (false, false)),
        (json!("Long missing"), (false, false)),
        (json!(""), (false, false)),
        (Value::Null, (false, false)),
    ] {
        assert_eq!(flags(item.clone()), expected, "{item}");
    }
    for (recall, expected) in
        [(json!(true), true), (json!(false), false), (json!(""), false), (Value::Null, false)]
    {
        let Fact::LoanSnapshot { by_recall, .. } = of("dueDateChangedByRecall", recall) else {
            panic!("the loan is open");
        };
        assert_eq!(by_recall, expected);
    }
}

/// An invalid status changes nothing: a lost or claimed returned item stays so.
#[test]
fn invalid_item_status_leaves_loan_flags_unchanged() {
    let of_loan = json!({ "loanId": LOAN, "userId": USER }).to_string();
    for (kind, expected) in
        [(Kind::ItemDeclaredLost, (true, false)), (Kind::ItemClaimedReturned, (false, true))]
    {
        let before = event(&record(kind, "northlib", of_loan.as_bytes()));
        let later = Stamp::from_snapshot(before.occurred_at + TimeDelta::minutes(1), LOAN);
        let (_, before) = Loan::from_event(&before).unwrap();
        for odd in [json!({ "name": "Declared lost" }), json!(7), json!(["Checked out"])] {
            let loan = with(loan(), "itemStatus", odd.clone());
            let of_topic = fact(Kind::StoredLoan, &changed_to(&loan));
            let of_page = storage_record::decode_loan(&loan.to_string()).unwrap();
            for fact in [of_topic, of_page] {
                let (_, after) = Loan::from_fact(later, &fact).unwrap();
                let open = before.clone().merge(after).as_open(None).unwrap();
                assert_eq!((open.lost, open.claimed_returned), expected, "{odd}");
            }
        }
    }
}

/// The due date and its recall flag are one register, so half of it cannot be merged.
#[test]
fn invalid_recall_flag_rejects_the_loan() {
    for odd in [json!("perhaps"), json!(1), json!({})] {
        let loan = with(loan(), "dueDateChangedByRecall", odd);
        let expected = (Reason::BadField, "dueDateChangedByRecall");
        assert_eq!(reject_of(Kind::StoredLoan, &changed_to(&loan)), expected);
        assert!(storage_record::decode_loan(&loan.to_string()).is_err());
    }
}

/// A closed loan may lack its user, and its other members are ignored.
#[test]
fn open_loan_needs_user_and_due_date_closed_loan_its_id() {
    let closed = with(loan(), "status", json!({ "name": "Closed" }));
    let deleted = |entity: Value| envelope("DELETED", json!({ "old": entity }));
    for member in ["userId", "dueDate"] {
        let missing = (Reason::MissingField, member);
        for incomplete in [without(loan(), member), with(loan(), member, Value::Null)] {
            assert_eq!(reject_of(Kind::StoredLoan, &changed_to(&incomplete)), missing);
        }
        let wrong = with(loan(), member, json!("no such"));
        assert_eq!(reject_of(Kind::StoredLoan, &changed_to(&wrong)), (Reason::BadField, member));
        for ended in [
            changed_to(&without(closed.clone(), member)),
            changed_to(&with(closed.clone(), member, json!([]))),
            deleted(without(loan(), member)),
            deleted(with(loan(), member, json!({}))),
        ] {
            assert_eq!(
                fact(Kind::StoredLoan, &ended),
                Fact::LoanSnapshotClosed { loan: LOAN },
                "{ended}"
            );
        }
    }
    for value in [changed_to(&without(closed, "id")), deleted(without(loan(), "id"))] {
        assert_eq!(reject_of(Kind::StoredLoan, &value), (Reason::MissingField, "id"));
    }
}

#[test]
fn missing_or_mistyped_member_is_named() {
    use Reason::{BadField, MissingField};
    let loans = [
        ("status", json!(7), (BadField, "status")),
        ("status", Value::Null, (MissingField, "status.name")),
        ("status", json!({}), (MissingField, "status.name")),
        ("status", json!({ "name": 7 }), (BadField, "status.name")),
        ("id", json!("1"), (BadField, "id")),
    ];
    for (member, value, expected) in loans {
        let value = changed_to(&with(loan(), member, value));
        assert_eq!(reject_of(Kind::StoredLoan, &value), expected);
    }
    let users = [
        ("id", Value::Null, (MissingField, "id")),
        ("id", json!(7), (BadField, "id")),
        ("patronGroup", json!(7), (BadField, "patronGroup")),
        ("patronGroup", json!({ "id": GROUP }), (BadField, "patronGroup")),
    ];
    for (member, value, expected) in users {
        let value = changed_to(&with(user(), member, value));
        assert_eq!(reject_of(Kind::StoredUser, &value), expected);
    }
    for kind in KINDS {
        for (value, expected) in [
            (entity(kind), (MissingField, "type")),
            (without(changed_to(&entity(kind)), "type"), (MissingField, "type")),
            (with(changed_to(&entity(kind)), "type", json!(7)), (BadField, "type")),
            (envelope("UPDATED", json!({})), (MissingField, "new")),
            (envelope("UPDATED", json!({ "new": [] })), (BadField, "new")),
            (envelope("CREATED", json!({ "old": entity(kind) })), (MissingField, "new")),
            (envelope("DELETED", json!({ "new": entity(kind) })), (MissingField, "old")),
            (envelope("UPDATED", json!("{}")), (BadField, "data")),
        ] {
            assert_eq!(reject_of(kind, &value), expected, "{value}");
        }
    }
}

/// Titles, names and notes of other tools may have any form.
#[test]
fn unread_entity_members_may_have_any_value() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    for kind in KINDS {
        let plain = fact(kind, &changed_to(&entity(kind)));
        for odd in [r#""\ud800""#, r#"{"lastName":"\udc00"}"#, "1e400", &deep] {
            let value = changed_to(&with(entity(kind), "personal", json!("#"))).to_string();
            let value = value.replace("\"#\"", odd);
            let read = event(&record(kind, "northlib", value.as_bytes())).fact;
            assert_eq!(read, plain, "{kind:?} {odd}");
        }
    }
}

#[test]
fn user_without_group_has_none() {
    for without in [
        without(user(), "patronGroup"),
        with(user(), "patronGroup", Value::Null),
        with(user(), "patronGroup", json!(" ")),
    ] {
        let none = Fact::PatronGroupChanged { user: USER, group: None };
        assert_eq!(fact(Kind::StoredUser, &changed_to(&without)), none);
    }
}

/// Of two snapshots in one millisecond, the id decides, or the position of a snapshot without an id.
/// Every business event of that millisecond is later than both.
#[test]
fn snapshot_key_and_stamp_follow_the_record_rules() {
    let key = |value: &Value, offset| {
        let mut record = record(Kind::StoredLoan, "northlib", value.to_string().as_bytes());
        record.position.offset = offset;
        let event = event(&record);
        (event.key, event.stamp)
    };
    let value = changed_to(&loan());
    assert_eq!(key(&value, 1), key(&value, 2), "a copy of a record is the same event");
    let later = with(value.clone(), "id", json!("3b7e4f81-90ac-4d5e-b1f3-6c8a0d9e4b77"));
    assert!(key(&value, 9).1 < key(&later, 1).1);
    let bare = without(value, "id");
    assert!(key(&later, 9).1 < key(&bare, 1).1 && key(&bare, 1).1 < key(&bare, 2).1);
    let out = json!({ "userId": USER, "loanId": LOAN, "dueDate": "2026-09-13" });
    let out = envelope("CREATED", out).to_string();
    let out = event(&record(Kind::ItemCheckedOut, "northlib", out.as_bytes())).stamp;
    assert!(key(&bare, i64::MAX).1 < out);
}
