//! Instances with different clocks: one instance stores a time, and another compares it.

use chrono::TimeDelta;
use patron_blocks::{clock::Clock, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{balance_change, check_out, in_envelope, minutes_from_now, now},
    world::World,
};

const REBUILDS: &str = "/patron-blocks/rebuilds";
const SYNCHRONIZATION: &str = "/automated-patron-blocks/synchronization";

/// Returns a clock that is this number of minutes fast.
fn clock_ahead(minutes: i64) -> Clock {
    Clock::fixed_at(now() + TimeDelta::minutes(minutes))
}

async fn until_status(world: &World, path: &str, status: &str) -> Value {
    let what = format!("{path} is {status}");
    world.until(&what, async |world: &World| world.get_json(path).await["status"] == status).await;
    world.get_json(path).await
}

async fn open_loans(world: &World, user: Uuid) -> Vec<Value> {
    let summary = world.get_json_or_null(&format!("/user-summary/{user}")).await;
    let loans = summary["openLoans"].as_array().cloned().unwrap_or_default();
    loans.into_iter().map(|loan| loan["loanId"].clone()).collect()
}

/// Publishes a check-out of a new patron and a new loan at the current moment.
async fn check_out_now(world: &World) -> (Uuid, Uuid) {
    let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
    let out = in_envelope(&check_out(user, loan, &minutes_from_now(1440)), now());
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.until_committed().await;
    (user, loan)
}

async fn rebuild_an_hour_ahead(source: &'static str) {
    World::run(async |world| {
        // Moves the instant of enabling back, so that the inbox counts as complete.
        world.execute_sql(crate::support::payloads::BACKDATE_ENABLING_SQL).await;
        check_out_now(world).await;
        world.stop().await;
        world.start_with_clock(clock_ahead(60)).await;
        let ask = json!({ "source": source, "dryRun": true });
        let (status, body) = world.post(REBUILDS, &ask).await;
        assert_eq!(status, 201, "{body}");
        let asked: Value = serde_json::from_str(&body).unwrap();
        let path = format!("{REBUILDS}/{}", asked["id"].as_str().unwrap());
        until_status(world, &path, "compared").await;
        world.stop().await;

        // The next instance has a correct clock.
        world.start().await;
        let (user, loan) = check_out_now(world).await;
        // The comparison runs again, as after the death of the comparing instance.
        let again = format!(
            "update mod_patron_blocks.job set status = 'comparing', summary = null where id = '{}'",
            asked["id"].as_str().unwrap()
        );
        world.execute_sql(&again).await;
        let has_summary = async |world: &World| {
            let rebuild = world.get_json(&path).await;
            rebuild["status"] == "compared" && rebuild["summary"].is_object()
        };
        world.until("the comparison has a summary", has_summary).await;
        assert_eq!(world.post(&format!("{path}/apply"), &json!({})).await.0, 202);
        until_status(world, &path, "done").await;
        assert_eq!(open_loans(world, user).await, [json!(loan)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topic_rebuild_by_fast_clock_preserves_live_loans() {
    rebuild_an_hour_ahead("topics").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn inbox_rebuild_by_fast_clock_preserves_live_loans() {
    rebuild_an_hour_ahead("inbox").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_synchronization_by_fast_clock_preserves_live_loans() {
    World::run(async |world| {
        world.stop().await;
        world.start_with_clock(clock_ahead(60)).await;
        let (user, loan) = check_out_now(world).await;
        // The storage response lacks the loan.
        let body = json!({ "scope": "user", "userId": user });
        let (status, job) = world.post(&format!("{SYNCHRONIZATION}/job"), &body).await;
        assert_eq!(status, 201, "{job}");
        let job: Value = serde_json::from_str(&job).unwrap();
        let start = world.request(reqwest::Method::POST, &format!("{SYNCHRONIZATION}/start"));
        assert_eq!(world.send(start.header("X-Okapi-Token", "any")).await.0, 202);
        let path = format!("{SYNCHRONIZATION}/job/{}", job["id"].as_str().unwrap());
        until_status(world, &path, "done").await;
        assert_eq!(open_loans(world, user).await, [json!(loan)]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_events_to_skewed_instances_count_in_order() {
    World::run(async |world| {
        let right = world.url().to_owned();
        world.start_with_clock(clock_ahead(60)).await;
        let fast = world.url().to_owned();
        let (user, id) = (Uuid::new_v4(), Uuid::new_v4());
        for (url, balance) in [(&fast, 9.0), (&right, 7.0), (&fast, 5.0), (&right, 3.0)] {
            world.use_instance(url);
            let call = balance_change(user, id, None, balance);
            let answer = world.post(&Kind::FeeFineBalanceChanged.http_path(), &call).await;
            assert_eq!(answer, (204, String::new()));
        }
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openFeesFines"][0]["balance"], json!(3));
    })
    .await;
}
