//! The readers of `GET /automated-patron-blocks/{userId}`, with and without `?include=explanation`
//! (docs/contract/insight.md#1-clients). Models of the readers interpret the responses of the service.

mod changed_responses;
mod models;
mod screens;

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    api_client::{ApiClient, ApiResponse},
    clients::{Client, STAFF},
};
use crate::support::{
    payloads::{balance_change, check_out, minutes_from_now, now},
    world::World,
};
use models::{FLAGS, READERS, Reader, SIP2_MESSAGE, blocks, circulation_error};

/// Names that some reader interprets in another way, or that belong to manual blocks.
const FORBIDDEN: [&str; 10] = [
    "type",
    "expirationDate",
    "desc",
    "borrowing",
    "renewals",
    "requests",
    "userId",
    "code",
    "patronMessage",
    "staffInformation",
];

const BORROWING: [bool; 3] = [true, false, false];
const OTHERS: [bool; 3] = [false, true, true];

/// One patron per answer: free, blocked for renewals and requests, and blocked for all actions.
struct Patrons {
    free: Uuid,
    late: Uuid,
    blocked: Uuid,
}

/// The messages of the blocked patron, in the order of the limits.
const MESSAGES: [&str; 4] =
    ["You have 3 items of 3.", "You have 3 items of 2.", "Bring back 1 of 1 late items.", ""];

async fn set_condition(world: &World, measure: Measure, flags: [bool; 3], message: &str) {
    let path = format!("/patron-block-conditions/{}", measure.condition_id());
    let mut condition = world.get_json(&path).await;
    FLAGS.into_iter().zip(flags).for_each(|(name, flag)| condition[name] = json!(flag));
    condition["message"] = json!(message);
    assert_eq!(world.put(&path, &condition).await.0, 204);
}

async fn borrow(world: &World, user: Uuid, minutes: i64) {
    let loan = check_out(user, Uuid::new_v4(), &minutes_from_now(minutes));
    world.publish(Kind::ItemCheckedOut, &loan).await;
}

async fn add_patrons(world: &World) -> Patrons {
    let group = Uuid::new_v4();
    for (measure, value) in [
        (Measure::ChargedOut, 3.0),
        (Measure::ChargedOut, 2.0),
        (Measure::OverdueItems, 0.0),
        (Measure::FeeFineBalance, 5.0),
    ] {
        world.add_limit(group, measure, value).await;
    }
    let items = "You have {measured} items of {limit}.";
    let late = "Bring back {toReturn} of {overdue} late items.";
    set_condition(world, Measure::ChargedOut, BORROWING, items).await;
    set_condition(world, Measure::OverdueItems, OTHERS, late).await;
    // The API rejects a condition that blocks without a message, but old rows may have none.
    let balance = Measure::FeeFineBalance.condition_id();
    world
        .execute_sql(&format!(
            "update {{schema}}.patron_block_conditions
                set jsonb = jsonb_set(jsonb, '{{message}}', '\"\"') where id = '{balance}'"
        ))
        .await;

    let add_patron = || world.users.add_patron(group);
    let patrons = Patrons { free: add_patron(), late: add_patron(), blocked: add_patron() };
    borrow(world, patrons.free, 60).await;
    borrow(world, patrons.late, -60).await;
    for minutes in [-60, 60, 60] {
        borrow(world, patrons.blocked, minutes).await;
    }
    let fee = balance_change(patrons.blocked, Uuid::new_v4(), None, 7.5);
    world.publish(Kind::FeeFineBalanceChanged, &fee).await;
    world.until_committed().await;
    world
        .until("the message is empty", async |world: &World| {
            let path = format!("/automated-patron-blocks/{}", patrons.blocked);
            world.get_json(&path).await["automatedPatronBlocks"][3]["message"] == json!("")
        })
        .await;
    patrons
}

/// Sends the request of a reader.
async fn request(
    api: &ApiClient<'_>,
    reader: &Reader,
    user: Uuid,
    include: Option<&str>,
) -> ApiResponse {
    let client = Client::new(api, Some(reader.accept), Some(STAFF));
    let query: Vec<&str> = reader.query.into_iter().chain(include).collect();
    let separator = if query.is_empty() { "" } else { "?" };
    let path = format!("/automated-patron-blocks/{user}{separator}{}", query.join("&"));
    let response = client.send("GET", &path, None).await;
    assert_eq!(response.status, 200, "{}: {response:?}", reader.name);
    response
}

fn circulation_errors(messages: &[&str]) -> Vec<Value> {
    messages.iter().map(|message| circulation_error(Some(message))).collect()
}

fn modal(rows: &[&str], further: bool) -> Value {
    json!({ "rows": rows, "further": further, "distinctKeys": true })
}

fn expected_for_free(reader: &str) -> Value {
    match reader {
        "edge-sip2" => json!({ "patronStatus": " ".repeat(14), "screenMessages": [] }),
        "edge-users" => json!({ "blocked": false }),
        "mod-circulation" => json!({ "check-out": [], "renewal": [], "request": [] }),
        "mod-inn-reach" => json!({ "requestAllowed": true }),
        "mod-ncip" => json!({ "user": "Dahl, Edda", "lookup": "OK", "checkOut": "OK" }),
        "ui-checkout" => modal(&[], false),
        "ui-users" => json!({ "details": [], "renewal": modal(&[], false) }),
        _ => panic!("no expectation for {reader}"),
    }
}

fn expected_for_late(reader: &str) -> Value {
    let message = "Bring back 1 of 1 late items.";
    let errors = circulation_errors(&[message]);
    match reader {
        "edge-sip2" => json!({ "patronStatus": " YYY          ", "screenMessages": [message] }),
        "edge-users" => json!({ "blocked": true }),
        "mod-circulation" => json!({ "check-out": [], "renewal": errors, "request": errors }),
        "mod-inn-reach" => json!({ "requestAllowed": false }),
        "mod-ncip" => json!({ "user": "Dahl, Edda", "lookup": "BLOCKED", "checkOut": "OK" }),
        "ui-checkout" => modal(&[], false),
        "ui-users" => json!({
            "details": [["Automated", message, "renewals, requests"]],
            "renewal": modal(&[message], false),
        }),
        _ => panic!("no expectation for {reader}"),
    }
}

fn expected_for_blocked(reader: &str) -> Value {
    let [first, second, late, empty] = MESSAGES;
    match reader {
        "edge-sip2" => json!({
            "patronStatus": "Y".repeat(14), "screenMessages": [first, second, late, SIP2_MESSAGE],
        }),
        "edge-users" => json!({ "blocked": true }),
        "mod-circulation" => json!({
            "check-out": circulation_errors(&[first, second, empty]),
            "renewal": circulation_errors(&[late, empty]),
            "request": circulation_errors(&[late, empty]),
        }),
        "mod-inn-reach" => json!({ "requestAllowed": false }),
        "mod-ncip" => json!({ "user": "Dahl, Edda", "lookup": "BLOCKED", "checkOut": "BLOCKED" }),
        // The newest limit comes first.
        "ui-checkout" => modal(&[empty, second, first], false),
        "ui-users" => json!({
            "details": [
                ["Automated", empty, "borrowing, renewals, requests"],
                ["Automated", late, "renewals, requests"],
                ["Automated", second, "borrowing"],
                ["Automated", first, "borrowing"],
            ],
            "renewal": modal(&[empty, late], false),
        }),
        _ => panic!("no expectation for {reader}"),
    }
}

/// Checks the members of a response: one member with the blocks, and no forbidden name in a block.
fn check_members(response: &ApiResponse, is_explained: bool) {
    let body = response.json();
    let names: Vec<&String> = body.as_object().unwrap().keys().collect();
    assert_eq!(
        names,
        ["automatedPatronBlocks"],
        "mod-inn-reach reads any other member as its list"
    );
    for block in body["automatedPatronBlocks"].as_array().unwrap() {
        for name in FORBIDDEN {
            assert!(block.get(name).is_none(), "{name}: {block}");
        }
        for name in FLAGS {
            assert!(block[name].is_boolean(), "{name}: {block}");
        }
        for name in ["id", "patronBlockConditionId"] {
            let id = block[name].as_str().map(str::parse::<Uuid>);
            assert!(matches!(id, Some(Ok(_))), "{name}: {block}");
        }
        assert!(block["message"].is_string(), "{block}");
        for date in ["createdDate", "updatedDate"] {
            let at = block["metadata"][date].as_str().map(DateTime::parse_from_rfc3339);
            assert!(matches!(at, Some(Ok(_))), "{date}: {block}");
        }
        assert_eq!(block.get("explanation").is_some(), is_explained, "{block}");
        let length = block.as_object().unwrap().len();
        assert_eq!(length, 7 + usize::from(is_explained), "another member: {block}");
    }
}

/// Each reader interprets a response with numbers like one without numbers.
#[tokio::test(flavor = "multi_thread")]
async fn every_reader_sees_the_blocks_of_a_patron() {
    World::run(async |world| {
        let patrons = add_patrons(world).await;
        let api = ApiClient::new(world);
        for (user, expected) in [
            (patrons.free, expected_for_free as fn(&str) -> Value),
            (patrons.late, expected_for_late),
            (patrons.blocked, expected_for_blocked),
        ] {
            for reader in &READERS {
                for include in [None, Some("include=explanation")] {
                    let response = request(&api, reader, user, include).await;
                    check_members(&response, include.is_some());
                    let reading = (reader.read)(&response.body);
                    let what = format!("{}, {include:?}: {}", reader.name, response.body);
                    assert_eq!(reading, Ok(expected(reader.name)), "{what}");
                }
            }
        }
    })
    .await;
}

/// Returns a manual block as mod-feesfines returns it.
fn manual_block(desc: &str, at: DateTime<Utc>, expiration: Option<DateTime<Utc>>) -> Value {
    let date = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string();
    let mut block = json!({
        "id": Uuid::new_v4(), "type": "Manual", "desc": desc, "staffInformation": "",
        "patronMessage": "", "borrowing": true, "renewals": true, "requests": true,
        "userId": Uuid::new_v4(),
        "metadata": { "createdDate": date(at), "updatedDate": date(at) },
    });
    if let Some(at) = expiration {
        block["expirationDate"] = json!(date(at));
    }
    block
}

fn without_dates(mut blocks: Vec<Value>) -> Vec<Value> {
    for block in &mut blocks {
        block.as_object_mut().unwrap().remove("metadata");
    }
    blocks
}

/// A modal shows three blocks. Manual blocks that are newer than the limits come first.
#[tokio::test(flavor = "multi_thread")]
async fn automated_blocks_conceal_no_newer_manual_block() {
    World::run(async |world| {
        let patrons = add_patrons(world).await;
        let api = ApiClient::new(world);
        let (day, now) = (TimeDelta::days(1), now());
        let manual = [
            manual_block("Card found", now - day, None),
            manual_block("Talk to Ms Noor", now + TimeDelta::hours(1), None),
            manual_block("Wrong address", now + TimeDelta::hours(2), Some(now + day)),
            manual_block("Expired", now + TimeDelta::hours(3), Some(now - day)),
        ];
        let [first, second, late, empty] = MESSAGES;
        for reader in READERS.iter().filter(|reader| reader.name.starts_with("ui-")) {
            for include in [None, Some("include=explanation")] {
                let response = request(&api, reader, patrons.blocked, include).await;
                let automated = blocks(&response.body).unwrap();
                let (address, talk) = ("Wrong address", "Talk to Ms Noor");
                let check_out = screens::check_out_modal(&manual, &automated);
                assert_eq!(check_out, modal(&[address, talk, empty], true));
                let renewal = screens::renewal_modal(&manual, &automated);
                assert_eq!(renewal, modal(&["Expired", address, talk], true));
                let details = screens::details_table(&manual, &automated);
                let texts: Vec<_> = details.as_array().unwrap().iter().map(|row| &row[1]).collect();
                assert_eq!(texts, [address, talk, empty, late, second, first, "Card found"]);

                // Without dates, the automated blocks would fill the modal.
                let undated = screens::check_out_modal(&manual, &without_dates(automated));
                assert_eq!(undated, modal(&[first, second, empty], true));
            }
        }
    })
    .await;
}
