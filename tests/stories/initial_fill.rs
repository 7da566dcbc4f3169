//! Tenants with events before their enabling: the initial fill reads the topics, and the tenant is
//! reported as incomplete if the topics lack records.

use std::time::Duration;

use patron_blocks::event::Kind;
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    log::OutgoingRecord,
    payloads::{check_out, minutes_from_now, now, user_record},
    world::{TENANT, World},
};

const MODULE: &str = "mod-patron-blocks-2.0.0";

async fn purge(world: &World) {
    let purge = json!({ "module_from": MODULE, "purge": true });
    assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
}

/// Publishes a check-out of a new patron in the tenant's own topic or in the topic of a collection.
async fn publish_check_out(world: &World, part: &str) -> Uuid {
    publish_check_out_of_tenant(world, part, TENANT).await
}

async fn publish_check_out_of_tenant(world: &World, part: &str, tenant: &'static str) -> Uuid {
    let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
    let payload = check_out(user, loan, &minutes_from_now(1440)).to_string();
    let topic = world.log.topic(part, Kind::ItemCheckedOut);
    let headers = vec![("folio.tenantId", tenant)];
    let payload = Some(payload.as_bytes());
    world.log.send_untracked(OutgoingRecord { topic, headers, payload, timestamp: None }).await;
    user
}

/// Waits until the group has skipped all records of these topics; skipped records leave no position.
async fn until_skipped(world: &World, topics: &[String]) {
    let group = world.log.group_client();
    world
        .until("the records are skipped", async |_: &World| {
            let mut offsets = TopicPartitionList::new();
            for (topic, partition) in topics.iter().flat_map(|topic| [(topic, 0), (topic, 1)]) {
                offsets.add_partition(topic, partition);
            }
            let wait = Duration::from_secs(5);
            let committed = group.committed_offsets(offsets, wait).unwrap();
            committed.elements().iter().all(|of| {
                let (_, end) = group.fetch_watermarks(of.topic(), of.partition(), wait).unwrap();
                of.offset() == Offset::Offset(end) || end == 0
            })
        })
        .await;
}

async fn has_a_loan(world: &World, user: Uuid) -> bool {
    world.get(&format!("/user-summary/{user}")).await.0 == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_fill_loads_records_skipped_before_enabling() {
    World::run(async |world| {
        purge(world).await;
        let topics = [TENANT, "ALL"].map(|part| world.log.topic(part, Kind::ItemCheckedOut));
        world.log.create_topics(topics[1..].to_vec()).await;
        let mut users = Vec::new();
        for part in [TENANT, "ALL", TENANT, "ALL"] {
            users.push(publish_check_out(world, part).await);
        }
        // A collection topic contains patron groups as well.
        let (patron, group) = (Uuid::new_v4(), Uuid::new_v4());
        let user_change = crate::support::payloads::entity_change("CREATED", &user_record(patron, group), now()).to_string();
        let draft = OutgoingRecord {
            topic: world.log.topic("ALL", Kind::StoredUser),
            headers: vec![("folio.tenantId", TENANT)],
            payload: Some(user_change.as_bytes()),
            timestamp: None,
        };
        world.log.create_topics(vec![draft.topic.clone()]).await;
        world.log.send_untracked(draft).await;
        until_skipped(world, &topics).await;
        world.enable().await;
        for user in users {
            assert!(has_a_loan(world, user).await);
        }
        let groups = format!(
            "select count(*) from {{schema}}.patron where user_id = '{patron}' and topic_group = '{group}'"
        );
        assert_eq!(world.count(&groups).await, 1);
        assert_eq!(world.get_json("/patron-blocks/ingest").await["knowledge"], "complete");
        let filling = world.get_json("/patron-blocks/rebuilds").await;
        assert_eq!(filling["rebuilds"][0]["requestedBy"], "enabling");
        // An upgrade starts no second fill.
        let (before, job) = (filling["totalRecords"].clone(), world.enable().await);
        assert_eq!(world.get_json("/patron-blocks/rebuilds").await["totalRecords"], before, "{job}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_with_truncated_topics_is_incomplete_until_sync() {
    World::run(async |world| {
        purge(world).await;
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        for _ in 0..8 {
            publish_check_out(world, TENANT).await;
        }
        for partition in 0..2 {
            world.log.delete_records_before(&topic, partition, 1).await;
        }
        world.enable().await;
        let status = world.get_json("/patron-blocks/ingest").await;
        assert_eq!(status["knowledge"], "incomplete", "{status}");
        assert!(status["incompleteBefore"].is_string());
        assert!(status["advice"].as_str().unwrap().contains("synchronization"), "{status}");
        let user = world.users.add_patron(Uuid::new_v4());
        let completeness = async |world: &World| {
            let path = format!("/automated-patron-blocks/{user}");
            let request = world.request(reqwest::Method::GET, &path);
            let request = request.header("X-Okapi-Tenant", TENANT);
            let request = request.header("X-Okapi-Url", world.users.url());
            let headers = request.send().await.unwrap().headers().clone();
            headers
                .get("X-Patron-Blocks-Completeness")
                .map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(completeness(world).await.as_deref(), Some("incomplete"));
        let ready = world.get_json("/admin/ready").await;
        assert_eq!(ready["tenants"], json!({ "filling": [], "incomplete": [TENANT] }));
        assert!(
            world
                .get("/metrics")
                .await
                .1
                .contains("patron_blocks_tenants{completeness=\"incomplete\"} 1")
        );
        let body = json!({ "scope": "full" });
        let (status, job) = world.post("/automated-patron-blocks/synchronization/job", &body).await;
        assert_eq!(status, 201, "{job}");
        let start = "/automated-patron-blocks/synchronization/start";
        assert_eq!(world.post(start, &Value::Null).await.0, 202);
        world
            .until("the tenant is complete", async |world: &World| {
                world.get_json("/patron-blocks/ingest").await["knowledge"] == "complete"
            })
            .await;
        world
            .until("the response lacks the completeness header", async |world: &World| {
                completeness(world).await.is_none()
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_initial_fill_leaves_tenant_incomplete() {
    World::run(async |world| {
        purge(world).await;
        world.stop().await;
        world.config.rebuild.concurrency = 0;
        world.start_unready().await;
        assert_eq!(world.post("/_/tenant", &json!({ "module_to": MODULE })).await.0, 201);
        let completeness = async |world: &World, wanted: &str| {
            let (status, body) = world.get("/patron-blocks/ingest").await;
            status == 200 && body.contains(&format!("\"knowledge\":\"{wanted}\""))
        };
        let is_filling = async |world: &World| completeness(world, "filling").await;
        world.until("the tenant is filling", is_filling).await;
        let all = world.get_json("/patron-blocks/rebuilds").await;
        let id = all["rebuilds"][0]["id"].as_str().unwrap();
        assert_eq!(world.delete(&format!("/patron-blocks/rebuilds/{id}")).await.0, 204);
        let is_incomplete = async |world: &World| completeness(world, "incomplete").await;
        world.until("the tenant is incomplete", is_incomplete).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_fill_resumes_with_broker_on_another_instance() {
    World::run(async |world| {
        purge(world).await;
        let user = publish_check_out(world, TENANT).await;
        let port = world.config.kafka.broker_port;
        world.stop().await;
        world.config.kafka.broker_port = 1;
        world.start_unready().await;
        let install = json!({ "module_to": MODULE });
        assert_eq!(world.post("/_/tenant", &install).await.0, 201);
        world
            .until("readiness reports the initial fill", async |world: &World| {
                let (status, body) = world.get("/admin/ready").await;
                status == 503 && body.contains(&format!("\"filling\":[\"{TENANT}\"]"))
            })
            .await;
        world.stop().await;
        world.config.kafka.broker_port = port;
        world.start().await;
        world
            .until("the tenant is complete", async |world: &World| {
                world.get_json("/patron-blocks/ingest").await["knowledge"] == "complete"
            })
            .await;
        assert!(has_a_loan(world, user).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_sharing_topics_are_rebuilt_together() {
    World::run(async |world| {
        let install = world.request(reqwest::Method::POST, "/_/tenant");
        let install = install.header("X-Okapi-Tenant", "southlib");
        let install = install.json(&json!({ "module_to": MODULE })).send().await.unwrap();
        assert_eq!(install.status(), 201);
        world.log.create_topics(vec![world.log.topic("ALL", Kind::ItemCheckedOut)]).await;
        for (part, tenant) in [("ALL", TENANT), ("ALL", "southlib"), (TENANT, TENANT)] {
            for _ in 0..3 {
                publish_check_out_of_tenant(world, part, tenant).await;
            }
        }
        let loans = [("{schema}", 6), ("southlib_mod_patron_blocks", 3)];
        let are_known = async |world: &World| {
            for (schema, number) in loans {
                let counters = format!("select sum(open_loans)::int8 from {schema}.patron_counter");
                let rows = format!("select count(*) from {schema}.loan");
                if world.count(&rows).await != number || world.count(&counters).await != number {
                    return false;
                }
            }
            true
        };
        world.until("all tenants are complete", are_known).await;
        let filling = "select count(*) from mod_patron_blocks.job where kind = 'rebuild' and ended_at is null";
        world
            .until("all initial fills have ended", async |w: &World| w.count(filling).await == 0)
            .await;
        for (schema, _) in loans {
            let sql = format!("delete from {schema}.loan");
            world.execute_sql(&sql).await;
        }
        let (code, output) = run_cli(world, &["rebuild", "--all-tenants"]);
        assert_eq!(code, Some(0), "{output}");
        for line in [
            &*format!("tenant {TENANT}\nrebuild "),
            "tenant southlib\nrebuild ",
            "6 patrons have differences",
            "3 patrons have differences",
        ] {
            assert!(output.contains(line), "{line}: {output}");
        }
        assert!(!are_known(world).await, "a rebuild without --apply changes nothing");
        let (code, output) = run_cli(world, &["rebuild", "--all-tenants", "--apply"]);
        assert_eq!(code, Some(0), "{output}");
        assert!(are_known(world).await, "{output}");
        let left = "select count(*) from pg_namespace where nspname like '%blocks@_r%' escape '@'";
        world.until("all shadows are dropped", async |w: &World| w.count(left).await == 2).await;
        let (code, output) = run_cli(world, &["rebuild", "--all-tenants", "--source", "storage"]);
        assert_eq!(code, Some(2), "{output}");
    })
    .await;
}
