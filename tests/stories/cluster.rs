//! Leader changes and an outage of all brokers, which need brokers of their own. `dev/cluster test` starts three and runs these stories, and
//! `.ci/run` calls it.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use patron_blocks::event::Kind;
use serde_json::json;
use uuid::Uuid;

use super::{
    console::page,
    offset_anomalies::{open_loans, publish_check_outs_to},
};
use crate::support::{
    payloads::now,
    world::{TENANT, World},
};

/// Runs a command of `dev/cluster`.
async fn run_cluster(arguments: &'static [&'static str]) {
    let run = tokio::task::spawn_blocking(move || {
        let cluster = concat!(env!("CARGO_MANIFEST_DIR"), "/dev/cluster");
        Command::new(cluster).args(arguments).status()
    });
    assert!(run.await.unwrap().unwrap().success(), "dev/cluster {arguments:?} failed");
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
            // Each partition gets another leader, and with it a later leader epoch.
            run_cluster(&["move-leaders"]).await;
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

/// Time limit of a page without a broker. The service is compiled without optimization.
const PAGE_LIMIT: Duration = Duration::from_secs(1);

/// Row 4 of docs/contract/insight.md#8-cases-of-certainty: the instant stays while no broker responds. The pages of the
/// console ask no broker, so they open as before and show that instant.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs three brokers: dev/cluster test runs it"]
async fn evaluation_is_late_while_no_broker_responds() {
    World::run(async |world| {
        let certainty = async |w: &World| w.get_json("/patron-blocks/certainty").await;
        let until_state = async |state: &str| {
            let what = format!("evaluations are {state}");
            world.until(&what, async |w: &World| certainty(w).await["state"] == state).await;
        };
        until_state("certain").await;
        let policy = json!({ "lateSeconds": 5 });
        assert_eq!(world.put("/patron-blocks/certainty-policy", &policy).await.0, 204);
        run_cluster(&["stop"]).await;
        let stopped = now();
        until_state("late").await;
        let as_of = certainty(world).await["asOf"].as_str().unwrap().to_owned();
        assert!(as_of.parse::<DateTime<Utc>>().unwrap() < stopped, "{as_of} is after {stopped}");
        for path in ["home", "ingest", "parked", "rebuilds"] {
            let began = Instant::now();
            let body = page(world, path).await;
            assert!(began.elapsed() < PAGE_LIMIT, "{path} took {:?}", began.elapsed());
            assert!(body.contains(&format!("datetime=\"{as_of}\"")), "{path}: {body}");
        }
        run_cluster(&["start"]).await;
        run_cluster(&["in-sync"]).await;
        until_state("certain").await;
        let as_of = certainty(world).await["asOf"].as_str().unwrap().to_owned();
        assert!(as_of.parse::<DateTime<Utc>>().unwrap() > stopped, "{as_of} is before {stopped}");
    })
    .await;
}
