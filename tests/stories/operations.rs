//! Operator tasks: dead letters, the ingest status, and metrics.

use patron_blocks::event::Kind;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    log::OutgoingRecord,
    payloads::{balance_change, check_out, loan_event, minutes_from_now},
    world::{TENANT, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_is_read_retried_and_discarded() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        // A fault of the service, repaired later.
        world
            .execute_sql("alter table {schema}.fee_fine add constraint small check (balance < 5)")
            .await;
        world
            .publish(Kind::FeeFineBalanceChanged, &balance_change(user, Uuid::new_v4(), None, 9.0))
            .await;
        world
            .publish(Kind::FeeFineBalanceChanged, &balance_change(user, Uuid::new_v4(), None, 8.0))
            .await;
        world.log.publish(Kind::LoanClosed, b"{\"userId\":\"x\"}").await;
        world.until_committed().await;

        let all = world.get_json("/patron-blocks/dead-letters").await;
        assert_eq!(all["totalRecords"], 3);
        let rejected_path = "/patron-blocks/dead-letters?query=reason==refused_by_database&limit=1";
        let page = world.get_json(rejected_path).await;
        assert_eq!(
            (page["totalRecords"].clone(), page["deadLetters"].as_array().unwrap().len()),
            (json!(2), 1)
        );
        let id = page["deadLetters"][0]["id"].as_str().unwrap().to_owned();
        let one = world.get_json(&format!("/patron-blocks/dead-letters/{id}")).await;
        assert!(one["payload"]["text"].as_str().unwrap().contains(&user.to_string()));
        assert!(!one["headers"].to_string().contains("secret"), "tokens are not shown");

        let retry = format!("/patron-blocks/dead-letters/{id}/retry");
        assert_eq!(world.post(&retry, &json!({})).await.0, 422, "the record is rejected again");
        world.execute_sql("alter table {schema}.fee_fine drop constraint small").await;
        assert_eq!(world.post(&retry, &json!({})).await.0, 204);
        assert_eq!(world.post(&retry, &json!({})).await.0, 404, "the dead letter is deleted");
        let every = "/patron-blocks/dead-letters/retry";
        assert_eq!(world.post(every, &json!({})).await.0, 400, "the request requires a query");
        let (status, report) =
            world.post(&format!("{every}?query=cql.allRecords=1"), &json!({})).await;
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!((status, report), (200, json!({ "applied": 1, "stillParked": 1 })));
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openFeesFines"].as_array().unwrap().len(), 2);

        let bad = "/patron-blocks/dead-letters?query=reason==bad_field%20or%20field";
        assert_eq!(world.get(bad).await.0, 400);
        let bad = "/patron-blocks/dead-letters?query=reason==missing_field%20and%20field==loanId";
        let (status, output) = world.delete(bad).await;
        assert_eq!((status, output.as_str()), (200, "{\"discarded\":1}"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cli_handles_dead_letters_without_tenant() {
    World::run(async |world| {
        let (user, tomorrow) = (Uuid::new_v4(), minutes_from_now(1440));
        let payload = check_out(user, Uuid::new_v4(), &tomorrow).to_string();
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let draft = |payload| OutgoingRecord {
            topic: topic.clone(),
            headers: vec![("folio.tenantId", "southlib")],
            payload: Some(payload),
            timestamp: None,
        };
        world.log.send_untracked(draft(payload.as_bytes())).await;
        world.log.send_untracked(draft(b"no json")).await;
        let parked = "select count(*) from mod_patron_blocks.dead_letter";
        world
            .until("two dead letters are stored", async |w: &World| w.count(parked).await == 2)
            .await;

        let (code, output) = run_cli(world, &["dead-letters", "list"]);
        assert_eq!((code, output.lines().count()), (Some(0), 2), "{output}");
        assert!(output.contains("tenant_mismatch"), "{output}");
        // The operator has found that the header was wrong.
        world.execute_sql("update mod_patron_blocks.dead_letter set headers = '[]'").await;
        let (code, output) = run_cli(world, &["dead-letters", "retry", "--json"]);
        assert_eq!(
            (code, output.lines().count()),
            (Some(1), 2),
            "one record is still rejected: {output}"
        );
        assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 200);
        let (code, output) = run_cli(world, &["dead-letters", "discard", "--topic", &topic]);
        assert_eq!((code, output.as_str()), (Some(0), "discarded: 1\n"));
        assert_eq!(run_cli(world, &["dead-letters", "show", "x"]).0, Some(2));
        assert_eq!(run_cli(world, &["incidents", "list"]), (Some(0), String::new()));
        let unknown_id = Uuid::new_v4().to_string();
        assert_eq!(run_cli(world, &["incidents", "resolve", &unknown_id]).0, Some(2));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_status_shows_progress_waiting_facts_and_lag() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        world.publish(Kind::ItemDeclaredLost, &loan_event(user, Uuid::new_v4())).await;
        let owed = json!({ "feeFineId": Uuid::new_v4(), "balance": 3.5 });
        world.publish(Kind::FeeFineBalanceChanged, &owed).await;
        world.until_committed().await;
        let status = world.get_json("/patron-blocks/ingest").await;
        assert_eq!(status["waiting"], json!({ "loans": 1, "feesFines": 1 }));
        assert_eq!((&status["lag"], &status["deadLetters"]), (&json!(0), &json!(0)));
        assert_eq!(status["totalRecords"], 20, "two partitions of each of ten topics");
        let lost = world.log.topic(TENANT, Kind::ItemDeclaredLost);
        let partitions = status["partitions"].as_array().unwrap();
        let read: i64 = partitions
            .iter()
            .filter(|partition| partition["topic"] == json!(lost))
            .filter_map(|partition| partition["position"].as_i64())
            .sum();
        assert_eq!(read, 1);
        assert!(partitions.iter().all(|partition| partition["logEnd"].is_i64()), "{status}");
        assert_eq!(
            world.get(&format!("/user-summary/{user}")).await.0,
            404,
            "a loan without an owner counts for no patron"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_exist_from_the_start_and_change() {
    World::run(async |world| {
        let figure = |text: &str, name: &str| -> Option<f64> {
            let line = text.lines().find(|line| line.starts_with(name))?;
            line.rsplit(' ').next()?.parse().ok()
        };
        let applied = "patron_blocks_records_total{outcome=\"applied\"}";
        let (_, before) = world.get("/metrics").await;
        for name in [
            "patron_blocks_dead_letters_total{kind=\"LOAN_CLOSED\",reason=\"no_tenant\"}",
            "patron_blocks_incidents_open{kind=\"records_lost\"}",
            "patron_blocks_incidents_total{kind=\"offsets_reset\"}",
            "patron_blocks_events_timed_total{by=\"record_envelope_ahead\"}",
            "patron_blocks_partitions{stage=\"stopped\"}",
            "patron_blocks_connections{pool=\"web\",state=\"idle\"}",
        ] {
            assert!(figure(&before, name).is_some(), "{name} is not in {before}");
        }
        world
            .publish(
                Kind::ItemCheckedOut,
                &check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60)),
            )
            .await;
        world.until_committed().await;
        let (_, after) = world.get("/metrics").await;
        assert!(figure(&after, applied) > figure(&before, applied), "{after}");
        assert!(after.contains("patron_blocks_event_latency_seconds_bucket{le=\"0.02\"}"));
        let lag = format!(
            "patron_blocks_lag_records{{topic=\"{}\"",
            world.log.topic(TENANT, Kind::ItemCheckedOut)
        );
        world
            .until("the lag is 0", async |world: &World| {
                figure(&world.get("/metrics").await.1, &lag) == Some(0.0)
            })
            .await;
        // Another story may disable a tenant of this name, which removes the tenant's metrics.
        let of_tenant = format!("tenant=\"{TENANT}\",outcome=\"applied\"");
        world
            .until("the metrics of the tenant are shown", async |world: &World| {
                world.get("/metrics").await.1.contains(&of_tenant)
            })
            .await;
    })
    .await;
}
