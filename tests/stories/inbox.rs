//! Trust in the inbox: a rebuild relies only on the period that the inbox covers completely.

use patron_blocks::event::Kind;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{BACKDATE_ENABLING_SQL, check_out, loan_event, minutes_from_now},
    world::{TENANT, World},
};

const REBUILDS: &str = "/patron-blocks/rebuilds";
const MODULE: &str = "mod-patron-blocks-2.0.0";

async fn rebuild(world: &World, ask: Value) -> Value {
    let (status, body) = world.post(REBUILDS, &ask).await;
    assert_eq!(status, 201, "{body}");
    let asked: Value = serde_json::from_str(&body).unwrap();
    let path = format!("{REBUILDS}/{}", asked["id"].as_str().unwrap());
    let is_at_rest = async |world: &World| {
        let rebuild = world.get_json(&path).await;
        ["compared", "done", "failed"].contains(&rebuild["status"].as_str().unwrap())
    };
    world.until("the rebuild ends or waits for an operator", is_at_rest).await;
    world.get_json(&path).await
}

async fn has_a_loan(world: &World, user: Uuid) -> bool {
    let summary = world.get_json_or_null(&format!("/user-summary/{user}")).await;
    summary["openLoans"].as_array().is_some_and(|loans| loans.len() == 1)
}

/// Publishes a check-out of a new patron in the topic of the tenant or of a collection.
async fn publish_check_out(world: &World, part: &str) -> Uuid {
    let user = Uuid::new_v4();
    let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(1440)).to_string();
    let topic = world.log.topic(part, Kind::ItemCheckedOut);
    let headers = vec![("folio.tenantId", TENANT)];
    let payload = Some(payload.as_bytes());
    world.log.send_untracked(OutgoingRecord { topic, headers, payload, timestamp: None }).await;
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn inbox_rebuild_preserves_records_of_the_initial_fill() {
    World::run(async |world| {
        let purge = json!({ "module_from": MODULE, "purge": true });
        assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
        let all = world.log.topic("ALL", Kind::ItemCheckedOut);
        world.log.create_topics(vec![all.clone()]).await;
        // The record in the collection topic is skipped; only the initial fill reads it.
        let user = publish_check_out(world, "ALL").await;
        let position = format!(
            "select coalesce(sum(next_offset), 0)::int8 from mod_patron_blocks.ingest_position
              where topic = '{all}'"
        );
        world.until("the record is skipped", async |w: &World| w.count(&position).await == 1).await;
        world.enable().await;
        assert!(has_a_loan(world, user).await);
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 0);

        let by_inbox = rebuild(world, json!({ "source": "inbox" })).await;
        assert_eq!(by_inbox["status"], "done", "{by_inbox}");
        assert!(has_a_loan(world, user).await, "{by_inbox}");

        // The topics are truncated, and the inbox reaches less far back than the topics. Each partition
        // gets several records, because a partition that is empty after the truncation lacks all records
        // until now.
        let own = world.log.topic(TENANT, Kind::ItemCheckedOut);
        for partition in [0, 1, 0, 1] {
            let payload = check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(1440));
            let payload = payload.to_string();
            let headers = vec![("folio.tenantId", TENANT)];
            let payload = Some(payload.as_bytes());
            let draft = OutgoingRecord { topic: own.clone(), headers, payload, timestamp: None };
            world.log.send_to_partition(partition, draft).await;
        }
        world.until_committed().await;
        for partition in 0..2 {
            world.log.delete_records_before(&own, partition, 1).await;
        }
        world.execute_sql("truncate {schema}.inbox").await;
        let covered = rebuild(world, json!({ "coveredBy": "inbox" })).await;
        assert!(has_a_loan(world, user).await);
        assert_eq!(covered["status"], "failed", "{covered}");
        let error = covered["error"].as_str().unwrap();
        assert!(error.contains("the inbox is complete only since"), "{error}");
        let early =
            rebuild(world, json!({ "source": "inbox", "from": minutes_from_now(-60) })).await;
        let error = early["error"].as_str().unwrap();
        assert!(error.contains("the inbox is complete only since"), "{error}");
        // If the tenant is enabled again, the covered period starts again, whatever version enables the
        // tenant.
        let since = "select extract(epoch from enabled_at)::int8 from mod_patron_blocks.tenant";
        let before = world.count(since).await;
        world.execute_sql(BACKDATE_ENABLING_SQL).await;
        world.execute_sql("update mod_patron_blocks.tenant set enabled = true").await;
        assert!(world.count(since).await < before, "an upgrade changes nothing");
        world.execute_sql("update mod_patron_blocks.tenant set enabled = false").await;
        world.execute_sql("update mod_patron_blocks.tenant set enabled = true").await;
        assert!(world.count(since).await >= before);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_inbox_is_not_trusted() {
    World::run(async |world| {
        for empty in ["truncate {schema}.inbox", "delete from {schema}.inbox"] {
            let user = publish_check_out(world, TENANT).await;
            world.until_committed().await;
            world.execute_sql(empty).await;
            let rebuilt = rebuild(world, json!({ "source": "inbox" })).await;
            assert_eq!(rebuilt["status"], "done", "{rebuilt}");
            assert!(has_a_loan(world, user).await, "{empty}: {rebuilt}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pruned_inbox_before_apply_drops_no_record() {
    World::run(async |world| {
        world.execute_sql(BACKDATE_ENABLING_SQL).await;
        // A loan that ended, with events over HTTP, so no topic contains them.
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        for (kind, call) in [
            (Kind::ItemCheckedOut, check_out(user, loan, &minutes_from_now(60))),
            (Kind::LoanClosed, loan_event(user, loan)),
        ] {
            assert_eq!(world.post(&kind.http_path(), &call).await.0, 204);
        }
        let ended = format!(
            "select count(*) from {{schema}}.loan where loan_id = '{loan}' and closed_stamp is not null"
        );
        assert_eq!(world.count(&ended).await, 1);
        let compared = rebuild(world, json!({ "dryRun": true })).await;
        assert_eq!(compared["status"], "compared", "{compared}");
        // Housekeeping deletes the HTTP events before the rebuild is applied.
        world.execute_sql("delete from {schema}.inbox").await;
        let path = format!("{REBUILDS}/{}", compared["id"].as_str().unwrap());
        assert_eq!(world.post(&format!("{path}/apply"), &json!({})).await.0, 202);
        let is_done = async |world: &World| world.get_json(&path).await["status"] == "done";
        world.until("the differences are applied", is_done).await;
        assert_eq!(world.count(&ended).await, 1);
        // The inbox must contain every event since the rebuild read its source.
        let before = rebuild(world, json!({ "dryRun": true })).await;
        assert_eq!(world.post(&Kind::LoanClosed.http_path(), &loan_event(user, loan)).await.0, 204);
        world.execute_sql("delete from {schema}.inbox").await;
        let path = format!("{REBUILDS}/{}", before["id"].as_str().unwrap());
        assert_eq!(world.post(&format!("{path}/apply"), &json!({})).await.0, 202);
        let is_refused = async |world: &World| world.get_json(&path).await["status"] == "failed";
        world.until("the rebuild fails", is_refused).await;
        let failed = world.get_json(&path).await;
        assert!(failed["error"].as_str().unwrap().contains("request a new rebuild"), "{failed}");
        // After a new read, the missing inbox rows change nothing.
        let repeated = rebuild(world, json!({})).await;
        assert_eq!(repeated["status"], "done", "{repeated}");
        assert_eq!(world.count(&ended).await, 1, "{repeated}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inbox_rebuild_preserves_records_of_a_topic_rebuild() {
    World::run(async |world| {
        world.execute_sql(BACKDATE_ENABLING_SQL).await;
        let user = publish_check_out(world, TENANT).await;
        world.until_committed().await;
        // The record was never applied in this state.
        world
            .execute_sql(
                "alter table {schema}.inbox disable trigger all; delete from {schema}.inbox;
                 alter table {schema}.inbox enable trigger all;
                 delete from {schema}.loan; delete from {schema}.patron_counter",
            )
            .await;
        for source in ["topics", "inbox"] {
            let rebuilt = rebuild(world, json!({ "source": source })).await;
            assert_eq!(rebuilt["status"], "done", "{rebuilt}");
            assert!(has_a_loan(world, user).await, "{source}: {rebuilt}");
        }
    })
    .await;
}
