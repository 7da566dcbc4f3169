//! Paused partitions: too many bad records, and tenants with unwritable tables.

use patron_blocks::event::Kind;
use serde_json::json;
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{check_out, minutes_from_now},
    world::{TENANT, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn hundred_bad_records_stop_partition_until_resumed() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let topic = world.log.topic(TENANT, Kind::FeeFineBalanceChanged);
        // All records are in one partition, as with the single key of real producers.
        let draft = |payload: &'static [u8]| OutgoingRecord {
            topic: topic.clone(),
            headers: vec![],
            payload: Some(payload),
            timestamp: None,
        };
        world.log.send_all_to_partition(0, (0..150).map(|_| draft(b"{}"))).await;
        let parked = "select count(*) from {schema}.dead_letter";
        world
            .until("one partition is stopped", async |w: &World| {
                w.get_json_any_status("/admin/ready").await["kafka"]["partitions"]["stopped"] == 1
            })
            .await;
        assert_eq!(world.count(parked).await, 100, "the partition stops at the limit");
        assert_eq!(world.get("/admin/ready").await.0, 503);

        // The other topics continue.
        world
            .publish(Kind::ItemCheckedOut, &check_out(user, Uuid::new_v4(), &minutes_from_now(60)))
            .await;
        world
            .until("other topics are read", async |w: &World| {
                w.get(&format!("/user-summary/{user}")).await.0 == 200
            })
            .await;

        // Neither a restart nor another instance resumes the partition.
        world.stop().await;
        world.start_unready().await;
        world
            .until("the partition is still stopped", async |w: &World| {
                w.get_json_any_status("/admin/ready").await["kafka"]["partitions"]["stopped"] == 1
            })
            .await;
        assert_eq!(world.count(parked).await, 100);

        let incidents = world.get_json("/patron-blocks/ingest").await["incidents"].clone();
        assert_eq!(incidents[0]["kind"], "partition_stopped");
        let id = incidents[0]["id"].as_str().unwrap();
        let resolve = format!("/patron-blocks/incidents/{id}/resolve");
        assert_eq!(world.post(&resolve, &json!({})).await.0, 204);
        assert_eq!(world.post(&resolve, &json!({})).await.0, 404);
        world.until_committed().await;
        assert_eq!(world.take_dead_letters().await, ["missing_field"; 150]);
        world
            .until("the service is ready again", async |w: &World| {
                w.get("/admin/ready").await.0 == 200
            })
            .await;
    })
    .await;
}

/// A shared topic serves the enabled tenants, whatever other tenants publish there.
#[tokio::test(flavor = "multi_thread")]
async fn bad_records_of_other_tenants_stop_no_shared_partition() {
    World::run(async |world| {
        let all = world.log.topic("ALL", Kind::FeeFineBalanceChanged);
        world.log.create_topics(vec![all.clone()]).await;
        let draft = |headers: Vec<(&'static str, &'static str)>, payload: &'static [u8]| {
            OutgoingRecord { topic: all.clone(), headers, payload: Some(payload), timestamp: None }
        };
        const OF: &str = "folio.tenantId";
        // Records of a disabled tenant, of two disabled tenants, and of an invalid tenant name.
        let disabled_tenant = || draft(vec![(OF, "southlib")], b"{}");
        let two_tenants = || draft(vec![(OF, "southlib"), ("x-okapi-tenant", "eastlib")], b"{}");
        let invalid_tenant = || draft(vec![(OF, "South-Lib")], b"{}");
        let each = [disabled_tenant(), two_tenants(), invalid_tenant()];
        world.log.send_all_to_partition(0, (0..150).map(|_| disabled_tenant())).await;
        world.log.send_all_to_partition(0, (0..110).map(|_| two_tenants())).await;
        world.log.send_all_to_partition(0, (0..110).map(|_| invalid_tenant())).await;
        world.log.send_all_to_partition(0, each.into_iter()).await;
        let (user, debt) = (Uuid::new_v4(), Uuid::new_v4());
        let owed = crate::support::payloads::balance_change(user, debt, None, 12.5)
            .to_string()
            .leak()
            .as_bytes();
        world.log.send_all_to_partition(0, [draft(vec![(OF, TENANT)], owed)].into_iter()).await;
        world
            .until("the valid record of the tenant is applied", async |w: &World| {
                w.get(&format!("/user-summary/{user}")).await.0 == 200
            })
            .await;
        assert_eq!(world.get("/admin/ready").await.0, 200);
        // Records without one valid tenant become dead letters; records of one disabled tenant do not.
        let letters = "select count(*) from mod_patron_blocks.dead_letter";
        assert_eq!(world.count(letters).await, 222);
        assert_eq!(world.take_dead_letters().await, ["tenant_mismatch"; 222]);

        // Bad records of an enabled tenant still stop the partition, and so do bad records without a
        // tenant.
        for headers in [vec![(OF, TENANT)], vec![]] {
            world
                .log
                .send_all_to_partition(1, (0..100).map(|_| draft(headers.clone(), b"{}")))
                .await;
            world
                .until("one partition is stopped", async |w: &World| {
                    w.get_json_any_status("/admin/ready").await["kafka"]["partitions"]["stopped"]
                        == 1
                })
                .await;
            assert_eq!(world.take_incidents().await, ["partition_stopped"]);
            world
                .until("the partition resumes", async |w: &World| {
                    w.get("/admin/ready").await.0 == 200
                })
                .await;
        }
        // A valid record follows the bad ones.
        let owed = crate::support::payloads::balance_change(user, debt, None, 0.0)
            .to_string()
            .leak()
            .as_bytes();
        world.log.send_all_to_partition(1, [draft(vec![(OF, TENANT)], owed)].into_iter()).await;
        world.until_committed().await;
        assert_eq!(world.take_dead_letters().await.len(), 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_with_broken_tables_delays_no_other_tenant() {
    World::run(async |world| {
        let of = |tenant: &'static str| {
            world.request(reqwest::Method::POST, "/_/tenant").header("X-Okapi-Tenant", tenant)
        };
        let install = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        assert_eq!(of("southlib").json(&install).send().await.unwrap().status(), 201);
        let other_topic = world.log.topic("southlib", Kind::ItemCheckedOut);
        let all = world.log.topic("ALL", Kind::ItemCheckedOut);
        world.log.create_topics(vec![other_topic.clone(), all.clone()]).await;
        world.execute_sql("alter table southlib_mod_patron_blocks.loan rename to gone").await;

        let (user, tomorrow) = (Uuid::new_v4(), minutes_from_now(1440));
        let payload = || check_out(user, Uuid::new_v4(), &tomorrow).to_string();
        let payloads: Vec<String> = (0..9).map(|_| payload()).collect();
        for payload in payloads.chunks(3) {
            let draft = |topic: &str, tenant, payload: &'static str| OutgoingRecord {
                topic: topic.to_owned(),
                headers: vec![("folio.tenantId", tenant)],
                payload: Some(payload.as_bytes()),
                timestamp: None,
            };
            let payload = |n: usize| -> &'static str { payload[n].clone().leak() };
            world.log.send_untracked(draft(&other_topic, "southlib", payload(0))).await;
            world.log.send_untracked(draft(&all, "southlib", payload(1))).await;
            world.log.send(draft(&all, TENANT, payload(2))).await;
        }
        world.until_committed().await;
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openLoans"].as_array().unwrap().len(), 3);
        // In the shared topic, the records of the unwritable tenant become dead letters for a while. In
        // the tenant's own topic they wait.
        let shared_dead_letters = "select count(*) from mod_patron_blocks.dead_letter";
        world
            .until("the records of the other tenant are dead letters", async |w: &World| {
                w.count(shared_dead_letters).await == 3
            })
            .await;
        let open = "select count(*) from mod_patron_blocks.incident
                     where kind = 'tenant_unusable' and resolved_at is null and tenant = 'southlib'";
        world.until("the incident is open", async |w: &World| w.count(open).await > 0).await;
        let incidents = world.get_json("/patron-blocks/ingest").await["incidents"].clone();
        assert_eq!(incidents, json!([]), "other tenants do not see the incident");

        world.execute_sql("alter table southlib_mod_patron_blocks.gone rename to loan").await;
        let read = "select count(*) from southlib_mod_patron_blocks.inbox";
        world.until("all waiting records are applied", async |w: &World| w.count(read).await == 6).await;
        world.until("the incident is resolved", async |w: &World| w.count(open).await == 0).await;
        world.until("no dead letter remains", async |w: &World| w.count(shared_dead_letters).await == 0).await;
    })
    .await;
}
