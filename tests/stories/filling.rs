//! Tenants that are enabled when much has happened already: filled from what topics still hold, and told of as
//! incomplete where that is not all.

use std::time::Duration;

use patron_blocks::event::Kind;
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    binary::console,
    facts::{check_out, member, minutes_from_now, now},
    log::Draft,
    world::{TENANT, World},
};

const MODULE: &str = "mod-patron-blocks-2.0.0";

async fn purge(world: &World) {
    let purge = json!({ "module_from": MODULE, "purge": true });
    assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
}

/// A check-out of a new patron, in the tenant's own topic or in that of a collection.
async fn check_out_in(world: &World, part: &str) -> Uuid {
    check_out_of(world, part, TENANT).await
}

async fn check_out_of(world: &World, part: &str, tenant: &'static str) -> Uuid {
    let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
    let payload = check_out(user, loan, &minutes_from_now(1440)).to_string();
    let topic = world.log.topic(part, Kind::ItemCheckedOut);
    let headers = vec![("folio.tenantId", tenant)];
    let payload = Some(payload.as_bytes());
    world.log.place(Draft { topic, headers, payload, timestamp: None }).await;
    user
}

/// Waits until the group has gone past all records of these topics, which leave no position.
async fn passed_by(world: &World, topics: &[String]) {
    let group = world.log.group();
    world
        .until("the records are passed by", async |_: &World| {
            let mut places = TopicPartitionList::new();
            for (topic, partition) in topics.iter().flat_map(|topic| [(topic, 0), (topic, 1)]) {
                places.add_partition(topic, partition);
            }
            let wait = Duration::from_secs(5);
            let committed = group.committed_offsets(places, wait).unwrap();
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
async fn what_was_passed_by_before_a_tenant_was_enabled_is_known_once_it_is_filled() {
    World::tell(async |world| {
        purge(world).await;
        let topics = [TENANT, "ALL"].map(|part| world.log.topic(part, Kind::ItemCheckedOut));
        world.log.make(topics[1..].to_vec()).await;
        let mut users = Vec::new();
        for part in [TENANT, "ALL", TENANT, "ALL"] {
            users.push(check_out_in(world, part).await);
        }
        // Groups of patrons are told in a topic of a collection as well.
        let (patron, group) = (Uuid::new_v4(), Uuid::new_v4());
        let told = crate::facts::done("CREATED", &member(patron, group), now()).to_string();
        let draft = Draft {
            topic: world.log.topic("ALL", Kind::StoredUser),
            headers: vec![("folio.tenantId", TENANT)],
            payload: Some(told.as_bytes()),
            timestamp: None,
        };
        world.log.make(vec![draft.topic.clone()]).await;
        world.log.place(draft).await;
        passed_by(world, &topics).await;
        world.enable().await;
        for user in users {
            assert!(has_a_loan(world, user).await);
        }
        let groups = format!(
            "select count(*) from {{schema}}.patron where user_id = '{patron}' and told_group = '{group}'"
        );
        assert_eq!(world.count(&groups).await, 1);
        assert_eq!(world.read("/patron-blocks/ingest").await["knowledge"], "complete");
        let filling = world.read("/patron-blocks/rebuilds").await;
        assert_eq!(filling["rebuilds"][0]["askedBy"], "enabling");
        // Upgraded, it is known as before.
        let (before, job) = (filling["totalRecords"].clone(), world.enable().await);
        assert_eq!(world.read("/patron-blocks/rebuilds").await["totalRecords"], before, "{job}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_topics_were_cut_is_told_of_as_incomplete_until_storage_was_asked() {
    World::tell(async |world| {
        purge(world).await;
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        for _ in 0..8 {
            check_out_in(world, TENANT).await;
        }
        for partition in 0..2 {
            world.log.cut(&topic, partition, 1).await;
        }
        world.enable().await;
        let told = world.read("/patron-blocks/ingest").await;
        assert_eq!(told["knowledge"], "incomplete", "{told}");
        assert!(told["incompleteBefore"].is_string());
        assert!(told["advice"].as_str().unwrap().contains("synchronization"), "{told}");
        let user = world.users.patron(Uuid::new_v4());
        let knowledge = async |world: &World| {
            let path = format!("/automated-patron-blocks/{user}");
            let request = world.request(reqwest::Method::GET, &path);
            let request = request.header("X-Okapi-Tenant", TENANT);
            let request = request.header("X-Okapi-Url", world.users.url());
            let headers = request.send().await.unwrap().headers().clone();
            headers.get("X-Patron-Blocks-Knowledge").map(|told| told.to_str().unwrap().to_owned())
        };
        assert_eq!(knowledge(world).await.as_deref(), Some("incomplete"));
        let ready = world.read("/admin/ready").await;
        assert_eq!(ready["tenants"], json!({ "filling": [], "incomplete": [TENANT] }));
        assert!(
            world
                .get("/metrics")
                .await
                .1
                .contains("patron_blocks_tenants{knowledge=\"incomplete\"} 1")
        );
        let body = json!({ "scope": "full" });
        let (status, job) = world.post("/automated-patron-blocks/synchronization/job", &body).await;
        assert_eq!(status, 201, "{job}");
        let start = "/automated-patron-blocks/synchronization/start";
        assert_eq!(world.post(start, &Value::Null).await.0, 202);
        world
            .until("all is known", async |world: &World| {
                world.read("/patron-blocks/ingest").await["knowledge"] == "complete"
            })
            .await;
        world
            .until("the header says nothing more", async |world: &World| {
                knowledge(world).await.is_none()
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_filling_was_ended_before_anybody_began_is_told_of_as_incomplete() {
    World::tell(async |world| {
        purge(world).await;
        world.stop().await;
        world.config.rebuild.at_once = 0;
        world.start_anyhow().await;
        assert_eq!(world.post("/_/tenant", &json!({ "module_to": MODULE })).await.0, 201);
        let knowledge = async |world: &World, wanted: &str| {
            let (status, told) = world.get("/patron-blocks/ingest").await;
            status == 200 && told.contains(&format!("\"knowledge\":\"{wanted}\""))
        };
        let is_filling = async |world: &World| knowledge(world, "filling").await;
        world.until("it waits to be filled", is_filling).await;
        let all = world.read("/patron-blocks/rebuilds").await;
        let id = all["rebuilds"][0]["id"].as_str().unwrap();
        assert_eq!(world.delete(&format!("/patron-blocks/rebuilds/{id}")).await.0, 204);
        let is_incomplete = async |world: &World| knowledge(world, "incomplete").await;
        world.until("it is told of as incomplete", is_incomplete).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_filled_once_the_broker_is_back_and_by_another_instance_where_its_own_has_gone()
{
    World::tell(async |world| {
        purge(world).await;
        let user = check_out_in(world, TENANT).await;
        let kafka = world.config.kafka.bootstrap.clone();
        world.stop().await;
        world.config.kafka.bootstrap = "127.0.0.1:1".to_owned();
        world.start_anyhow().await;
        let install = json!({ "module_to": MODULE });
        assert_eq!(world.post("/_/tenant", &install).await.0, 201);
        world
            .until("it is being filled", async |world: &World| {
                let (status, told) = world.get("/admin/ready").await;
                status == 503 && told.contains(&format!("\"filling\":[\"{TENANT}\"]"))
            })
            .await;
        world.stop().await;
        world.config.kafka.bootstrap = kafka;
        world.start().await;
        world
            .until("it is filled", async |world: &World| {
                world.read("/patron-blocks/ingest").await["knowledge"] == "complete"
            })
            .await;
        assert!(has_a_loan(world, user).await);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_that_share_topics_are_rebuilt_together() {
    World::tell(async |world| {
        let install = world.request(reqwest::Method::POST, "/_/tenant");
        let install = install.header("X-Okapi-Tenant", "southlib");
        let install = install.json(&json!({ "module_to": MODULE })).send().await.unwrap();
        assert_eq!(install.status(), 201);
        world.log.make(vec![world.log.topic("ALL", Kind::ItemCheckedOut)]).await;
        for (part, tenant) in [("ALL", TENANT), ("ALL", "southlib"), (TENANT, TENANT)] {
            for _ in 0..3 {
                check_out_of(world, part, tenant).await;
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
        world.until("all are known", are_known).await;
        let filling = "select count(*) from mod_patron_blocks.rebuild where ended_at is null";
        world.until("nobody is being filled", async |w: &World| w.count(filling).await == 0).await;
        for (schema, _) in loans {
            let sql = format!("delete from {schema}.loan");
            world.meddle(&sql).await;
        }
        let (code, said) = console(world, &["rebuild", "--all-tenants"]);
        assert_eq!(code, Some(0), "{said}");
        for told in [
            &*format!("tenant {TENANT}\nrebuild "),
            "tenant southlib\nrebuild ",
            "6 patrons differ",
            "3 patrons differ",
        ] {
            assert!(said.contains(told), "{told}: {said}");
        }
        assert!(!are_known(world).await, "nothing is applied unasked");
        let (code, said) = console(world, &["rebuild", "--all-tenants", "--apply"]);
        assert_eq!(code, Some(0), "{said}");
        assert!(are_known(world).await, "{said}");
        let left = "select count(*) from pg_namespace where nspname like '%blocks@_r%' escape '@'";
        world.until("no shadow is left", async |w: &World| w.count(left).await == 2).await;
        let (code, said) = console(world, &["rebuild", "--all-tenants", "--source", "storage"]);
        assert_eq!(code, Some(2), "{said}");
    })
    .await;
}
