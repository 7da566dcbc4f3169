//! Evaluations over HTTP with answers of the users module.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{balance_change, check_out, minutes_from_now},
    users_stub::UsersBehavior,
    world::World,
};

async fn publish_six_loans(world: &World, user: Uuid) {
    for _ in 0..6 {
        let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &payload).await;
    }
    world.until_committed().await;
}

/// Returns a patron with six loans and a limit of five, with the limit and its path.
async fn patron_beyond_limit(world: &World) -> (Uuid, String, Value) {
    let group = Uuid::new_v4();
    let limit = world.add_limit(group, Measure::ChargedOut, 5.0).await;
    let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
    let user = world.users.add_patron(group);
    publish_six_loans(world, user).await;
    (user, path, limit)
}

const ALL: [[bool; 3]; 1] = [[true; 3]];
const NONE: [[bool; 3]; 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn patron_with_nothing_open_needs_no_group_request() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 0.0).await;
        let user = world.users.add_patron(group);
        assert_eq!(world.block_flags(user).await, NONE);
        assert_eq!(world.users.request_count(), 0);
        let payload = balance_change(user, Uuid::new_v4(), None, 1.0);
        world.publish(Kind::FeeFineBalanceChanged, &payload).await;
        world.until_committed().await;
        assert_eq!(world.block_flags(user).await, [[true, false, false]]);
        assert_eq!(world.users.request_count(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patron_group_selects_the_limits() {
    World::run(async |world| {
        let (students, staff) = (Uuid::new_v4(), Uuid::new_v4());
        world.add_limit(students, Measure::ChargedOut, 5.0).await;
        world.add_limit(staff, Measure::ChargedOut, 10.0).await;
        let user = world.users.add_patron(students);
        publish_six_loans(world, user).await;
        assert_eq!(world.block_flags(user).await, ALL);
        world.users.set_group(user, staff);
        assert_eq!(world.block_flags(user).await, NONE, "moved to a group with another limit");
        world.users.set_group(user, Uuid::new_v4());
        assert_eq!(world.block_flags(user).await, NONE, "a group without limits");
        world.users.set_group(user, None);
        assert_eq!(world.block_flags(user).await, NONE, "no group");
        world.users.set_group(user, students);
        let upper = user.to_string().to_uppercase();
        let body = world.get_json(&format!("/automated-patron-blocks/{upper}")).await;
        assert_eq!(body["automatedPatronBlocks"].as_array().unwrap().len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failing_users_module_serves_last_group_until_404() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 5.0).await;
        let (known, unknown) = (world.users.add_patron(group), world.users.add_patron(group));
        publish_six_loans(world, known).await;
        publish_six_loans(world, unknown).await;
        assert_eq!(world.block_flags(known).await, ALL);
        for behavior in [UsersBehavior::ServerError, UsersBehavior::NoResponse] {
            world.users.set_behavior(behavior);
            assert_eq!(world.block_flags(known).await, ALL, "{behavior:?}");
            assert_eq!(
                world.block_flags(unknown).await,
                NONE,
                "{behavior:?}: without a group, so not blocked"
            );
        }
        world.users.set_behavior(UsersBehavior::Normal);
        world.users.remove_user(known);
        assert_eq!(world.block_flags(known).await, NONE, "the status 404 is a valid response");
        world.users.set_behavior(UsersBehavior::ServerError);
        assert_eq!(world.block_flags(known).await, NONE, "the cached group is deleted");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_uuid_is_rejected_and_unknown_patron_is_empty() {
    World::run(async |world| {
        let bad = |what: &str, id: &str| (400, format!("Invalid user {what}: \"{id}\""));
        for id in ["abc", "00000000-0000-0000-0000-000000000000"] {
            assert_eq!(world.get(&format!("/automated-patron-blocks/{id}")).await, bad("UUID", id));
            assert_eq!(world.get(&format!("/user-summary/{id}")).await, bad("ID", id));
        }
        let user = Uuid::new_v4();
        let body = world.get_json(&format!("/automated-patron-blocks/{user}/?limit=2000")).await;
        assert_eq!(body, json!({ "automatedPatronBlocks": [] }));
        assert_eq!(
            world.get(&format!("/user-summary/{user}")).await,
            (404, format!("User summary for user ID {user} not found"))
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn block_contains_flags_message_id_and_dates() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        let limit = world.add_limit(group, Measure::ChargedOut, 5.0).await;
        let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
        let metadata = &world.get_json(&path).await["metadata"];
        let user = world.users.add_patron(group);
        publish_six_loans(world, user).await;
        let body = world.get_json(&format!("/automated-patron-blocks/{user}")).await;
        assert_eq!(
            body,
            json!({ "automatedPatronBlocks": [{
                "id": limit["id"],
                "patronBlockConditionId": Measure::ChargedOut.condition_id(),
                "blockBorrowing": true, "blockRenewals": true, "blockRequests": true,
                "message": "Maximum number of items charged out reached",
                "metadata": {
                    "createdDate": metadata["createdDate"], "updatedDate": metadata["updatedDate"],
                },
            }] })
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evaluation_header_names_its_source() {
    World::run(async |world| {
        world.stop().await;
        world.config.okapi.patron_group_stale = chrono::TimeDelta::milliseconds(300);
        world.start().await;
        let group = Uuid::new_v4();
        let (known, unknown) = (world.users.add_patron(group), world.users.add_patron(group));
        assert_eq!(world.evaluation_source(known).await, "nothing-open");
        publish_six_loans(world, known).await;
        publish_six_loans(world, unknown).await;
        assert_eq!(world.evaluation_source(known).await, "no-limits");
        world.add_limit(group, Measure::ChargedOut, 5.0).await;
        assert_eq!(world.evaluation_source(known).await, "group-from-users");
        assert_eq!(world.evaluation_source(known).await, "group-from-stale-cache");
        world.users.set_behavior(UsersBehavior::ServerError);
        world
            .until("the cached group exceeds the usable age", async |w: &World| {
                w.evaluation_source(known).await == "group-fallback"
            })
            .await;
        assert_eq!(world.evaluation_source(unknown).await, "group-unknown");
        world.users.set_behavior(UsersBehavior::Normal);
        world.users.remove_user(known);
        assert_eq!(world.evaluation_source(known).await, "group-none");
        world.proxy.disconnect();
        assert_eq!(world.evaluation_source(known).await, "not-evaluated");
        world.proxy.restore();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn updated_limit_counts_from_its_response_on() {
    World::run(async |world| {
        let (user, path, mut limit) = patron_beyond_limit(world).await;
        let world = &*world;
        // Other clients evaluate continuously, so a load of the limits is nearly always in progress.
        let done = AtomicBool::new(false);
        let asking = (0..4).map(|_| async {
            while !done.load(Ordering::Relaxed) {
                world.block_flags(user).await;
            }
        });
        let changing = async {
            for n in 0..40 {
                let blocked = n % 2 == 1;
                limit["value"] = json!(if blocked { 5 } else { 6 });
                assert_eq!(world.put(&path, &limit).await.0, 204);
                let expected = if blocked { vec![[true; 3]] } else { vec![[true, false, false]] };
                assert_eq!(world.block_flags(user).await, expected, "change {n}");
            }
            done.store(true, Ordering::Relaxed);
        };
        join(join_all(asking), changing).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_updated_by_other_instance_counts_soon() {
    World::run(async |world| {
        let (user, path, mut limit) = patron_beyond_limit(world).await;
        let first = world.url().to_owned();
        world.start().await;
        let second = world.url().to_owned();
        for (value, expected) in [(6, vec![[true, false, false]]), (5, ALL.to_vec())] {
            world.use_instance(&second);
            limit["value"] = json!(value);
            assert_eq!(world.put(&path, &limit).await.0, 204);
            // Continuous evaluations must not extend the life of the cached limits.
            world.use_instance(&first);
            let counts = async |world: &World| world.block_flags(user).await == expected;
            world.until("the other instance applies the limit", counts).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overload_is_rejected_without_waiting() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 5.0).await;
        let user = world.users.add_patron(group);
        publish_six_loans(world, user).await;
        world.proxy.freeze();
        let world = &*world;
        // More clients than the only HTTP thread admits.
        let asked = join_all((0..900).map(|_| async move {
            let began = Instant::now();
            (world.evaluation_source(user).await, began.elapsed())
        }))
        .await;
        let (rejected, waited): (Vec<_>, Vec<_>) =
            asked.iter().partition(|(source, _)| source == "too-many");
        assert!(
            rejected.len() > 50 && waited.len() > 100,
            "{} requests were rejected",
            rejected.len()
        );
        let slowest = rejected.iter().map(|(_, took)| *took).max().unwrap();
        assert!(waited.iter().all(|(source, _)| source == "not-evaluated"));
        let quickest = waited.iter().map(|(_, took)| *took).min().unwrap();
        assert!(
            slowest < quickest && quickest > Duration::from_secs(1),
            "{slowest:?} {quickest:?}"
        );
        world.proxy.restore();
        world
            .until("the evaluation returns all blocks", async |w: &World| {
                w.block_flags(user).await == ALL
            })
            .await;
    })
    .await;
}
