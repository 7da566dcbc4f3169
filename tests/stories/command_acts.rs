//! Acts of the command line in the log of acts.

use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    payloads::{check_out, minutes_from_now},
    world::{TENANT, World},
};
use patron_blocks::event::Kind;

const REASON: &str = "ticket 4711";

/// An entry of a log: action, subject, reason, detail and outcome.
type Entry = (String, Option<String>, Option<String>, Value, String);

/// Returns the acts of the command line in the log of a schema.
async fn log(world: &World, schema: &str) -> Vec<Entry> {
    let sql = format!(
        "select action, subject, reason, detail, outcome from {schema}.operator_action
          where door = 'command-line' order by number"
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&world.db).await.unwrap()
}

fn entry(action: &str, subject: Option<&str>, detail: Value, outcome: &str) -> Entry {
    let (subject, reason) = (subject.map(str::to_owned), Some(REASON.to_owned()));
    (action.to_owned(), subject, reason, detail, outcome.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn repair_of_counters_is_in_the_log() {
    World::run(async |world| {
        let payload = check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &payload).await;
        world.until_committed().await;
        let repair = ["check", "--repair", "--reason", REASON];
        assert_eq!(run_cli(world, &repair).0, Some(0));
        assert_eq!(log(world, world.schema.name()).await, [], "nothing was wrong");
        world.execute_sql("update {schema}.patron_counter set open_loans = 7").await;
        let (code, output) = run_cli(world, &repair);
        assert_eq!(
            (code, output.contains("1 patrons with wrong counters, repaired")),
            (Some(0), true),
            "{output}"
        );
        let expected = entry("repair-counters", None, json!({ "patrons": 1 }), "done");
        assert_eq!(log(world, world.schema.name()).await, [expected]);
        assert_eq!(run_cli(world, &["check", "--repair", "--reason", "?"]).0, Some(2));
    })
    .await;
}

/// The schema of a tenant may not exist before its enabling, and a return deletes the log of the tenant.
#[tokio::test(flavor = "multi_thread")]
async fn acts_on_a_whole_tenant_are_in_the_log_of_the_module() {
    World::run(async |world| {
        let enable = ["tenants", "enable", "--tenant", "southlib", "--reason", REASON];
        assert_eq!(run_cli(world, &enable).0, Some(0));
        let give_back = ["give-back", "--tenant", TENANT, "--reason", REASON];
        assert_eq!(run_cli(world, &give_back).0, Some(1), "the tenant was none of the Java module");
        let found = log(world, "mod_patron_blocks").await;
        assert_eq!(found[0], entry("enable-tenant", Some("southlib"), json!({}), "done"));
        let (action, subject, _, detail, outcome) = &found[1];
        assert_eq!(
            (&**action, subject.as_deref(), &**outcome),
            ("give-back-tenant", Some(TENANT), "failed")
        );
        assert!(detail["why"].as_str().unwrap().contains("already given back"), "{detail}");
        assert_eq!(log(world, world.schema.name()).await, []);
    })
    .await;
}

/// An incident outlives the schema of its tenant.
#[tokio::test(flavor = "multi_thread")]
async fn incident_of_a_tenant_without_a_log_is_resolved() {
    World::run(async |world| {
        let id = Uuid::new_v4();
        let raise = format!(
            "insert into mod_patron_blocks.incident
               (incident_id, kind, topic, partition, from_offset, to_offset, detail, tenant, raised_at)
             values ('{id}', 'records_lost', 'lost.topic', 3, 7, 9, 'two records', 'southlib', now())"
        );
        world.execute_sql(&raise).await;
        let id = id.to_string();
        let resolve = ["incidents", "resolve", &id, "--tenant", "southlib", "--reason", REASON];
        let (code, output) = run_cli(world, &resolve);
        assert_eq!(code, Some(0), "{output}");
        let expected =
            entry("resolve-incident", Some(&id), json!({ "tenant": "southlib" }), "done");
        assert_eq!(log(world, "mod_patron_blocks").await, [expected]);
    })
    .await;
}
