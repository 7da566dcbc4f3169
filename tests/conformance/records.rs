//! Blocks, summaries, conditions and limits (docs/contract/http-api.md#2-blocks to
//! docs/contract/http-api.md#5-limits).

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    api_client::{ApiClient, ApiRequest, ApiResponse},
    run,
};
use crate::support::{
    payloads::{balance_change, check_out, minutes_from_now},
    world::TENANT,
};

const LOST: Uuid = Measure::LostItems.condition_id();
const NOT_A_UUID: &str = "Invalid UUID format of id, should be xxxxxxxx-xxxx-Mxxx-Nxxx-xxxxxxxxxxxx \
    where M is 1-5 and N is 8, 9, a, b, A or B and x is 0-9, a-f or A-F.";
const NOT_NULL: [&str; 2] = ["must not be null", "jakarta.validation.constraints.NotNull.message"];
const PATTERN: &str = "jakarta.validation.constraints.Pattern.message";

/// Ids that Java's pattern rejects: text, nil, version 6 and 7, another variant, no hyphens.
const INVALID_UUIDS: [&str; 7] = [
    "abc",
    "00000000-0000-0000-0000-000000000000",
    "1ec9414c-232a-6b00-b3c8-9e6bdeced846",
    "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
    "7b1f0c52-9a3e-4d0e-cf66-2c4f5a9d1e01",
    "7b1f0c529a3e4d0e8f662c4f5a9d1e01",
    "%FF",
];

#[tokio::test(flavor = "multi_thread")]
async fn explanations_require_a_valid_patron_id() {
    run("explanations_require_a_valid_patron_id", async |api| {
        for id in &INVALID_UUIDS[..6] {
            let answer = api.get(&format!("/patron-blocks/explanations/{id}")).await;
            answer.assert_is(400, &format!("Invalid user UUID: \"{id}\""));
        }
        let user = Uuid::new_v4();
        let path = format!("/patron-blocks/explanations/{user}");
        for limit in ["-1", "2147483648", "x"] {
            let answer = api.get(&format!("{path}?loanLimit={limit}")).await;
            let rule = format!("loanLimit must be from 0 to 2147483647, but it is \"{limit}\"");
            answer.assert_is(400, &rule);
        }
        assert_eq!(api.get(&path).await.json()["totals"]["loans"], 0);
        let (group, loan) = (Uuid::new_v4(), Uuid::new_v4());
        api.world.users.set_group(user, group);
        for measure in Measure::ALL {
            api.world.add_limit(group, measure, 0.0).await;
        }
        let out = check_out(user, loan, &minutes_from_now(-60));
        api.world.publish(Kind::ItemCheckedOut, &out).await;
        let owed = balance_change(user, Uuid::new_v4(), Some(loan), 12.5);
        api.world.publish(Kind::FeeFineBalanceChanged, &owed).await;
        api.world.until_committed().await;
        let found = api.get(&format!("{path}?loanLimit=0")).await.json();
        assert_eq!(found["limits"].as_array().unwrap().len(), 6);
        assert_eq!(found["loans"], json!([]));
        assert_eq!(found["actions"]["borrowing"]["wayOut"]["onlyWhenNothingIsOpen"], true);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_and_summaries_require_a_valid_patron_id() {
    run("blocks_and_summaries_require_a_valid_patron_id", async |api| {
        for id in &INVALID_UUIDS[..6] {
            let answer = api.get(&format!("/automated-patron-blocks/{id}")).await;
            answer.assert_is(400, &format!("Invalid user UUID: \"{id}\""));
            let answer = api.get(&format!("/user-summary/{id}")).await;
            answer.assert_is(400, &format!("Invalid user ID: \"{id}\""));
        }
        let user = Uuid::new_v4();
        let blocks = format!("/automated-patron-blocks/{user}");
        let summary = format!("/user-summary/{user}");
        api.get(&blocks).await.assert_is(200, "{\"automatedPatronBlocks\":[]}");
        api.get(&summary)
            .await
            .assert_is(404, &format!("User summary for user ID {user} not found"));

        let (group, loan, owed) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        api.world.users.set_group(user, group);
        // A pair of group and condition may have several limits; a second limit is a second block.
        api.world.add_limit(group, Measure::ChargedOut, 0.0).await;
        api.world.add_limit(group, Measure::ChargedOut, 0.0).await;
        let out = check_out(user, loan, &minutes_from_now(60));
        api.world.publish(Kind::ItemCheckedOut, &out).await;
        api.world
            .publish(Kind::FeeFineBalanceChanged, &balance_change(user, owed, Some(loan), 12.5))
            .await;
        api.world.until_committed().await;
        let found = api.get(&blocks).await.json();
        assert_eq!(found["automatedPatronBlocks"].as_array().unwrap().len(), 2);
        let members: Vec<_> =
            found["automatedPatronBlocks"][0].as_object().unwrap().keys().collect();
        assert_eq!(
            members,
            [
                "blockBorrowing",
                "blockRenewals",
                "blockRequests",
                "id",
                "message",
                "metadata",
                "patronBlockConditionId"
            ]
        );
        let found = api.get(&summary).await.json();
        let again = api.get(&summary).await.json();
        assert_eq!(found["id"], again["id"], "the id is stored unchanged");
        assert_eq!(found["openFeesFines"][0]["balance"], json!(12.5));
        let due = found["openLoans"][0]["dueDate"].as_str().unwrap();
        assert!(due.len() == 29 && due.ends_with("+00:00"), "{due}");
    })
    .await;
}

/// Checks the parameters of a collection: an invalid number, CQL query or count mode is rejected.
async fn assert_list_parameters(api: &ApiClient<'_>, path: &str) {
    for bad in [
        "limit=-1",
        "limit=x",
        "limit=2147483648",
        "offset=-1",
        "offset=1.5",
        "offset=99999999999999999999",
        "totalRecords=all",
        "query=name",
        "query=%28",
        "query=name%3D%3D%22%00%22",
    ] {
        let answer = api.get(&format!("{path}?{bad}")).await;
        assert_eq!(answer.status, 400, "{bad}: {answer:?}");
    }
    let pointed = api.get(&format!("{path}?query=id%3D%3Dx%20y")).await;
    pointed.assert_is(
        400,
        "query: expected and, or, not, sortby or the end at character 7, but found \"y\"",
    );
    let total = api.get(path).await.json()["totalRecords"].clone();
    for counting in ["exact", "estimated", "none", "auto"] {
        let path = format!("{path}?limit=0&totalRecords={counting}&query=");
        let counted = api.get(&path).await.json();
        assert_eq!(counted["totalRecords"], total, "{counting}");
        assert!(counted.as_object().unwrap().values().any(|v| *v == json!([])), "{counted}");
    }
    let beyond = api.get(&format!("{path}?offset=2147483647&limit=2147483647")).await.json();
    assert_eq!(beyond["totalRecords"], total);
    assert!(beyond.as_object().unwrap().values().any(|v| *v == json!([])), "{beyond}");
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_read_and_updated() {
    run("conditions_are_read_and_updated", async |api| {
        assert_list_parameters(api, "/patron-block-conditions").await;
        let path = format!("/patron-block-conditions/{LOST}");
        let seeded = api.get(&path).await.json();
        assert_eq!(seeded["message"], "");
        for id in INVALID_UUIDS {
            api.get(&format!("/patron-block-conditions/{id}")).await.assert_is(404, NOT_A_UUID);
        }
        let unknown_path = format!("/patron-block-conditions/{}", Uuid::new_v4());
        api.get(&unknown_path).await.assert_is(404, "Not found");

        for required in
            ["id", "name", "blockBorrowing", "blockRenewals", "blockRequests", "valueType"]
        {
            for absent in [None, Some(Value::Null)] {
                let mut body = seeded.clone();
                body.as_object_mut().unwrap().remove(required);
                body.as_object_mut()
                    .unwrap()
                    .extend(absent.map(|null| (required.to_owned(), null)));
                let error = api.put(&path, &body).await.validation_error();
                assert_eq!(error, [NOT_NULL[0], NOT_NULL[1], required, "null"]);
            }
        }
        for (member, wrong) in [
            ("name", json!(1)),
            ("blockBorrowing", json!("yes")),
            ("valueType", json!("Float")),
            ("message", json!(["x"])),
            ("unknown", json!("a\0b")),
        ] {
            let body = with(&seeded, member, wrong);
            assert_eq!(api.put(&path, &body).await.status, 400, "{member}");
        }
        let [_, code, key, value] =
            api.put(&path, &with(&seeded, "id", json!("abc"))).await.validation_error();
        assert_eq!([code.as_str(), &key, &value], [PATTERN, "id", "abc"]);
        let bad = api.put("/patron-block-conditions/abc", &seeded).await.validation_error();
        assert_eq!(bad, [NOT_A_UUID, "-1", "patron_block_conditions.id", "abc"]);
        assert_message_rules(api, &path, &seeded).await;
        api.put(&unknown_path, &seeded).await.assert_is(404, "Not found");

        // The id of the path wins, the metadata of the client is ignored, and unknown members are
        // stored.
        let mut sent = with(&seeded, "id", json!(Uuid::new_v4()));
        sent["metadata"] = json!({ "createdDate": "1999-01-01", "createdByUserId": "unknown" });
        sent["unknown"] = json!({ "number": [1.50, null] });
        sent["valueType"] = json!("Double");
        let before = api.get(&path).await.json()["metadata"].clone();
        api.put(&path, &sent).await.assert_is(204, "");
        let stored = api.get(&path).await.json();
        assert_eq!(stored["id"], seeded["id"]);
        assert_eq!(
            (&stored["unknown"], &stored["valueType"]),
            (&sent["unknown"], &sent["valueType"])
        );
        let metadata = &stored["metadata"];
        assert_eq!(metadata["createdDate"], before["createdDate"]);
        assert!(metadata["updatedDate"].as_str() > before["updatedDate"].as_str(), "{metadata}");
        assert!(metadata.get("createdByUserId").is_none(), "{metadata}");
    })
    .await;
}

fn with(record: &Value, member: &str, value: Value) -> Value {
    let mut record = record.clone();
    record[member] = value;
    record
}

/// Checks the rules for message and flags.
async fn assert_message_rules(api: &ApiClient<'_>, path: &str, seeded: &Value) {
    let needed =
        "Message to be displayed is a required field if one or more blocked actions selected";
    let idle =
        "One or more blocked actions must be selected for message to be displayed to be used";
    for blank in [Value::Null, json!(""), json!(" \t")] {
        let blocking = with(&with(seeded, "message", blank.clone()), "blockRequests", json!(true));
        let error = api.put(path, &blocking).await.validation_error();
        assert_eq!(error, [needed, "-1", "patron block condition id", &LOST.to_string()]);
        api.put(path, &with(seeded, "message", blank)).await.assert_is(204, "");
    }
    let error = api.put(path, &with(seeded, "message", json!("Stop"))).await.validation_error();
    assert_eq!(error, [idle, "-1", "patron block condition id", &LOST.to_string()]);
}

fn limit(value: Value) -> Value {
    json!({ "id": Uuid::new_v4(), "patronGroupId": Uuid::new_v4(), "conditionId": LOST, "value": value })
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_created_read_updated_and_deleted() {
    run("limits_are_created_read_updated_and_deleted", async |api| {
        assert_list_parameters(api, "/patron-block-limits").await;
        let sent = limit(json!(3));
        let id = sent["id"].as_str().unwrap().to_owned();
        let path = format!("/patron-block-limits/{id}");
        let made =
            api.post("/patron-block-limits", &with(&sent, "id", json!(id.to_uppercase()))).await;
        assert_eq!((made.status, made.location.as_deref()), (201, Some(&*id)), "a bare id");
        assert_eq!(api.get(&path).await.json(), made.json());
        assert_metadata_authors(api).await;

        for (value, stored) in [
            (json!("10"), 10.0),
            (json!("00.0"), 0.0),
            (json!(7.0), 7.0),
            (json!(999_999), 999_999.0),
        ] {
            api.put(&path, &with(&sent, "value", value)).await.assert_is(204, "");
            let value = api.get(&path).await.json()["value"].clone();
            assert!(value.is_number() && value.as_f64() == Some(stored), "{value}");
        }
        let balance = json!(Measure::FeeFineBalance.condition_id());
        let money = with(&sent, "conditionId", balance);
        for value in [json!(0), json!(0.001), json!("10.4"), json!(999_999.99)] {
            api.put(&path, &with(&money, "value", value)).await.assert_is(204, "");
        }
        for id in INVALID_UUIDS {
            let path = format!("/patron-block-limits/{id}");
            api.get(&path).await.assert_is(404, NOT_A_UUID);
            api.delete(&path).await.assert_is(400, NOT_A_UUID);
        }
        let bad = api.put("/patron-block-limits/abc", &sent).await.validation_error();
        assert_eq!(bad, [NOT_A_UUID, "-1", "patron_block_limits.id", "abc"]);
        let unknown_path = format!("/patron-block-limits/{}", Uuid::new_v4());
        api.get(&unknown_path).await.assert_is(404, "Not found");
        api.put(&unknown_path, &sent).await.assert_is(404, "Not found");
        api.delete(&unknown_path).await.assert_is(404, "Not found");
        assert_invalid_limits(api, "POST", "/patron-block-limits").await;
        assert_invalid_limits(api, "PUT", &path).await;
        let again = api.post("/patron-block-limits", &sent).await.validation_error();
        let message = format!("id value already exists in table patron_block_limits: {id}");
        assert_eq!(again, [&message, "-1", "id", &id]);
        api.delete(&path).await.assert_is(204, "");
        api.get(&path).await.assert_is(404, "Not found");
    })
    .await;
}

/// Checks bodies that POST and PUT reject.
async fn assert_invalid_limits(api: &ApiClient<'_>, method: &str, path: &str) {
    let send = async |body: &Value| -> ApiResponse { api.request(method, path, Some(body)).await };
    for required in ["id", "patronGroupId", "conditionId", "value"] {
        let mut body = limit(json!(1));
        body.as_object_mut().unwrap().remove(required);
        assert_eq!(
            send(&body).await.validation_error(),
            [NOT_NULL[0], NOT_NULL[1], required, "null"]
        );
    }
    for member in ["id", "patronGroupId", "conditionId"] {
        for bad in &INVALID_UUIDS[..6] {
            let [_, code, key, value] =
                send(&with(&limit(json!(1)), member, json!(bad))).await.validation_error();
            assert_eq!([code.as_str(), &key, &value], [PATTERN, member, bad]);
        }
    }
    for wrong in [json!("ten"), json!("NaN"), json!("inf"), json!(true), json!([1])] {
        assert_eq!(send(&limit(wrong.clone())).await.status, 400, "{wrong}");
    }
    let integer = "Must be blank or an integer from 0 to 999999";
    let money = "Must be blank or a number from 0.00 to 999999.99";
    let balance = Measure::FeeFineBalance.condition_id();
    for (condition, value, message, shown) in [
        (LOST, json!(10.2), integer, "10.2"),
        (LOST, json!("1000000"), integer, "1000000.0"),
        (LOST, json!(-1), integer, "-1.0"),
        (Uuid::new_v4(), json!(0.5), integer, "0.5"),
        (balance, json!(1_000_000), money, "1000000.0"),
        (balance, json!(-0.01), money, "-0.01"),
    ] {
        let body = with(&limit(value), "conditionId", json!(condition));
        assert_eq!(send(&body).await.validation_error(), [message, "-1", "value", shown]);
    }
    let unknown = Uuid::new_v4();
    let key = "patron_block_limits.conditionid";
    let message = format!(
        "Cannot set {key} = {unknown} because it does not exist in patron_block_conditions.id."
    );
    let body = with(&limit(json!(1)), "conditionId", json!(unknown));
    assert_eq!(send(&body).await.validation_error(), [&message, "-1", key, &unknown.to_string()]);
    let body = with(&limit(json!(1)), "unknown", json!("a\0b"));
    assert_eq!(send(&body).await.status, 400, "the database cannot store the value");
}

/// Checks the user in the metadata: from the header, else from the token, else absent.
async fn assert_metadata_authors(api: &ApiClient<'_>) {
    let claims = BASE64_URL_SAFE_NO_PAD.encode(json!({ "user_id": "of the token" }).to_string());
    let token = format!("x.{claims}.x");
    let tenant = ("X-Okapi-Tenant", TENANT);
    let (token, user) = (("X-Okapi-Token", &*token), ("X-Okapi-User-Id", "111111111"));
    for (headers, author) in [
        (vec![tenant], None),
        (vec![tenant, ("X-Okapi-Token", "no token")], None),
        (vec![tenant, token], Some("of the token")),
        (vec![tenant, token, user], Some("111111111")),
    ] {
        let body = limit(json!(1)).to_string();
        let ask = ApiRequest {
            method: "POST",
            path: "/patron-block-limits",
            headers: &headers,
            body: Some(&body),
        };
        let metadata = api.send(ask).await.json()["metadata"].clone();
        for name in ["createdByUserId", "updatedByUserId"] {
            assert_eq!(metadata.get(name).map(|id| id.as_str().unwrap()), author, "{metadata}");
        }
        let created = metadata["createdDate"].as_str().unwrap();
        assert!(created.len() == 29 && created.ends_with("+00:00"), "{created}");
    }
}
