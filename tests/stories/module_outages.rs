//! Other modules that hang: no request waits long for them.

use std::time::Duration;

use patron_blocks::{blocks::Measure, config::Config, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{check_out, minutes_from_now},
    storage_stub::Fault,
    users_stub::UsersBehavior,
    world::World,
};

async fn borrower(world: &World, group: Uuid) -> Uuid {
    let user = world.users.add_patron(group);
    let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.until_committed().await;
    user
}

/// Makes the breaker's pause longer than any story.
fn long_breaker_pause(config: &mut Config) {
    config.okapi.breaker.open_duration = Duration::from_secs(600);
}

pub(crate) async fn metric(world: &World, line: &str) -> u64 {
    let figures = world.get("/metrics").await.1;
    let value = figures.lines().find_map(|found| found.strip_prefix(line));
    value.map_or(0, |value| value.trim().parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_users_module_is_skipped_for_a_while() {
    World::run_with(long_breaker_pause, async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 0.0).await;
        let (known, unknown) = (borrower(world, group).await, borrower(world, group).await);
        let blocked = |source: &str| (source.to_owned(), 1);
        let gateway = world.users.url();
        assert_eq!(world.evaluate_through(&gateway, known).await, blocked("group-from-users"));
        world.users.set_behavior(UsersBehavior::NoResponse);
        let before = world.users.request_count();
        for _ in 0..5 {
            assert_eq!(world.evaluate_through(&gateway, known).await, blocked("group-fallback"));
        }
        for _ in 0..20 {
            let answer = world.evaluate_through(&gateway, known).await;
            assert_eq!(answer, blocked("group-fallback-circuit-open"));
            assert_eq!(world.evaluation_source(unknown).await, "group-unknown-circuit-open");
        }
        assert_eq!(world.users.request_count() - before, 5);
        let skipped_calls =
            "patron_blocks_module_calls_total{module=\"users\",outcome=\"circuit_open\"}";
        assert!(metric(world, skipped_calls).await >= 20);
    })
    .await;
}

/// A patron with a cached group does not wait for the one trial call.
#[tokio::test(flavor = "multi_thread")]
async fn recovered_users_module_is_found_by_one_call() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 0.0).await;
        let (known, unknown) = (borrower(world, group).await, borrower(world, group).await);
        assert_eq!(world.evaluation_source(known).await, "group-from-users");
        world.users.set_behavior(UsersBehavior::NoResponse);
        for _ in 0..5 {
            assert_eq!(world.evaluation_source(unknown).await, "group-unknown");
        }
        world.users.set_behavior(UsersBehavior::Normal);
        world
            .until("the service calls mod-users again", async |world: &World| {
                world.evaluation_source(known).await == "group-from-users"
            })
            .await;
        assert_eq!(
            world.evaluate_through(&world.users.url(), unknown).await,
            ("group-from-users".to_owned(), 1)
        );
    })
    .await;
}

/// A module that fails at once delays no request, so every request calls it.
#[tokio::test(flavor = "multi_thread")]
async fn failing_users_module_is_called_every_time() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 0.0).await;
        let user = borrower(world, group).await;
        world.users.set_behavior(UsersBehavior::ServerError);
        for n in 1..=20 {
            assert_eq!(world.evaluation_source(user).await, "group-unknown");
            assert_eq!(world.users.request_count(), n);
        }
        world.users.set_behavior(UsersBehavior::Normal);
        assert_eq!(world.evaluation_source(user).await, "group-from-users");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_users_response_is_ignored() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 0.0).await;
        let user = borrower(world, group).await;
        world.users.set_behavior(UsersBehavior::OversizedBody);
        assert_eq!(world.evaluation_source(user).await, "group-unknown");
    })
    .await;
}

/// Runs a synchronization of all patrons to its end, and returns its errors.
async fn synchronize(world: &World) -> String {
    let job = "/automated-patron-blocks/synchronization/job";
    let (_, body) = world.post(job, &json!({ "scope": "full" })).await;
    let asked: Value = serde_json::from_str(&body).expect("the body is JSON");
    let job = format!("{job}/{}", asked["id"].as_str().expect("an id"));
    let start = "/automated-patron-blocks/synchronization/start";
    assert_eq!(world.post(start, &json!({})).await.0, 202);
    let ended = async |world: &World| {
        ["done", "failed"].contains(&world.get_json(&job).await["status"].as_str().unwrap())
    };
    world.until("the synchronization ends", ended).await;
    world.get_json(&job).await["errors"].to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_storage_module_is_not_called_repeatedly() {
    World::run_with(long_breaker_pause, async |world| {
        let storage = world.users.storage.clone();
        storage.set_faults([Fault::Hang; 100]);
        let mut last = String::new();
        for _ in 0..4 {
            last = synchronize(world).await;
        }
        assert!(storage.take_requests().len() <= 5, "the breaker stops the calls");
        assert!(last.contains("is not called now"), "{last}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_page_is_aborted_by_its_size() {
    World::run(async |world| {
        // The timeout is longer than a page may take, and long enough to reach the size limit.
        world.stop().await;
        world.config.rebuild.page_timeout = Duration::from_secs(30);
        world.start().await;
        world.users.storage.set_faults([Fault::EndlessBody]);
        let errors = synchronize(world).await;
        assert_eq!(errors, "[]", "the next attempt reads the page");
        let failed = "patron_blocks_module_calls_total{module=\"loan-storage\",outcome=\"failed\"}";
        assert!(metric(world, failed).await >= 1);
    })
    .await;
}
