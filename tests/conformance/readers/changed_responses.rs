//! Each model notices the changes of a response that would mislead its client.

use patron_blocks::blocks::Measure;
use serde_json::{Value, json};

use super::models::{READERS, Reading};

/// A response with one block of renewals and requests.
fn example() -> Value {
    json!({ "automatedPatronBlocks": [{
        "id": "5b0f3a9e-7d0c-4f4e-8f0f-3f0a4b0e9d11",
        "patronBlockConditionId": Measure::OverdueItems.condition_id(),
        "blockBorrowing": false, "blockRenewals": true, "blockRequests": true,
        "message": "Too many late items",
        "metadata": { "createdDate": "2026-09-15T11:52:07.000+00:00",
                      "updatedDate": "2026-09-15T11:52:07.000+00:00" },
    }]})
}

fn readings(body: &str) -> Vec<(&'static str, Reading)> {
    READERS.iter().map(|reader| (reader.name, (reader.read)(body))).collect()
}

/// Returns the readers that interpret a response in another way than the example.
fn misled_readers(body: &str) -> Vec<&'static str> {
    let right = readings(&example().to_string());
    let pairs = right.into_iter().zip(readings(body));
    pairs.filter(|(right, read)| right != read).map(|(right, _)| right.0).collect()
}

/// Returns the example with further members after the array.
fn with_members(members: &str) -> String {
    let example = example().to_string();
    format!("{},{members}}}", example.strip_suffix('}').unwrap())
}

#[test]
fn further_members_of_a_response_mislead_readers() {
    assert_eq!(misled_readers(&example().to_string()), [""; 0]);
    for (members, readers) in [
        (r#""totalRecords":1"#, &[][..]),
        (r#""total_records":1"#, &[]),
        (r#""resultInfo":{"pages":[1]}"#, &[]),
        (r#""certainty":[]"#, &["mod-inn-reach"]),
        (r#""certainty":null"#, &["mod-inn-reach"]),
        (r#""certainty":{}"#, &["mod-inn-reach"]),
        (r#""certainty":"late""#, &["mod-inn-reach"]),
        (r#""result":[]"#, &["mod-inn-reach"]),
        (r#""active":false"#, &["mod-inn-reach", "mod-ncip"]),
    ] {
        assert_eq!(misled_readers(&with_members(members)), readers, "{members}");
    }
}

/// An empty array makes a blocked patron appear unblocked; another type fails the verification.
#[test]
fn mod_inn_reach_reads_a_further_member_as_its_list() {
    let read = READERS.iter().find(|reader| reader.name == "mod-inn-reach").unwrap().read;
    assert_eq!(read(&example().to_string()), Ok(json!({ "requestAllowed": false })));
    for empty in ["[]", "null"] {
        let body = with_members(&format!(r#""certainty":{empty}"#));
        assert_eq!(read(&body), Ok(json!({ "requestAllowed": true })), "{empty}");
    }
    for other in ["{}", r#""late""#, "7"] {
        let error = read(&with_members(&format!(r#""certainty":{other}"#))).unwrap_err();
        assert!(error.starts_with("invalid type"), "{other}: {error}");
    }
}

#[test]
fn changed_members_of_a_block_mislead_readers() {
    let null = Value::Null;
    for (name, value, readers) in [
        ("further", json!({ "type": 3 }), &[][..]),
        ("id", null.clone(), &[]),
        ("type", json!("Limit"), &["ui-users"]),
        ("expirationDate", null.clone(), &["ui-users"]),
        ("expirationDate", json!("2026-01-01T00:00:00.000+00:00"), &["ui-users"]),
        ("desc", json!("Another text"), &["ui-users"]),
        ("borrowing", json!(true), &["ui-users"]),
        ("patronBlockConditionId", json!("late"), &["mod-inn-reach"]),
        ("message", null.clone(), &["edge-sip2", "mod-circulation", "ui-users"]),
        ("blockBorrowing", null.clone(), &["edge-users"]),
        (
            "blockBorrowing",
            json!(true),
            &["edge-sip2", "mod-circulation", "mod-ncip", "ui-checkout", "ui-users"],
        ),
        (
            "blockRenewals",
            null.clone(),
            &["edge-sip2", "edge-users", "mod-circulation", "ui-users"],
        ),
        (
            "blockRequests",
            null,
            &["edge-sip2", "mod-circulation", "mod-inn-reach", "mod-ncip", "ui-users"],
        ),
    ] {
        let mut body = example();
        body["automatedPatronBlocks"][0][name] = value.clone();
        assert_eq!(misled_readers(&body.to_string()), readers, "{name}: {value}");
    }
}
