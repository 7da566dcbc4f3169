//! Outages: a database that is down or silent, and instances that stop and start.

use std::time::Instant;

use patron_blocks::{blocks::Measure, event::Kind};
use uuid::Uuid;

use crate::support::{
    payloads::{check_out, minutes_from_now},
    world::{WAIT_TIMEOUT, World},
};

async fn publish_check_outs(world: &World, user: Uuid, number: usize) {
    let tomorrow = minutes_from_now(1440);
    for _ in 0..number {
        let payload = check_out(user, Uuid::new_v4(), &tomorrow);
        world.publish(Kind::ItemCheckedOut, &payload).await;
    }
}

/// Returns a patron with three loans and a limit of one.
async fn blocked_patron(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    let user = world.users.add_patron(group);
    world.add_limit(group, Measure::ChargedOut, 1.0).await;
    publish_check_outs(world, user, 3).await;
    world.until_committed().await;
    assert_eq!(world.block_flags(user).await, [[true; 3]]);
    user
}

async fn open_loans(world: &World, user: Uuid) -> usize {
    let summary = world.get_json(&format!("/user-summary/{user}")).await;
    summary["openLoans"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn database_outage_answers_requests_and_loses_no_event() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        world.proxy.disconnect();
        publish_check_outs(world, user, 5).await;
        let asked = Instant::now();
        assert_eq!(world.block_flags(user).await, [[false; 3]; 0], "the setting selects open");
        assert!(asked.elapsed() < WAIT_TIMEOUT, "took {:?}", asked.elapsed());
        assert_eq!(world.get("/admin/ready").await.0, 503);
        assert_eq!(world.get("/admin/health").await, (200, "\"OK\"".to_owned()));

        world.proxy.restore();
        world.until_committed().await;
        assert_eq!(open_loans(world, user).await, 8);
        world
            .until("the service is ready again", async |w: &World| {
                w.get("/admin/ready").await.0 == 200
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_idle_connections_cause_no_wrong_result() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        for _ in 0..5 {
            let both = tokio::join!(world.block_flags(user), world.block_flags(user));
            assert_eq!(both, (vec![[true; 3]], vec![[true; 3]]));
            world.proxy.disconnect();
            world.proxy.restore();
        }
        assert_eq!(world.get("/admin/ready").await.0, 200);
        assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unresponsive_database_is_given_up_after_a_timeout() {
    World::run(async |world| {
        let user = world.users.add_patron(None);
        publish_check_outs(world, user, 1).await;
        world.until_committed().await;
        world.proxy.freeze();
        let asked = Instant::now();
        assert_eq!(world.block_flags(user).await, [[false; 3]; 0]);
        assert!(asked.elapsed() < WAIT_TIMEOUT, "took {:?}", asked.elapsed());
        world.proxy.restore();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_are_closed() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        world.proxy.stall_connections();
        publish_check_outs(world, user, 2).await;
        world
            .until("the evaluation returns all blocks", async |w: &World| {
                w.block_flags(user).await == [[true; 3]]
            })
            .await;
        world.until_committed().await;
        // The service discards each connection for other requests after one request has found it silent.
        let summary = format!("/user-summary/{user}");
        world
            .until("another request succeeds", async |w: &World| w.get(&summary).await.0 == 200)
            .await;
        assert_eq!(open_loans(world, user).await, 5);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_instance_hands_over_to_the_next() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        publish_check_outs(world, user, 20).await;
        let stopping = Instant::now();
        world.stop().await;
        assert!(stopping.elapsed() < WAIT_TIMEOUT, "took {:?}", stopping.elapsed());
        publish_check_outs(world, user, 20).await;
        world.start().await;
        world.start().await;
        publish_check_outs(world, user, 20).await;
        world.until_committed().await;
        assert_eq!(open_loans(world, user).await, 60);
    })
    .await;
}
