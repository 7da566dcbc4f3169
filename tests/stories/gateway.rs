//! The gateway for calls to other modules: a request cannot redirect the service.

use chrono::TimeDelta;
use patron_blocks::{
    blocks::Measure,
    config::{Config, GatewayMode},
    event::Kind,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::module_outages::metric;
use crate::support::{
    payloads::{check_out, entity_change, in_envelope, minutes_from_now, now, user_record},
    users_stub::{UsersBehavior, UsersStub},
    world::{TENANT, World},
};

/// Returns a patron whom one loan of an hour ago blocks, and a gateway with a different answer.
async fn blocked_patron_and_false_gateway(world: &World) -> (Uuid, UsersStub) {
    let group = Uuid::new_v4();
    world.add_limit(group, Measure::ChargedOut, 0.0).await;
    let user = world.users.add_patron(group);
    let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    let out = in_envelope(&out, now() - TimeDelta::minutes(60));
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.until_committed().await;
    let false_gateway = UsersStub::start();
    false_gateway.set_group(user, Uuid::new_v4());
    (user, false_gateway)
}

/// Uses the gateway that a request names, as without a configured gateway.
pub(crate) fn use_request_gateway(config: &mut Config) {
    config.okapi.okapi_url = None;
}

/// Lets requests choose the gateway, and caches the gateway's answers.
fn trust_request_gateway(config: &mut Config) {
    config.okapi.okapi_gateway = GatewayMode::Request;
    config.okapi.patron_group_ttl = TimeDelta::seconds(60);
    config.okapi.patron_group_stale = TimeDelta::seconds(60);
}

#[tokio::test(flavor = "multi_thread")]
async fn request_cannot_choose_another_gateway() {
    World::run(async |world| {
        let (user, false_gateway) = blocked_patron_and_false_gateway(world).await;
        let asked = ("group-from-users".to_owned(), 1);
        // Other stories increase this counter too.
        let others = "patron_blocks_other_gateway_requests_total";
        let before = metric(world, others).await;
        assert_eq!(world.evaluate_through(&false_gateway.url(), user).await, asked);
        assert_eq!(world.evaluate_through(&world.users.url(), user).await, asked);
        assert_eq!(false_gateway.request_count(), 0);
        assert!(metric(world, others).await > before, "the service reports the ignored gateway");
    })
    .await;
}

/// If requests may choose the gateway, another gateway's answer counts only for its own request.
#[tokio::test(flavor = "multi_thread")]
async fn group_from_other_gateway_is_not_stored() {
    World::run_with(trust_request_gateway, async |world| {
        let (user, false_gateway) = blocked_patron_and_false_gateway(world).await;
        let asked = |blocks| ("group-from-users".to_owned(), blocks);
        assert_eq!(world.evaluate_through(&false_gateway.url(), user).await, asked(0));
        assert_eq!(world.evaluate_through(&world.users.url(), user).await, asked(1));
        assert_eq!(
            world.evaluate_through(&false_gateway.url(), user).await,
            ("group-from-cache".to_owned(), 1)
        );
    })
    .await;
}

/// The recovery of a users module behind a chosen gateway is detected, as behind any other gateway.
#[tokio::test(flavor = "multi_thread")]
async fn users_module_recovery_behind_gateway_is_detected() {
    let unpinned = |config: &mut Config| config.okapi.okapi_gateway = GatewayMode::Request;
    World::run_with(unpinned, async |world| {
        let (user, false_gateway) = blocked_patron_and_false_gateway(world).await;
        assert_eq!(
            world.evaluate_through(&world.users.url(), user).await,
            ("group-from-users".to_owned(), 1)
        );
        false_gateway.set_behavior(UsersBehavior::NoResponse);
        for _ in 0..5 {
            let answer = world.evaluate_through(&false_gateway.url(), user).await;
            assert_eq!(answer, ("group-fallback".to_owned(), 1));
        }
        false_gateway.set_behavior(UsersBehavior::Normal);
        let asked = ("group-from-users".to_owned(), 0);
        let is_found =
            async |world: &World| world.evaluate_through(&false_gateway.url(), user).await == asked;
        world.until("the gateway receives a request again", is_found).await;
    })
    .await;
}

/// An old topic record is verified. The other gateway's answer is not stored, so the request waits for
/// the answer.
#[tokio::test(flavor = "multi_thread")]
async fn old_topic_group_is_verified_at_the_request_gateway() {
    World::run_with(trust_request_gateway, async |world| {
        let (user, false_gateway) = blocked_patron_and_false_gateway(world).await;
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 0.0).await;
        let long_ago = now() - TimeDelta::days(300);
        let old = entity_change("UPDATED", &user_record(user, group), long_ago);
        world.publish(Kind::StoredUser, &old).await;
        world.until_committed().await;
        let answer = world.evaluate_through(&false_gateway.url(), user).await;
        assert_eq!(answer, ("group-from-users".to_owned(), 0));
        false_gateway.set_behavior(UsersBehavior::ServerError);
        let answer = world.evaluate_through(&false_gateway.url(), user).await;
        assert_eq!(answer, ("group-fallback".to_owned(), 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_gateway_is_used_if_none_is_configured() {
    let unset = |config: &mut Config| {
        trust_request_gateway(config);
        use_request_gateway(config);
    };
    World::run_with(unset, async |world| {
        let (user, _false_gateway) = blocked_patron_and_false_gateway(world).await;
        let url = format!("{}/", world.users.url());
        assert_eq!(world.evaluate_through(&url, user).await, ("group-from-users".to_owned(), 1));
        assert_eq!(world.evaluate_through(&url, user).await, ("group-from-cache".to_owned(), 1));
    })
    .await;
}

/// The listen address is a setting.
#[tokio::test(flavor = "multi_thread")]
async fn service_listens_only_on_the_configured_address() {
    World::run(async |world| {
        let port = world.url().rsplit(':').next().unwrap();
        let connect = |host: &str| std::net::TcpStream::connect(format!("{host}:{port}"));
        assert!(connect("127.0.0.1").is_ok());
        assert!(connect("127.0.0.2").is_err(), "the service listens on all addresses");
    })
    .await;
}

/// Two empty pages from a caller's gateway would close every open loan and fee/fine.
#[tokio::test(flavor = "multi_thread")]
async fn synchronization_ignores_the_request_gateway() {
    World::run(async |world| {
        let (user, false_gateway) = blocked_patron_and_false_gateway(world).await;
        let loan = json!({
            "id": Uuid::new_v4(), "userId": user, "status": { "name": "Open" },
            "dueDate": minutes_from_now(60),
        });
        world.users.storage.insert(crate::support::storage_stub::LOANS, loan);
        let job = "/automated-patron-blocks/synchronization/job";
        let (_, body) = world.post(job, &json!({ "scope": "full" })).await;
        let asked: Value = serde_json::from_str(&body).expect("the body is JSON");
        let job = format!("{job}/{}", asked["id"].as_str().expect("an id"));
        let path = "/automated-patron-blocks/synchronization/start";
        let start = world.request(reqwest::Method::POST, path);
        let start =
            start.header("X-Okapi-Tenant", TENANT).header("X-Okapi-Url", false_gateway.url());
        assert_eq!(start.send().await.expect("an answer").status(), 202);
        let done = async |world: &World| world.get_json(&job).await["status"] == "done";
        world.until("the synchronization is done", done).await;
        assert_eq!(false_gateway.storage.take_requests(), []);
        let open = "select count(*) from {schema}.loan where is_open";
        assert_eq!(world.count(open).await, 1);
    })
    .await;
}
