//! The check of settings: over HTTP with the patron groups of mod-users, and on the command line without them.

use std::time::{Duration, Instant};

use patron_blocks::{blocks::Measure, config::Config, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    payloads::{check_out, loan_event, minutes_from_now},
    users_stub::UsersBehavior,
    world::{TENANT, World},
};

const PATH: &str = "/patron-blocks/settings-check";

async fn check(world: &World) -> Value {
    world.get_json(PATH).await
}

fn kinds(check: &Value) -> Vec<&str> {
    let findings = check["findings"].as_array().unwrap();
    findings.iter().map(|finding| finding["kind"].as_str().unwrap()).collect()
}

fn finding<'a>(check: &'a Value, kind: &str) -> &'a Value {
    let mut findings = check["findings"].as_array().unwrap().iter();
    findings.find(|finding| finding["kind"] == kind).unwrap_or_else(|| panic!("{kind}: {check}"))
}

fn group(id: Uuid, name: &str) -> (String, String) {
    (id.to_string(), name.to_owned())
}

/// Stores a limit as other programs left it.
async fn insert_limit(world: &World, record: &Value) {
    let id = Uuid::new_v4();
    let sql = format!(
        "insert into {{schema}}.patron_block_limits (id, jsonb, creation_date) values ('{id}', '{record}', now())"
    );
    world.execute_sql(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn findings_name_groups_and_count_their_patrons() {
    World::run(async |world| {
        let [staff, student, gone] = [(); 3].map(|()| Uuid::new_v4());
        // mod-users and the limits write ids in different cases.
        let uppercase = (staff.to_string().to_uppercase(), "staff".to_owned());
        world.users.set_patron_groups([uppercase, group(student, "student")]);
        let limit = world.add_limit(staff, Measure::ChargedOut, 0.0).await;
        let second = world.add_limit(staff, Measure::ChargedOut, 5.0).await;
        let orphan = world.add_limit(gone, Measure::ChargedOut, 0.0).await;
        for is_returned in [false, false, true] {
            let (user, loan) = (world.users.add_patron(staff), Uuid::new_v4());
            let out = check_out(user, loan, &minutes_from_now(60));
            world.publish(Kind::ItemCheckedOut, &out).await;
            world.until_committed().await;
            // The first evaluation stores the group of the patron.
            assert_eq!(world.evaluation_source(user).await, "group-from-users");
            if is_returned {
                // The patron has no open item afterwards, and does not count.
                world.publish(Kind::ItemCheckedIn, &loan_event(user, loan)).await;
                world.until_committed().await;
            }
        }
        let lost = Measure::LostItems.condition_id();
        insert_limit(
            world,
            &json!({ "id": Uuid::new_v4(), "patronGroupId": student, "conditionId": lost }),
        )
        .await;
        insert_limit(world, &json!({ "id": Uuid::new_v4(), "patronGroupId": student, "value": 1 }))
            .await;
        insert_limit(world, &json!({ "id": Uuid::new_v4(), "value": 1 })).await;

        let found = check(world).await;
        assert_eq!((&found["groupsChecked"], &found["groups"]), (&json!(true), &json!(2)));
        assert_eq!((&found["limits"], &found["conditions"]), (&json!(6), &json!(6)));
        assert_eq!(
            kinds(&found),
            [
                "unreadable-limit",
                "limit-without-value",
                "unknown-condition",
                "duplicate-limit",
                "condition-blocks-nothing",
                "unknown-group",
                "charged-out-zero",
                "group-without-limit",
            ]
        );
        assert_eq!(found["totalRecords"], 8);
        let duplicate = finding(&found, "duplicate-limit");
        assert_eq!(duplicate["severity"], "error");
        assert_eq!(duplicate["measure"], "charged-out");
        assert_eq!(duplicate["patronBlockLimitIds"], json!([limit["id"], second["id"]]));
        assert_eq!(duplicate["patronGroups"], json!([{ "id": staff, "name": "staff" }]));
        assert_eq!(duplicate["patronsWithOpenItems"], 2);
        let unknown = finding(&found, "unknown-group");
        assert_eq!(unknown["patronGroups"], json!([{ "id": gone }]));
        assert_eq!(unknown["patronBlockLimitIds"], json!([orphan["id"]]));
        assert_eq!(unknown["patronsWithOpenItems"], 0);
        let unlimited = finding(&found, "group-without-limit");
        assert_eq!(unlimited["patronGroups"], json!([{ "id": student, "name": "student" }]));
        assert_eq!(finding(&found, "unreadable-limit").get("patronsWithOpenItems"), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_without_patron_groups_has_all_other_findings() {
    let long_breaker_pause =
        |config: &mut Config| config.okapi.breaker.open_duration = Duration::from_secs(600);
    World::run_with(long_breaker_pause, async |world| {
        world.add_limit(Uuid::new_v4(), Measure::ChargedOut, 0.0).await;
        world.users.set_patron_groups([group(Uuid::new_v4(), "staff")]);
        let with_groups = ["unknown-group", "group-without-limit"];
        assert_eq!(kinds(&check(world).await), with_groups);
        let without_groups = async |cause: &str| {
            let found = check(world).await;
            assert_eq!((&found["groupsChecked"], found.get("groups")), (&json!(false), None));
            assert_eq!(
                (&found["groupsUncheckedBecause"], kinds(&found)),
                (&json!(cause), vec!["charged-out-zero"])
            );
        };
        for (behavior, cause) in [
            (UsersBehavior::ServerError, "error-status"),
            (UsersBehavior::InvalidBody, "invalid-body"),
            (UsersBehavior::OversizedBody, "invalid-body"),
        ] {
            world.users.set_behavior(behavior);
            without_groups(cause).await;
        }
        world.users.set_behavior(UsersBehavior::Normal);
        world.users.hide_patron_groups(1);
        without_groups("incomplete").await;
        world.users.hide_patron_groups(0);
        world.users.set_behavior(UsersBehavior::NoResponse);
        let started = Instant::now();
        for _ in 0..5 {
            without_groups("no-response").await;
        }
        let before = world.users.request_count();
        without_groups("circuit-open").await;
        assert_eq!(world.users.request_count(), before);
        assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
        // The breaker of the list does not concern evaluations.
        world.users.set_behavior(UsersBehavior::Normal);
        let user = world.users.add_patron(Uuid::new_v4());
        let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &payload).await;
        world.until_committed().await;
        assert_eq!(world.evaluation_source(user).await, "group-from-users");
        without_groups("circuit-open").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_pages_of_patron_groups_are_read() {
    World::run(async |world| {
        let name = |n: usize| format!("group {n:04}");
        let id = |n: usize| uuid::Builder::from_random_bytes((n as u128).to_be_bytes()).into_uuid();
        let numbered = |count| (0..count).map(|n| group(id(n), &name(n)));
        let last = id(200);
        world.add_limit(last, Measure::LostItems, 1.0).await;
        world.users.set_patron_groups(numbered(200));
        assert_eq!(kinds(&check(world).await), ["unknown-group", "group-without-limit"]);
        world.users.set_patron_groups(numbered(201));
        let found = check(world).await;
        assert_eq!(kinds(&found), ["group-not-listed", "group-without-limit"]);
        let unlisted = finding(&found, "group-not-listed");
        assert_eq!(unlisted["patronGroups"], json!([{ "id": last, "name": name(200) }]));
        assert_eq!(unlisted["patronBlockLimitIds"].as_array().unwrap().len(), 1);
        for (count, pages) in [(499, 1), (500, 2), (1001, 3)] {
            world.users.set_patron_groups(numbered(count));
            let before = world.users.request_count();
            let found = check(world).await;
            assert_eq!(
                (&found["groups"], world.users.request_count() - before),
                (&json!(count), pages)
            );
            let unlisted = finding(&found, "group-not-listed")["patronGroups"].as_array().unwrap();
            assert_eq!(unlisted.len(), count - 200);
        }
        world.users.set_patron_groups(numbered(2001));
        let found = check(world).await;
        assert_eq!(found["groupsUncheckedBecause"], "too-many");
        assert_eq!(kinds(&found), [""; 0], "the only group with limits has one");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn command_prints_the_findings_of_the_response() {
    World::run(async |world| {
        let command = |more: &[&str]| {
            run_cli(world, &[&["settings-check", "--tenant", TENANT], more].concat())
        };
        let (code, text) = command(&[]);
        assert_eq!(code, Some(0), "{text}");
        assert!(text.starts_with("northlib  0 limits, 6 conditions, 0 findings"), "{text}");
        assert_eq!(kinds(&check(world).await), [""; 0], "the tenant has no settings");

        let staff = Uuid::new_v4();
        world.add_limit(staff, Measure::ChargedOut, 0.0).await;
        let (code, text) = command(&[]);
        assert_eq!(code, Some(0), "a warning is no error: {text}");
        let limit = world.add_limit(staff, Measure::ChargedOut, 3.0).await;
        let (code, text) = command(&[]);
        assert_eq!(code, Some(1), "{text}");
        let line = format!(
            "error    duplicate-limit  charged-out  group {staff}  Each of the 2 limits counts"
        );
        assert!(text.lines().any(|found| found.starts_with(&line)), "{text}");
        assert!(text.contains("Patrons with open items: 0."), "{text}");

        let (code, json) = command(&["--json"]);
        let mut printed: Value = serde_json::from_str(&json).unwrap();
        assert_eq!((code, &printed["groupsUncheckedBecause"]), (Some(1), &json!("command-line")));
        // The response differs in the groups and in the time.
        world.users.set_patron_groups([group(staff, "")]);
        let mut response = check(world).await;
        for member in ["checkedAt", "groupsChecked", "groupsUncheckedBecause", "groups"] {
            for body in [&mut printed, &mut response] {
                body.as_object_mut().unwrap().remove(member);
            }
        }
        assert_eq!(printed, response);
        assert!(response.to_string().contains(limit["id"].as_str().unwrap()));

        let (code, problem) = run_cli(world, &["settings-check", "--tenant", "southlib"]);
        assert_eq!(
            (code, problem.contains("tenant southlib is not enabled")),
            (Some(2), true),
            "{problem}"
        );
        let (code, problem) = run_cli(world, &["settings-check", "--tenant", "South"]);
        assert_eq!((code, problem.contains("--tenant: an id")), (Some(2), true), "{problem}");
    })
    .await;
}

/// A change of a condition over HTTP, as a librarian makes it.
#[tokio::test(flavor = "multi_thread")]
async fn message_with_a_misspelt_placeholder_is_found() {
    World::run(async |world| {
        let (group, measure) = (Uuid::new_v4(), Measure::OverdueItems);
        world.add_limit(group, measure, 2.0).await;
        let path = format!("/patron-block-conditions/{}", measure.condition_id());
        let mut condition = world.get_json(&path).await;
        condition["message"] = json!("{meassured} of {limit} items");
        assert_eq!(world.put(&path, &condition).await.0, 204);
        world.users.set_behavior(UsersBehavior::ServerError);
        let found = check(world).await;
        assert_eq!(kinds(&found), ["unknown-placeholder"]);
        let unknown = finding(&found, "unknown-placeholder");
        assert_eq!(unknown["patronBlockConditionId"], json!(measure.condition_id()));
        assert_eq!(
            unknown["effect"],
            "Patrons and staff see the text {meassured} instead of a number; the known placeholder is {measured}."
        );
    })
    .await;
}
