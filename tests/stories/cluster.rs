//! Leader changes, which need more than one broker. `dev/cluster test` starts three and runs these stories, and
//! `.ci/run` calls it.

use std::process::Command;

use patron_blocks::event::Kind;
use uuid::Uuid;

use super::offset_anomalies::{open_loans, publish_check_outs_to};
use crate::support::world::{TENANT, World};

/// Gives every partition another leader, and with it a later leader epoch.
async fn move_leaders() {
    let moved = tokio::task::spawn_blocking(|| {
        let cluster = concat!(env!("CARGO_MANIFEST_DIR"), "/dev/cluster");
        Command::new(cluster).arg("move-leaders").status()
    });
    assert!(moved.await.unwrap().unwrap().success(), "the leaders could not be moved");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs three brokers: dev/cluster test runs it"]
async fn topic_recreated_after_leader_change_is_read_completely() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        publish_check_outs_to(world, user, 0, 2).await;
        publish_check_outs_to(world, user, 1, 8).await;
        world.until_committed().await;
        for _ in 0..2 {
            move_leaders().await;
            publish_check_outs_to(world, user, 0, 1).await;
            publish_check_outs_to(world, user, 1, 1).await;
            world.until_committed().await;
        }
        // The epochs of the new topic start again, and the client knows later epochs.
        world.log.recreate_topic(&topic).await;
        publish_check_outs_to(world, user, 0, 6).await;
        publish_check_outs_to(world, user, 1, 1).await;
        world
            .until("all records of the new topic are applied", async |w: &World| {
                open_loans(w, user).await == 21
            })
            .await;
        publish_check_outs_to(world, user, 0, 1).await;
        publish_check_outs_to(world, user, 1, 1).await;
        world
            .until("the next records are applied", async |w: &World| {
                open_loans(w, user).await == 23
            })
            .await;
        let kinds = world.take_incidents().await;
        let known = ["partition_stalled", "topic_recreated"];
        assert!(kinds.iter().all(|kind| known.contains(&&**kind)), "{kinds:?}");
        assert!(kinds.iter().any(|kind| kind == "topic_recreated"), "{kinds:?}");
    })
    .await;
}
