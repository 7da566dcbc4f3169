//! Offset anomalies at the takeover of partitions: each is reported, and no record is skipped silently.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use patron_blocks::{
    event::Kind,
    kafka::{BrokerClient, RecordProbe},
};
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{balance_change, check_out, in_envelope, minutes_from_now, now},
    world::{TENANT, World},
};

/// Publishes check-outs of one patron; the key chooses partition 0 or 1.
async fn publish_check_outs(world: &World, user: Uuid, number: usize) {
    let tomorrow = minutes_from_now(1440);
    for _ in 0..number {
        let payload = in_envelope(&check_out(user, Uuid::new_v4(), &tomorrow), now());
        world.publish(Kind::ItemCheckedOut, &payload).await;
    }
}

/// Publishes check-outs of one patron to one partition.
pub(super) async fn publish_check_outs_to(
    world: &World,
    user: Uuid,
    partition: i32,
    number: usize,
) {
    let tomorrow = minutes_from_now(1440);
    for _ in 0..number {
        let payload = in_envelope(&check_out(user, Uuid::new_v4(), &tomorrow), now()).to_string();
        let draft = OutgoingRecord {
            topic: world.log.topic(TENANT, Kind::ItemCheckedOut),
            headers: vec![("folio.tenantId", TENANT)],
            payload: Some(payload.as_bytes()),
            timestamp: None,
        };
        world.log.send_to_partition(partition, draft).await;
    }
}

pub(super) async fn open_loans(world: &World, user: Uuid) -> usize {
    let (status, body) = world.get(&format!("/user-summary/{user}")).await;
    if status == 404 {
        return 0;
    }
    let summary: serde_json::Value = serde_json::from_str(&body).unwrap();
    summary["openLoans"].as_array().unwrap().len()
}

/// Returns the end offsets of the topic's partitions.
fn end_offsets(world: &World, topic: &str) -> Vec<(i32, i64)> {
    let ends = world.log.end_offsets();
    ends.into_iter().filter(|((of, _), _)| of == topic).map(|((_, n), end)| (n, end)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_lost_to_retention_raise_an_incident() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        publish_check_outs(world, user, 10).await;
        world.until_committed().await;
        let read = end_offsets(world, &topic);
        world.stop().await;
        publish_check_outs(world, user, 20).await;
        let mut lost = 0;
        for (partition, end) in end_offsets(world, &topic) {
            let before = read.iter().find(|(n, _)| *n == partition).map_or(0, |(_, end)| *end);
            if end > before + 2 {
                world.log.delete_records_before(&topic, partition, before + 2).await;
                lost += 2;
            }
        }
        assert!(lost > 0, "no partition has the keys");
        world.start().await;
        world.until_committed().await;
        assert_eq!(open_loans(world, user).await, 30 - lost);
        let dated = "select count(*) from mod_patron_blocks.incident
                      where to_offset - from_offset = 2 and from_time < to_time and tenant is not null";
        assert_eq!(world.count(dated).await as usize, lost / 2);
        assert_eq!(world.take_incidents().await, vec!["records_lost"; lost / 2]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recreated_topic_is_read_from_its_beginning() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        publish_check_outs(world, user, 10).await;
        world.until_committed().await;
        let before = end_offsets(world, &topic).len();
        world.stop().await;
        // The first new topic has fewer records than were read of the earlier one, the second has more.
        for (incarnation, records) in [(1, 4), (2, 40)] {
            world.log.recreate_topic(&topic).await;
            publish_check_outs(world, user, records).await;
            world.start().await;
            // Positions of the earlier topic may be beyond the end of the new one.
            let expected = if incarnation == 1 { 14 } else { 54 };
            let read = async |w: &World| open_loans(w, user).await == expected;
            world.until(&format!("topic {incarnation} is read"), read).await;
            world.until_committed().await;
            let kinds = world.take_incidents().await;
            assert!(kinds.iter().all(|kind| kind == "topic_recreated"), "{kinds:?}");
            assert!((1..=before).contains(&kinds.len()), "topic {incarnation}: {kinds:?}");
            world.stop().await;
        }
        world.start().await;
    })
    .await;
}

/// Waits until the positions equal the ends of the current log, also for partitions without further
/// records.
async fn positions_reach(world: &World, topic: &str, ends: &[(i32, i64)]) {
    let wrong = ends
        .iter()
        .map(|(partition, end)| format!("partition = {partition} and next_offset <> {end}"));
    let wrong = format!(
        "select count(*) from {{schema}}.ingest_position where topic = '{topic}' and ({})",
        wrong.collect::<Vec<_>>().join(" or ")
    );
    world
        .until("the positions reach the ends of the log", async |w: &World| {
            w.count(&wrong).await == 0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_recreated_while_reading_is_detected() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        publish_check_outs_to(world, user, 0, 2).await;
        publish_check_outs_to(world, user, 1, 8).await;
        world.until_committed().await;
        world.log.recreate_topic(&topic).await;
        // One partition grows beyond its old position, the other stays behind it.
        publish_check_outs_to(world, user, 0, 4).await;
        world
            .until("the records of the new topic are applied", async |w: &World| {
                open_loans(w, user).await == 14
            })
            .await;
        positions_reach(world, &topic, &[(0, 4), (1, 0)]).await;
        let kinds = world.take_incidents().await;
        assert!(
            !kinds.is_empty() && kinds.iter().all(|kind| kind == "topic_recreated"),
            "{kinds:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recreated_topic_with_more_records_is_read_completely() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        publish_check_outs_to(world, user, 0, 2).await;
        world.until_committed().await;
        world.log.recreate_topic(&topic).await;
        // The broker accepts the client's next offset. Only the records themselves differ.
        publish_check_outs_to(world, user, 0, 4).await;
        world
            .until("all records of the new topic are applied", async |w: &World| {
                open_loans(w, user).await == 6
            })
            .await;
        assert_eq!(world.take_incidents().await, ["topic_recreated"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_partition_of_a_recreated_topic_reaches_its_end() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        publish_check_outs_to(world, user, 0, 4).await;
        world.until_committed().await;
        world.log.recreate_topic(&topic).await;
        // The position is zero in both logs, so it fits. If the partition were read before the topic's
        // positions are reset, the position would stay at zero until the next record.
        publish_check_outs_to(world, user, 1, 3).await;
        publish_check_outs_to(world, user, 0, 1).await;
        world
            .until("the new records are applied", async |w: &World| open_loans(w, user).await == 8)
            .await;
        positions_reach(world, &topic, &[(0, 1), (1, 3)]).await;
        let kinds = world.take_incidents().await;
        assert!(
            !kinds.is_empty() && kinds.iter().all(|kind| kind == "topic_recreated"),
            "{kinds:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recreated_topic_is_read_completely_by_all_instances() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        world.start().await;
        let both = async |w: &World| w.partitions_read().await.iter().all(|reading| *reading > 0);
        world.until("both instances have partitions", both).await;
        publish_check_outs_to(world, user, 0, 2).await;
        publish_check_outs_to(world, user, 1, 8).await;
        world.until_committed().await;
        world.log.recreate_topic(&topic).await;
        publish_check_outs_to(world, user, 0, 4).await;
        publish_check_outs_to(world, user, 1, 1).await;
        world
            .until("all records of the new topic are applied", async |w: &World| {
                open_loans(w, user).await == 15
            })
            .await;
        positions_reach(world, &topic, &[(0, 4), (1, 1)]).await;
        let kinds = world.take_incidents().await;
        assert!(
            !kinds.is_empty() && kinds.iter().all(|kind| kind == "topic_recreated"),
            "{kinds:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anomaly_that_cannot_be_stored_delays_only_its_topic() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        publish_check_outs_to(world, user, 0, 3).await;
        let fee_fine = || balance_change(user, Uuid::new_v4(), None, 12.5);
        for _ in 0..3 {
            world.publish(Kind::FeeFineBalanceChanged, &fee_fine()).await;
        }
        world.until_committed().await;
        world.stop().await;
        let kinds = [Kind::ItemCheckedOut, Kind::FeeFineBalanceChanged];
        for topic in kinds.map(|kind| world.log.topic(TENANT, kind)) {
            world.log.recreate_topic(&topic).await;
        }
        world
            .execute_sql(
                "create function refuse() returns trigger language plpgsql as
                 $$ begin raise exception 'refused by the story'; end $$;
                 create trigger refuse before insert on mod_patron_blocks.incident for each row
                 when (new.topic like '%ITEM_CHECKED_OUT') execute function refuse()",
            )
            .await;
        publish_check_outs_to(world, user, 0, 1).await;
        world.publish(Kind::FeeFineBalanceChanged, &fee_fine()).await;
        world.start_unready().await;
        // The refused topic is the first in order, so its failure comes before the other start.
        let fees_fines = "select count(*) from {schema}.fee_fine";
        world
            .until("the other topic is read", async |w: &World| w.count(fees_fines).await == 4)
            .await;
        assert_eq!(open_loans(world, user).await, 3, "the topic waits for its incident");
        world.execute_sql("drop trigger refuse on mod_patron_blocks.incident").await;
        world.until("its topic is read", async |w: &World| open_loans(w, user).await == 4).await;
        world.until_committed().await;
        let found = world.take_incidents().await;
        assert!(found.iter().all(|kind| kind == "topic_recreated"), "{found:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_recreated_during_database_outage_is_read_completely() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        publish_check_outs_to(world, user, 0, 4).await;
        publish_check_outs_to(world, user, 1, 2).await;
        world.until_committed().await;
        world.proxy.disconnect();
        world.log.recreate_topic(&topic).await;
        publish_check_outs_to(world, user, 0, 6).await;
        publish_check_outs_to(world, user, 1, 1).await;
        // The watchdog measures the lag without the database.
        let lag = format!("patron_blocks_lag_records{{topic=\"{topic}\"");
        world
            .until("the lag is measured", async |w: &World| {
                let (_, metrics) = w.get("/metrics").await;
                let of_topic = metrics.lines().filter(|line| line.starts_with(&lag));
                of_topic.filter_map(|line| line.rsplit(' ').next()).any(|records| records != "0")
            })
            .await;
        world.proxy.restore();
        world
            .until("the new topic is read", async |w: &World| open_loans(w, user).await == 13)
            .await;
        positions_reach(world, &topic, &[(0, 6), (1, 1)]).await;
        let kinds = world.take_incidents().await;
        assert!(
            !kinds.is_empty() && kinds.iter().all(|kind| kind == "topic_recreated"),
            "{kinds:?}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn moved_group_skips_nothing_and_reset_group_rereads() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let user = Uuid::new_v4();
        publish_check_outs(world, user, 10).await;
        world.until_committed().await;
        let read = end_offsets(world, &topic);
        world.stop().await;
        publish_check_outs(world, user, 20).await;
        for (partition, end) in end_offsets(world, &topic) {
            world.log.set_group_offset(&topic, partition, end).await;
        }
        world.start().await;
        world.until_committed().await;
        assert_eq!(open_loans(world, user).await, 30);
        let kinds = world.take_incidents().await;
        assert!(
            !kinds.is_empty() && kinds.iter().all(|kind| kind == "offsets_advanced"),
            "{kinds:?}"
        );

        world.stop().await;
        // An operator who resets the group wants the records read again, so the inbox is emptied.
        world.execute_sql("truncate {schema}.inbox").await;
        for (partition, _) in &read {
            world.log.set_group_offset(&topic, *partition, 0).await;
        }
        world.start().await;
        let inbox_count = "select count(*) from {schema}.inbox";
        world
            .until("all records are read again", async |w: &World| w.count(inbox_count).await == 30)
            .await;
        assert_eq!(open_loans(world, user).await, 30);
        let kinds = world.take_incidents().await;
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| kind == "offsets_reset"), "{kinds:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restored_older_backup_rereads_forgotten_records() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        publish_check_outs(world, user, 10).await;
        world.until_committed().await;
        let tables = ["inbox", "loan", "fee_fine", "patron_counter", "ingest_position"];
        for table in tables {
            world
                .execute_sql(&format!("create table {{schema}}.{table}_backup as table {{schema}}.{table}"))
                .await;
        }
        publish_check_outs(world, user, 20).await;
        world.until_committed().await;
        world.stop().await;
        for table in tables {
            let columns = "string_agg(quote_ident(column_name), ', ')";
            world
                .execute_sql(&format!(
                    "truncate {{schema}}.{table} cascade;
                     do $$ begin execute (select format('insert into {{schema}}.{table} (%1$s) select %1$s
                       from {{schema}}.{table}_backup', {columns})
                       from information_schema.columns
                      where table_schema = '{{schema}}' and table_name = '{table}'
                        and is_generated = 'NEVER'); end $$;
                     drop table {{schema}}.{table}_backup"
                ))
                .await;
        }
        assert_eq!(world.count("select count(*) from {schema}.loan where is_open").await, 10);
        world.start().await;
        world.until_committed().await;
        assert_eq!(open_loans(world, user).await, 30);
        let kinds = world.take_incidents().await;
        assert!(!kinds.is_empty() && kinds.iter().all(|kind| kind == "database_restored"), "{kinds:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_skipped_before_enabling_are_read_afterwards() {
    World::run(async |world| {
        let topic = world.log.topic("southlib", Kind::ItemCheckedOut);
        world.log.create_topics(vec![topic.clone()]).await;
        let payload =
            check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(1440)).to_string();
        let publish = async || {
            world
                .log
                .send_untracked(OutgoingRecord {
                    topic: topic.clone(),
                    headers: vec![],
                    payload: Some(payload.as_bytes()),
                    timestamp: None,
                })
                .await;
        };
        for _ in 0..5 {
            publish().await;
        }
        let enable = async |module: &str| {
            let request = world.request(reqwest::Method::POST, "/_/tenant");
            let body = serde_json::json!({ "module_to": module });
            let sent =
                request.header("X-Okapi-Tenant", "southlib").json(&body).send().await.unwrap();
            sent.status().as_u16()
        };
        let disable = serde_json::json!({ "module_from": "mod-patron-blocks-2.0.0" });
        let read = async |world: &World, number: i64| {
            let there = "select count(*) from information_schema.tables
                          where table_schema = 'southlib_mod_patron_blocks' and table_name = 'inbox'";
            let sql = "select count(*) from southlib_mod_patron_blocks.inbox";
            world
                .until("all records are stored", async |w: &World| {
                    w.count(there).await == 1 && w.count(sql).await == number
                })
                .await;
        };
        assert_eq!(enable("mod-patron-blocks-2.0.0").await, 201);
        read(world, 5).await;
        // The result is the same after a disable and a new enabling.
        let request = world.request(reqwest::Method::POST, "/_/tenant");
        let request = request.header("X-Okapi-Tenant", "southlib").json(&disable);
        assert_eq!(request.send().await.unwrap().status(), 204);
        for _ in 0..5 {
            publish().await;
        }
        assert_eq!(enable("mod-patron-blocks-2.0.0").await, 201);
        read(world, 10).await;
        // A purge and an installation follow directly, without a read between them. All records of the
        // topic count again, and no restored backup is reported.
        let purge = serde_json::json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        for records in [10, 11] {
            let request = world.request(reqwest::Method::POST, "/_/tenant");
            let request = request.header("X-Okapi-Tenant", "southlib").json(&purge);
            assert_eq!(request.send().await.unwrap().status(), 204);
            assert_eq!(enable("mod-patron-blocks-2.0.0").await, 201);
            read(world, records).await;
            publish().await;
            read(world, records + 1).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_inspected_in_parallel_without_delay() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        publish_check_outs_to(world, Uuid::new_v4(), 0, 3).await;
        publish_check_outs_to(world, Uuid::new_v4(), 1, 2).await;
        world.until_committed().await;
        let probe = |topic: &str, partition, offset, records_max| RecordProbe {
            topic_partition: (Arc::from(topic), partition),
            offset,
            records_max,
        };
        let mut probes = vec![probe(&topic, 0, 1, 5), probe(&topic, 1, 2, 5)];
        // No broker answers for these partitions.
        probes.extend((0..5).map(|n| probe(&format!("{topic}-nowhere"), n, 0, 1)));
        let broker = BrokerClient::new(&world.config.kafka).unwrap();
        let asked = Instant::now();
        let results = tokio::task::spawn_blocking(move || broker.probe(&probes)).await.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(10), "took {:?}", asked.elapsed());
        let found = |partition| {
            let found: &Vec<_> = &results[&(Arc::from(&*topic), partition)];
            found.iter().map(|record| record.offset).collect::<Vec<_>>()
        };
        assert_eq!((found(0), found(1), results.len()), (vec![1, 2], vec![], 2));
    })
    .await;
}
