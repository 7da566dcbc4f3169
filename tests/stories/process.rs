//! The real binary: its start, its stop, and a kill.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use patron_blocks::event::Kind;
use uuid::Uuid;

use crate::support::{
    binary::{BINARY, run_cli, serve, signal, wait_for_exit},
    payloads::{check_out, minutes_from_now},
    world::World,
};

async fn inbox_count(world: &World) -> i64 {
    world.count("select count(*) from {schema}.inbox").await
}

async fn publish_check_outs(world: &World, user: Uuid, number: usize) {
    let due_date = minutes_from_now(60);
    for _ in 0..number {
        let payload = check_out(user, Uuid::new_v4(), &due_date);
        world.publish(Kind::ItemCheckedOut, &payload).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_process_loses_and_duplicates_nothing() {
    World::run(async |world| {
        world.stop().await;
        let user = Uuid::new_v4();
        for round in 1..=3 {
            let child = serve(world);
            let before = inbox_count(world).await;
            tokio::join!(publish_check_outs(world, user, 400), async {
                world
                    .until("the service has stored some events", async |w: &World| {
                        inbox_count(w).await > before
                    })
                    .await;
                signal(&child, "-KILL");
            });
            assert!(!wait_for_exit(child).await.success(), "round {round}");
        }
        world.start().await;
        world.until_committed().await;
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openLoans"].as_array().unwrap().len(), 1200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_exits_with_0_under_load_and_without_database() {
    World::run(async |world| {
        world.stop().await;
        let user = Uuid::new_v4();
        for without_database in [false, true] {
            let child = serve(world);
            let before = inbox_count(world).await;
            publish_check_outs(world, user, 200).await;
            world.until("events are stored", async |w: &World| inbox_count(w).await > before).await;
            if without_database {
                world.proxy.disconnect();
            }
            publish_check_outs(world, user, 200).await;
            let asked = Instant::now();
            signal(&child, "-TERM");
            assert_eq!(
                wait_for_exit(child).await.code(),
                Some(0),
                "database disconnected: {without_database}"
            );
            assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
            world.proxy.restore();
        }
        world.start().await;
        world.until_committed().await;
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openLoans"].as_array().unwrap().len(), 800);
    })
    .await;
}

#[test]
fn invalid_settings_are_all_reported_with_exit_code_2() {
    let output = Command::new(BINARY)
        .env_clear()
        .env("DB_PORT", "none")
        .env("HTTP_PORT", "-1")
        .env("OKAPI_URL", "nowhere")
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(
        stderr.lines().collect::<Vec<_>>(),
        [
            "DB_PORT must be a port from 1 to 65535, but it is \"none\"",
            "HTTP_PORT must be a port from 0 to 65535; 0 means any free port, but it is \"-1\"",
            "OKAPI_URL must be a URL with http or https, but it is \"nowhere\"",
        ]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn counter_check_finds_a_wrong_counter() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        publish_check_outs(world, user, 3).await;
        world.until_committed().await;
        let right = "northlib: 0 patrons with wrong counters\n".to_owned();
        assert_eq!(run_cli(world, &["check"]), (Some(0), right));
        let drift = "with wrong as (update {schema}.patron_counter set open_loans = open_loans + $ returning 1)
                     select count(*) from wrong";
        assert_eq!(world.count(&drift.replace('$', "1")).await, 1);
        let (code, wrong) = run_cli(world, &["check"]);
        assert_eq!(code, Some(1));
        assert!(wrong.contains(&user.to_string()), "{wrong}");
        assert_eq!(world.count(&drift.replace('$', "-1")).await, 1);
    })
    .await;
}
