//! How certain an evaluation is: lag, silence, an incomplete history, dead letters and callbacks. The rows are those of
//! docs/contract/insight.md#8-cases-of-certainty.

use std::panic::AssertUnwindSafe;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::FutureExt as _;
use patron_blocks::{
    blocks::Measure,
    event::{Kind, TenantId},
    store::{self, tenants},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{check_out, in_envelope, loan_event, minutes_from_now, now, storage_loan},
    storage_stub::LOANS,
    users_stub::UsersBehavior,
    world::{TENANT, World},
};

const CERTAINTY: &str = "/patron-blocks/certainty";
const SYNCHRONIZATION: &str = "/automated-patron-blocks/synchronization";

/// Returns state, instant and body of an evaluation.
async fn evaluate(world: &World, user: Uuid) -> (String, Option<DateTime<Utc>>, Value) {
    let path = format!("/automated-patron-blocks/{user}");
    let request = world.request(Method::GET, &path).header("X-Okapi-Tenant", TENANT);
    let response = request.header("X-Okapi-Url", world.users.url()).send().await.unwrap();
    let header =
        |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let state = header("X-Patron-Blocks-Certainty").unwrap();
    let as_of = header("X-Patron-Blocks-As-Of").map(|text| text.parse().unwrap());
    (state, as_of, response.json().await.unwrap())
}

/// Waits until an evaluation has this state. A failure shows what the last state follows from.
async fn until_state(world: &World, user: Uuid, state: &str) {
    let what = format!("the evaluation is {state}");
    let wait = world.until(&what, async |w: &World| evaluate(w, user).await.0 == state);
    if let Err(panic) = AssertUnwindSafe(wait).catch_unwind().await {
        let found = evaluate(world, user).await;
        let report = world.get_json(&format!("{CERTAINTY}?userId={user}")).await;
        let ingest = world.get_json("/patron-blocks/ingest").await;
        eprintln!("evaluation {found:?}\ncertainty {report}\ningest {ingest}");
        std::panic::resume_unwind(panic);
    }
}

/// Returns a patron with one loan under a limit of zero.
async fn blocked_patron(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    world.add_limit(group, Measure::ChargedOut, 0.0).await;
    let user = world.users.add_patron(group);
    let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &payload).await;
    world.until_committed().await;
    user
}

/// Row 1.
#[tokio::test(flavor = "multi_thread")]
async fn evaluation_is_certain_while_all_records_are_applied() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        until_state(world, user, "certain").await;
        let before = now();
        let (state, as_of, _) = evaluate(world, user).await;
        assert_eq!(state, "certain");
        let age = before - as_of.unwrap();
        assert!(age < TimeDelta::seconds(30), "{age}");
        world
            .until("the instant is at most two seconds old", async |w: &World| {
                now() - evaluate(w, user).await.1.unwrap() < TimeDelta::seconds(2)
            })
            .await;
        // The positions of the last records reach the comparison a moment after their commit.
        world
            .until("all records are applied", async |w: &World| {
                w.get_json(CERTAINTY).await["lagRecords"] == 0
            })
            .await;
        let of_tenant = world.get_json(CERTAINTY).await;
        assert_eq!((&of_tenant["state"], &of_tenant["sources"]), (&json!("certain"), &json!([])));
        assert_eq!(
            (&of_tenant["channel"], &of_tenant["knowledge"]),
            (&json!("log"), &json!("complete"))
        );
    })
    .await;
}

/// Row 2: a long transaction of an operator stops ingest of the tenant.
#[tokio::test(flavor = "multi_thread")]
async fn evaluation_is_late_while_old_records_wait() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        until_state(world, user, "certain").await;
        let body = evaluate(world, user).await.2;
        let mut lock = store::begin(&world.db).await.unwrap();
        let tenant = TenantId::parse(TENANT).unwrap();
        tenants::lock_exclusive(&mut lock, &tenant).await.unwrap();
        let oldest = now() - TimeDelta::seconds(90);
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let payload = check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60)).to_string();
        let draft = |seconds: i64| OutgoingRecord {
            topic: topic.clone(),
            headers: vec![],
            payload: Some(payload.as_bytes()),
            timestamp: Some((oldest + TimeDelta::seconds(seconds)).timestamp_millis()),
        };
        world.log.send_all_to_partition(0, (0..10).map(draft)).await;
        until_state(world, user, "late").await;
        let (_, as_of, late_body) = evaluate(world, user).await;
        assert_eq!((as_of, &late_body), (Some(oldest), &body));
        let of_tenant = world.get_json(CERTAINTY).await;
        assert_eq!((&of_tenant["state"], &of_tenant["lagRecords"]), (&json!("late"), &json!(10)));
        let source = &of_tenant["sources"][0];
        assert_eq!((&source["topic"], &source["lag"]), (&json!(topic), &json!(10)));
        lock.rollback().await.unwrap();
        until_state(world, user, "certain").await;
    })
    .await;
}

/// Row 3.
#[tokio::test(flavor = "multi_thread")]
async fn silent_topic_is_not_late() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let week_ago = now() - TimeDelta::days(7);
        let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(60)).to_string();
        let record = OutgoingRecord {
            topic: world.log.topic(TENANT, Kind::ItemCheckedOut),
            headers: vec![],
            payload: Some(payload.as_bytes()),
            timestamp: Some(week_ago.timestamp_millis()),
        };
        world.log.send(record).await;
        world.until_committed().await;
        until_state(world, user, "certain").await;
    })
    .await;
}

/// Row 5.
#[tokio::test(flavor = "multi_thread")]
async fn snapshot_makes_a_patron_of_an_incomplete_tenant_certain() {
    World::run(async |world| {
        let (user, other) = (blocked_patron(world).await, Uuid::new_v4());
        until_state(world, user, "certain").await;
        world
            .execute_sql(
                "update mod_patron_blocks.tenant set incomplete_before = now();
                 select pg_notify('mod_patron_blocks_tenant', 'a test')",
            )
            .await;
        until_state(world, user, "incomplete").await;
        let loan = Uuid::new_v4();
        world.users.storage.insert(LOANS, storage_loan(user, loan, &minutes_from_now(60)));
        let job = json!({ "scope": "user", "userId": user });
        assert_eq!(world.post(&format!("{SYNCHRONIZATION}/job"), &job).await.0, 201);
        let start = world.request(Method::POST, &format!("{SYNCHRONIZATION}/start"));
        assert_eq!(world.send(start.header("X-Okapi-Token", "a.b.c")).await.0, 202);
        until_state(world, user, "certain").await;
        assert_eq!(evaluate(world, other).await.0, "incomplete");
        // The horizon of the snapshot comes with the state, so an operator who locks the dead letters delays no evaluation.
        let mut lock = store::begin(&world.db).await.unwrap();
        let sql =
            format!("lock table {}.dead_letter in access exclusive mode", world.schema.name());
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *lock).await.unwrap();
        assert_eq!(evaluate(world, user).await.0, "certain");
        lock.rollback().await.unwrap();
    })
    .await;
}

/// Retention has deleted unread records, and an incident is open.
#[tokio::test(flavor = "multi_thread")]
async fn lost_records_make_the_history_incomplete() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        until_state(world, user, "certain").await;
        let raise = |tenant: &str| {
            format!(
                "insert into mod_patron_blocks.incident (incident_id, kind, tenant, topic, partition,
                   from_offset, to_offset, from_time, detail, raised_at)
                 values (gen_random_uuid(), 'records_lost', {tenant}, 't', 0, 1, 2, now(), 'gone', now())"
            )
        };
        world.execute_sql(&raise("'southlib'")).await;
        world.execute_sql(&raise(&format!("'{TENANT}'"))).await;
        until_state(world, user, "incomplete").await;
        world
            .execute_sql(&format!(
                "update mod_patron_blocks.incident set resolved_at = now() where tenant = '{TENANT}'"
            ))
            .await;
        until_state(world, user, "certain").await;
        // The collection may have contained records of the tenant.
        world.execute_sql(&raise("null")).await;
        until_state(world, user, "incomplete").await;
        assert_eq!(world.take_incidents().await.len(), 2);
        until_state(world, user, "certain").await;
    })
    .await;
}

/// Row 6.
#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_makes_its_patron_doubtful_until_discarded() {
    World::run(async |world| {
        let (user, loan, other) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        world.publish(Kind::ItemCheckedOut, &check_out(user, loan, &minutes_from_now(60))).await;
        world.until_committed().await;
        until_state(world, user, "certain").await;
        // The due date is missing, and the loan alone names the patron.
        let bad = json!({ "loanId": loan, "userId": "unknown", "dueDate": null });
        world.publish(Kind::LoanDueDateChanged, &bad).await;
        until_state(world, user, "doubtful").await;
        assert_eq!(evaluate(world, other).await.0, "certain");
        let named = json!({ "userId": other });
        world.publish(Kind::ItemCheckedOut, &named).await;
        until_state(world, other, "doubtful").await;
        let certainty = world.get_json(&format!("{CERTAINTY}?userId={user}")).await;
        let letters = certainty["patron"]["deadLetters"].as_array().unwrap();
        assert_eq!((&certainty["state"], letters.len()), (&json!("doubtful"), 1));
        let discard = format!("/patron-blocks/dead-letters/{}", letters[0].as_str().unwrap());
        assert_eq!(world.delete(&discard).await.0, 204);
        until_state(world, user, "certain").await;
        assert_eq!(evaluate(world, other).await.0, "doubtful");
        assert_eq!(world.take_dead_letters().await.len(), 1);
        until_state(world, other, "certain").await;
    })
    .await;
}

/// A waiting record of another tenant names no patron of this tenant.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_dead_letter_of_another_tenant_concerns_no_patron() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let insert = |tenant: &str| {
            format!(
                "insert into mod_patron_blocks.dead_letter (dead_letter_id, reason, rule, topic, partition,
                   \"offset\", received_at, headers, payload, subjects, tenant)
                 values (gen_random_uuid(), 'storage', 'r', 't', 0, 0, now(), '[]', '', '{{{user}}}', {tenant})"
            )
        };
        until_state(world, user, "certain").await;
        world.execute_sql(&insert("'southlib'")).await;
        // The tenant of the second record is unknown.
        for tenant in [format!("'{TENANT}'"), "null".to_owned()] {
            world.execute_sql(&insert(&tenant)).await;
            until_state(world, user, "doubtful").await;
            let delete = "delete from mod_patron_blocks.dead_letter where tenant is distinct from 'southlib'";
            world.execute_sql(delete).await;
            until_state(world, user, "certain").await;
        }
        world.take_dead_letters().await;
    })
    .await;
}

/// The stopped partition may contain records of any patron.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_partition_makes_every_patron_doubtful() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        until_state(world, user, "certain").await;
        let topic = world.log.topic(TENANT, Kind::FeeFineBalanceChanged);
        let draft = |_| OutgoingRecord {
            topic: topic.clone(),
            headers: vec![],
            payload: Some(b"{}"),
            timestamp: None,
        };
        world.log.send_all_to_partition(0, (0..150).map(draft)).await;
        world
            .until("the tenant is doubtful", async |w: &World| {
                w.get_json(CERTAINTY).await["state"] == "doubtful"
            })
            .await;
        let certainty = world.get_json(CERTAINTY).await;
        assert_eq!(certainty["sources"][0]["stopped"], true);
        assert_eq!(evaluate(world, user).await.0, "doubtful");
        // The state survives a restart, although the partition has no start offset then.
        world.stop().await;
        world.start_unready().await;
        until_state(world, user, "doubtful").await;
        let incidents = world.get_json("/patron-blocks/ingest").await["incidents"].clone();
        let id = incidents[0]["id"].as_str().unwrap();
        let resolve = format!("/patron-blocks/incidents/{id}/resolve");
        assert_eq!(world.post(&resolve, &json!({})).await.0, 204);
        world.until_committed().await;
        world.take_dead_letters().await;
        until_state(world, user, "certain").await;
    })
    .await;
}

/// The group of a patron is only the last known one while mod-users fails.
#[tokio::test(flavor = "multi_thread")]
async fn outdated_group_makes_an_evaluation_doubtful() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        until_state(world, user, "certain").await;
        world.users.set_behavior(UsersBehavior::ServerError);
        until_state(world, user, "doubtful").await;
        let certainty = world.get_json(&format!("{CERTAINTY}?userId={user}")).await;
        assert_eq!(certainty["patron"]["groupCurrent"], false);
        world.users.set_behavior(UsersBehavior::Normal);
        until_state(world, user, "certain").await;
    })
    .await;
}

/// Row 13: producers of the tenant write no topic.
#[tokio::test(flavor = "multi_thread")]
async fn tenant_with_callbacks_only_is_never_certain_by_lag() {
    World::run(async |world| {
        let of =
            |method, path: &str| world.request(method, path).header("X-Okapi-Tenant", "southlib");
        let enable = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let enabled = of(Method::POST, "/_/tenant").json(&enable).send().await.unwrap();
        let job: Value = enabled.json().await.unwrap();
        let job = format!("/_/tenant/{}?wait=60000", job["id"].as_str().unwrap());
        assert_eq!(of(Method::GET, &job).send().await.unwrap().status(), 200);
        let certainty = async || -> Value {
            of(Method::GET, CERTAINTY).send().await.unwrap().json().await.unwrap()
        };
        world
            .until("the history of the tenant is complete", async |_: &World| {
                let certainty = certainty().await;
                certainty["knowledge"] == "complete" && certainty["channel"] == "callbacks"
            })
            .await;
        let found = certainty().await;
        assert_eq!((&found["state"], &found["asOf"]), (&json!("late"), &Value::Null));
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let event = check_out(user, loan, &minutes_from_now(60));
        let before = now();
        let sent = of(Method::POST, &Kind::ItemCheckedOut.http_path()).json(&event).send().await;
        assert_eq!(sent.unwrap().status(), 204);
        world
            .until("the callback is reported", async |_: &World| {
                certainty().await["asOf"].is_string()
            })
            .await;
        let found = certainty().await;
        let as_of: DateTime<Utc> = found["asOf"].as_str().unwrap().parse().unwrap();
        assert!(as_of - before < TimeDelta::seconds(30), "{as_of}");
        assert_eq!((&found["state"], &found["channel"]), (&json!("late"), &json!("callbacks")));
    })
    .await;
}

/// Several instances share the partitions, and each knows the progress of all.
#[tokio::test(flavor = "multi_thread")]
async fn instances_know_the_partitions_of_each_other() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let first = world.url().to_owned();
        world.start().await;
        world
            .until("both instances read partitions", async |w: &World| {
                w.partitions_read().await.iter().all(|partitions| *partitions > 0)
            })
            .await;
        let second = world.url().to_owned();
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        let mut lock = store::begin(&world.db).await.unwrap();
        let tenant = TenantId::parse(TENANT).unwrap();
        tenants::lock_exclusive(&mut lock, &tenant).await.unwrap();
        let payload = check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60)).to_string();
        for partition in 0..2 {
            let timestamp = Some((now() - TimeDelta::seconds(90)).timestamp_millis());
            let record = OutgoingRecord {
                topic: topic.clone(),
                headers: vec![],
                payload: Some(payload.as_bytes()),
                timestamp,
            };
            world.log.send_to_partition(partition, record).await;
        }
        for url in [&first, &second] {
            world.use_instance(url);
            until_state(world, user, "late").await;
            assert_eq!(world.get_json(CERTAINTY).await["lagRecords"], 2);
        }
        lock.rollback().await.unwrap();
        for url in [&first, &second] {
            world.use_instance(url);
            until_state(world, user, "certain").await;
        }
        // The remaining instance takes over the partitions, and its view is certain again.
        world.use_instance(&second);
        world.stop_oldest().await;
        world
            .until("the instant of the remaining instance advances", async |w: &World| {
                let (state, as_of, _) = evaluate(w, user).await;
                state == "certain" && now() - as_of.unwrap() < TimeDelta::seconds(3)
            })
            .await;
    })
    .await;
}

/// An operator's lock on the dead letters delays no evaluation; the evaluation is doubtful meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn locked_dead_letters_delay_no_evaluation() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        until_state(world, user, "certain").await;
        let mut lock = store::begin(&world.db).await.unwrap();
        let sql = format!("lock table {}.dead_letter", world.schema.name());
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *lock).await.unwrap();
        until_state(world, user, "doubtful").await;
        assert_eq!(world.block_flags(user).await, [[true; 3]]);
        lock.rollback().await.unwrap();
        until_state(world, user, "certain").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certainty_counts_waiting_loans_and_rejects_a_wrong_id() {
    World::run(async |world| {
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let at = now() - TimeDelta::minutes(5);
        let claimed = in_envelope(&loan_event(user, loan), at);
        world.publish(Kind::ItemClaimedReturned, &claimed).await;
        world.until_committed().await;
        let certainty = world.get_json(&format!("{CERTAINTY}?userId={user}")).await;
        assert_eq!(certainty["patron"]["waitingLoans"], 1);
        let (status, text) = world.get(&format!("{CERTAINTY}?userId=x")).await;
        assert_eq!((status, text.as_str()), (400, "Invalid user UUID: \"x\""));
        world.publish(Kind::ItemCheckedOut, &check_out(user, loan, &minutes_from_now(60))).await;
        world.until_committed().await;
    })
    .await;
}
