//! What the certainty policy does with an evaluation that is not certain. The rows are those of
//! docs/contract/insight.md#8-cases-of-certainty.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use patron_blocks::{
    blocks::Measure,
    event::Kind,
    store::{self, Tx},
};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{
        balance_change, check_out, in_envelope, minutes_from_now, now, storage_loan, with_member,
    },
    storage_stub::{ACCOUNTS, Fault, LOANS},
    users_stub::UsersBehavior,
    world::{TENANT, World},
};

const POLICY: &str = "/patron-blocks/certainty-policy";

/// The headers and the body of an evaluation.
struct Answer {
    certainty: String,
    policy: Option<String>,
    blocks: Vec<Value>,
}

async fn evaluate(world: &World, user: Uuid) -> Answer {
    let path = format!("/automated-patron-blocks/{user}");
    let request = world.request(Method::GET, &path).header("X-Okapi-Tenant", TENANT);
    let request = request.header("X-Okapi-Url", world.users.url()).header("X-Okapi-Token", "a.b.c");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), 200);
    let header =
        |name: &str| response.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (certainty, policy) =
        (header("X-Patron-Blocks-Certainty"), header("X-Patron-Blocks-Policy"));
    let body: Value = response.json().await.unwrap();
    let blocks = body["automatedPatronBlocks"].as_array().unwrap().clone();
    Answer { certainty: certainty.unwrap(), policy, blocks }
}

async fn set_policy(world: &World, policy: &Value) {
    let (status, body) = world.put(POLICY, policy).await;
    assert_eq!(status, 204, "{body}");
}

/// Publishes check-outs of an hour ago, under a limit of this value, and returns patron and loans.
async fn borrow(world: &World, loans: usize, limit: f64) -> (Uuid, Vec<Uuid>) {
    let group = Uuid::new_v4();
    world.add_limit(group, Measure::ChargedOut, limit).await;
    let user = world.users.add_patron(group);
    let loans: Vec<Uuid> = (0..loans).map(|_| Uuid::new_v4()).collect();
    for loan in &loans {
        let payload = check_out(user, *loan, &minutes_from_now(1440));
        let at = now() - TimeDelta::hours(1);
        world.publish(Kind::ItemCheckedOut, &in_envelope(&payload, at)).await;
    }
    world.until_committed().await;
    (user, loans)
}

fn store_loans(world: &World, user: Uuid, loans: &[Uuid]) {
    for loan in loans {
        world.users.storage.insert(LOANS, storage_loan(user, *loan, &minutes_from_now(1440)));
    }
}

/// Stops the exchange of progress reports, so every evaluation becomes late.
async fn make_late(world: &World, user: Uuid) -> Tx {
    let mut lock = store::begin(&world.db).await.unwrap();
    sqlx::query("lock table mod_patron_blocks.ingest_instance").execute(&mut *lock).await.unwrap();
    world
        .until("the evaluation is late", async |w: &World| {
            evaluate(w, user).await.certainty == "late"
        })
        .await;
    lock
}

fn asks_if_late() -> Value {
    json!({ "lateSeconds": 5, "policy": { "late": { "borrowing": "ask" } } })
}

/// Row 7: storage has one loan fewer.
#[tokio::test(flavor = "multi_thread")]
async fn question_to_storage_heals_a_late_evaluation() {
    World::run(async |world| {
        let (user, loans) = borrow(world, 3, 2.0).await;
        assert_eq!(world.block_flags(user).await, [[true; 3]]);
        set_policy(world, &json!({ "lateSeconds": 5 })).await;
        let lock = make_late(world, user).await;
        let fee = Uuid::new_v4();
        store_loans(world, user, &loans[1..2]);
        let account = json!({
            "id": fee, "userId": user, "feeFineId": Uuid::new_v4(), "remaining": 2.5, "loanId": "0",
            "status": { "name": "Open" },
        });
        world.users.storage.insert(ACCOUNTS, account);
        set_policy(world, &asks_if_late()).await;
        let answer = evaluate(world, user).await;
        assert_eq!(answer.policy.as_deref(), Some("ask/answered"));
        assert_eq!((answer.certainty.as_str(), answer.blocks.len()), ("certain", 0));
        let asked = world.users.storage.request_count();
        let answer = evaluate(world, user).await;
        assert_eq!((answer.certainty.as_str(), answer.policy), ("certain", None));
        assert_eq!(world.users.storage.request_count(), asked);
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openLoans"].as_array().unwrap().len(), 1);
        assert_eq!(summary["openLoans"][0]["loanId"], json!(loans[1]));
        assert_eq!(summary["openFeesFines"][0]["balance"], 2.5);
        lock.rollback().await.unwrap();
    })
    .await;
}

/// Row 8.
#[tokio::test(flavor = "multi_thread")]
async fn silent_storage_delays_an_evaluation_until_the_deadline() {
    World::run(async |world| {
        let (user, loans) = borrow(world, 3, 2.0).await;
        let mut policy = asks_if_late();
        policy["askDeadlineMs"] = json!(300);
        set_policy(world, &json!({ "lateSeconds": 5 })).await;
        let lock = make_late(world, user).await;
        store_loans(world, user, &loans);
        world.users.storage.set_faults([Fault::Hang; 100]);
        set_policy(world, &policy).await;
        let began = Instant::now();
        let answer = evaluate(world, user).await;
        let took = began.elapsed();
        assert!((Duration::from_millis(250)..Duration::from_secs(5)).contains(&took), "{took:?}");
        assert_eq!(answer.policy.as_deref(), Some("ask/timeout"));
        assert_eq!((answer.certainty.as_str(), answer.blocks.len()), ("late", 1));
        world.users.storage.set_faults([]);
        assert_eq!(evaluate(world, user).await.policy.as_deref(), Some("ask/answered"));
        lock.rollback().await.unwrap();
    })
    .await;
}

/// Row 9.
#[tokio::test(flavor = "multi_thread")]
async fn five_failures_stop_the_questions() {
    World::run(async |world| {
        let (user, _) = borrow(world, 1, 2.0).await;
        set_policy(world, &json!({ "lateSeconds": 5 })).await;
        let lock = make_late(world, user).await;
        world.users.storage.set_faults([Fault::Status(503); 100]);
        set_policy(world, &asks_if_late()).await;
        for _ in 0..5 {
            assert_eq!(evaluate(world, user).await.policy.as_deref(), Some("ask/failed"));
        }
        for _ in 0..6 {
            assert_eq!(evaluate(world, user).await.policy.as_deref(), Some("ask/circuit-open"));
        }
        // A question sends two requests, and the failure of one cancels the other, which may still arrive.
        let asked = world.users.storage.request_count();
        assert!((5..=10).contains(&asked), "{asked} requests");
        let metrics = world.get("/metrics").await.1;
        assert!(
            metrics.contains("patron_blocks_storage_questions_total{outcome=\"circuit-open\"}")
        );
        lock.rollback().await.unwrap();
    })
    .await;
}

/// Row 10, and every other response that must not be merged.
#[tokio::test(flavor = "multi_thread")]
async fn implausible_response_is_not_merged() {
    World::run(async |world| {
        let (user, loans) = borrow(world, 9, 8.0).await;
        let fees: Vec<Uuid> = (0..3).map(|_| Uuid::new_v4()).collect();
        for fee in &fees {
            let payload = balance_change(user, *fee, None, 1.0);
            world.publish(Kind::FeeFineBalanceChanged, &payload).await;
        }
        world.until_committed().await;
        set_policy(world, &json!({ "lateSeconds": 5 })).await;
        let lock = make_late(world, user).await;
        set_policy(world, &asks_if_late()).await;
        let open = "select count(*) from {schema}.loan where is_open";
        let outcome = async |expected: &str| {
            let answer = evaluate(world, user).await;
            assert_eq!(answer.policy.as_deref(), Some(expected));
            assert_eq!((answer.certainty.as_str(), answer.blocks.len()), ("late", 1));
            assert_eq!(world.count(open).await, 9);
        };
        outcome("ask/implausible").await;
        // The loans are there, and the fees/fines are not.
        store_loans(world, user, &loans);
        outcome("ask/implausible").await;
        // A loan of another patron, as after a query that a module ignored.
        for fee in &fees {
            let account = json!({ "id": fee, "userId": user, "remaining": 1, "loanId": "0" });
            world.users.storage.insert(ACCOUNTS, account);
        }
        let unreadable = with_member(&storage_loan(user, loans[0], "never"), "dueDate", json!([]));
        world.users.storage.insert(LOANS, unreadable);
        outcome("ask/unreadable").await;
        world.users.storage.accept_only_token("another");
        outcome("ask/rejected").await;
        world.users.storage.accept_only_token("a.b.c");
        store_loans(world, user, &loans);
        assert_eq!(evaluate(world, user).await.policy.as_deref(), Some("ask/answered"));
        lock.rollback().await.unwrap();
    })
    .await;
}

/// Row 11.
#[tokio::test(flavor = "multi_thread")]
async fn policy_adds_one_block_to_a_doubtful_evaluation() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let policy = json!({
            "policy": { "doubtful": { "borrowing": "block" } }, "message": "Please ask at the desk.",
        });
        set_policy(world, &policy).await;
        world.publish(Kind::ItemCheckedOut, &json!({ "userId": user })).await;
        world
            .until("the policy blocks", async |w: &World| evaluate(w, user).await.policy.is_some())
            .await;
        let answer = evaluate(world, user).await;
        assert_eq!(answer.policy.as_deref(), Some("block"));
        let block = json!({
            "blockBorrowing": true, "blockRenewals": false, "blockRequests": false,
            "message": "Please ask at the desk.",
        });
        assert_eq!(answer.blocks, [block]);
        world.take_dead_letters().await;
        world
            .until("the evaluation is certain", async |w: &World| {
                let answer = evaluate(w, user).await;
                answer.certainty == "certain" && answer.blocks.is_empty() && answer.policy.is_none()
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_allows_actions_of_a_doubtful_evaluation() {
    World::run(async |world| {
        let (user, _) = borrow(world, 3, 2.0).await;
        let doubtful = json!({ "borrowing": "allow", "requests": "block" });
        set_policy(world, &json!({ "policy": { "doubtful": doubtful } })).await;
        world.publish(Kind::ItemCheckedOut, &json!({ "userId": user })).await;
        world
            .until("the policy allows", async |w: &World| evaluate(w, user).await.policy.is_some())
            .await;
        let answer = evaluate(world, user).await;
        assert_eq!(answer.policy.as_deref(), Some("block, allow"));
        let flags = |block: &Value| {
            ["blockBorrowing", "blockRenewals", "blockRequests"].map(|flag| block[flag] == true)
        };
        let flags: Vec<_> = answer.blocks.iter().map(flags).collect();
        assert_eq!(flags, [[false, true, true], [false, false, true]]);
        world.take_dead_letters().await;
    })
    .await;
}

/// A snapshot contains no patron group, and any id may be in a request.
#[tokio::test(flavor = "multi_thread")]
async fn questions_that_cannot_help_are_not_asked() {
    World::run(async |world| {
        let (user, _) = borrow(world, 3, 2.0).await;
        let reactions = json!({ "borrowing": "ask" });
        let policy =
            json!({ "lateSeconds": 5, "policy": { "doubtful": reactions, "late": reactions } });
        world
            .until("the evaluation is certain", async |w: &World| {
                evaluate(w, user).await.certainty == "certain"
            })
            .await;
        world.users.set_behavior(UsersBehavior::ServerError);
        set_policy(world, &policy).await;
        let answer = evaluate(world, user).await;
        assert_eq!((answer.certainty.as_str(), answer.policy), ("doubtful", None));
        assert_eq!((answer.blocks.len(), world.users.storage.request_count()), (1, 0));
        world.users.set_behavior(UsersBehavior::Normal);
        let lock = make_late(world, user).await;
        let unknown = Uuid::new_v4();
        assert_eq!(evaluate(world, unknown).await.policy.as_deref(), Some("ask/answered"));
        let horizons =
            format!("select count(*) from {{schema}}.patron_horizon where user_id = '{unknown}'");
        assert_eq!(world.count(&horizons).await, 0);
        lock.rollback().await.unwrap();
    })
    .await;
}

/// At most four questions of a tenant wait at once.
#[tokio::test(flavor = "multi_thread")]
async fn fifth_question_at_once_is_not_asked() {
    World::run(async |world| {
        let (user, _) = borrow(world, 1, 2.0).await;
        set_policy(world, &json!({ "lateSeconds": 5 })).await;
        let lock = make_late(world, user).await;
        let mut policy = asks_if_late();
        policy["askDeadlineMs"] = json!(4000);
        set_policy(world, &policy).await;
        world.users.storage.set_faults([Fault::Hang; 100]);
        let world = &*world;
        let asking = futures_util::future::join_all((0..4).map(|_| evaluate(world, user)));
        let fifth = async {
            world
                .until("four questions wait", async |w: &World| {
                    w.users.storage.request_count() >= 8
                })
                .await;
            evaluate(world, user).await
        };
        let (answers, fifth) = futures_util::future::join(asking, fifth).await;
        assert_eq!(fifth.policy.as_deref(), Some("ask/busy"));
        assert!(answers.iter().all(|answer| answer.policy.as_deref() == Some("ask/timeout")));
        lock.rollback().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_is_validated_and_a_stop_needs_a_confirmation() {
    World::run(async |world| {
        let default = world.get_json(POLICY).await;
        assert_eq!(
            (&default["lateSeconds"], &default["askDeadlineMs"]),
            (&json!(60), &json!(1500))
        );
        assert_eq!(default["policy"]["late"]["borrowing"], "as-known");
        for (policy, key) in [
            (json!({ "lateSeconds": 4 }), "lateSeconds"),
            (json!({ "lateSeconds": "60" }), "lateSeconds"),
            (json!({ "askDeadlineMs": 4001 }), "askDeadlineMs"),
            (json!({ "askDeadlineMs": -1 }), "askDeadlineMs"),
            (json!({ "message": "" }), "message"),
            (json!({ "message": "a\u{0}b" }), "message"),
            (json!({ "message": "x".repeat(1001) }), "message"),
            (json!({ "policy": [] }), "policy"),
            (json!({ "policy": { "certain": {} } }), "policy"),
            (json!({ "policy": { "late": 1 } }), "policy.late"),
            (json!({ "policy": { "late": { "check-out": "ask" } } }), "policy.late"),
            (json!({ "policy": { "late": { "borrowing": "deny" } } }), "policy.late.borrowing"),
            (json!({ "policy": { "late": { "renewals": 1 } } }), "policy.late.renewals"),
            (json!({ "late": {} }), "the body"),
        ] {
            let (status, body) = world.put(POLICY, &policy).await;
            assert_eq!(status, 422, "{policy}: {body}");
            let errors: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(errors["errors"][0]["parameters"][0]["key"], key, "{policy}");
        }
        assert_eq!(world.put(POLICY, &json!({ "confirm": "yes" })).await.0, 400);
        assert_eq!(world.get_json(POLICY).await, default);

        let user = Uuid::new_v4();
        for _ in 0..3 {
            evaluate(world, user).await;
        }
        let mut stop = json!({ "policy": { "late": { "borrowing": "block" } } });
        let (status, body) = world.put(POLICY, &stop).await;
        assert_eq!(status, 422);
        assert!(body.contains("of 3 evaluations of this instance"), "{body}");
        stop["confirm"] = json!(true);
        set_policy(world, &stop).await;
        let stored = world.get_json(POLICY).await;
        assert_eq!(stored["policy"]["late"]["borrowing"], "block");
        assert_eq!(stored.get("confirm"), None);
        // An absent member has its default again.
        set_policy(world, &json!({})).await;
        assert_eq!(world.get_json(POLICY).await, default);
    })
    .await;
}
