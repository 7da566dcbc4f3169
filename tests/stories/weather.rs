//! Bad weather: the database away or silent, instances that stop and start.

use std::time::Instant;

use patron_blocks::{blocks::Measure, event::Kind};
use uuid::Uuid;

use crate::{
    facts::{check_out, minutes_from_now},
    world::{PATIENCE, World},
};

async fn publish_check_outs(world: &World, user: Uuid, number: usize) {
    let tomorrow = minutes_from_now(1440);
    for _ in 0..number {
        let payload = check_out(user, Uuid::new_v4(), &tomorrow);
        world.publish(Kind::ItemCheckedOut, &payload).await;
    }
}

/// A patron who has three items under a limit of one.
async fn blocked_patron(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    let user = world.users.patron(group);
    world.limit(group, Measure::ChargedOut, 1.0).await;
    publish_check_outs(world, user, 3).await;
    world.settled().await;
    assert_eq!(world.blocks(user).await, [[true; 3]]);
    user
}

async fn open_loans(world: &World, user: Uuid) -> usize {
    let summary = world.read(&format!("/user-summary/{user}")).await;
    summary["openLoans"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_the_desk_is_answered_and_no_event_is_lost() {
    World::tell(async |world| {
        let user = blocked_patron(world).await;
        world.wire.cut();
        publish_check_outs(world, user, 5).await;
        let asked = Instant::now();
        assert_eq!(world.blocks(user).await, [[false; 3]; 0], "open, as the setting says");
        assert!(asked.elapsed() < PATIENCE, "took {:?}", asked.elapsed());
        assert_eq!(world.get("/admin/ready").await.0, 503);
        assert_eq!(world.get("/admin/health").await, (200, "\"OK\"".to_owned()));

        world.wire.mend();
        world.settled().await;
        assert_eq!(open_loans(world, user).await, 8);
        world
            .until("it is ready again", async |w: &World| w.get("/admin/ready").await.0 == 200)
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_died_while_idle_make_no_answer_wrong() {
    World::tell(async |world| {
        let user = blocked_patron(world).await;
        for _ in 0..5 {
            let both = tokio::join!(world.blocks(user), world.blocks(user));
            assert_eq!(both, (vec![[true; 3]], vec![[true; 3]]));
            world.wire.cut();
            world.wire.mend();
        }
        assert_eq!(world.get("/admin/ready").await.0, 200);
        assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_says_nothing_is_not_waited_for_for_ever() {
    World::tell(async |world| {
        let user = world.users.patron(None);
        publish_check_outs(world, user, 1).await;
        world.settled().await;
        world.wire.freeze();
        let asked = Instant::now();
        assert_eq!(world.blocks(user).await, [[false; 3]; 0]);
        assert!(asked.elapsed() < PATIENCE, "took {:?}", asked.elapsed());
        world.wire.mend();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_for_ever_are_given_up() {
    World::tell(async |world| {
        let user = blocked_patron(world).await;
        world.wire.strand();
        publish_check_outs(world, user, 2).await;
        world
            .until("the desk is answered rightly", async |w: &World| {
                w.blocks(user).await == [[true; 3]]
            })
            .await;
        world.settled().await;
        // Each connection for other requests is given up once one has met it.
        let summary = format!("/user-summary/{user}");
        world.until("others are answered", async |w: &World| w.get(&summary).await.0 == 200).await;
        assert_eq!(open_loans(world, user).await, 5);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_stops_hands_over_and_one_that_starts_goes_on() {
    World::tell(async |world| {
        let user = Uuid::new_v4();
        publish_check_outs(world, user, 20).await;
        let stopping = Instant::now();
        world.stop().await;
        assert!(stopping.elapsed() < PATIENCE, "took {:?}", stopping.elapsed());
        publish_check_outs(world, user, 20).await;
        world.start().await;
        world.start().await;
        publish_check_outs(world, user, 20).await;
        world.settled().await;
        assert_eq!(open_loans(world, user).await, 60);
    })
    .await;
}
