//! Which gateway other modules are asked through: a request can't send the service elsewhere.

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, config::Config, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::modules::metric;
use crate::{
    facts::{check_out, done, enveloped, member, minutes_from_now, now},
    users::{Mood, Users},
    world::{TENANT, World},
};

/// A patron who is blocked by one loan of an hour ago, and a gateway that says something else.
async fn blocked_and_liar(world: &World) -> (Uuid, Users) {
    let group = Uuid::new_v4();
    world.limit(group, Measure::ChargedOut, 0.0).await;
    let user = world.users.patron(group);
    let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    let out = enveloped(&out, now() - TimeDelta::minutes(60));
    world.publish(Kind::ItemCheckedOut, &out).await;
    world.settled().await;
    let liar = Users::start();
    liar.set_group(user, Uuid::new_v4());
    (user, liar)
}

/// The gateway that a request names is asked, as where nobody has set one.
pub(crate) fn of_requests(config: &mut Config) {
    config.okapi.gateway.is_set = false;
    config.okapi.gateway.is_pinned = false;
}

/// Requests choose the gateway, and what it answers is kept for a while.
fn believing(config: &mut Config) {
    config.okapi.gateway.is_pinned = false;
    config.okapi.fresh = TimeDelta::seconds(60);
    config.okapi.usable = TimeDelta::seconds(60);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_can_not_send_the_service_to_another_gateway() {
    World::tell(async |world| {
        let (user, liar) = blocked_and_liar(world).await;
        let asked = ("asked-group".to_owned(), 1);
        // Other stories count as well.
        let others = "patron_blocks_other_gateway_requests_total";
        let before = metric(world, others).await;
        assert_eq!(world.answer_by(&liar.url(), user).await, asked);
        assert_eq!(world.answer_by(&world.users.url(), user).await, asked);
        assert_eq!(liar.asked(), 0);
        assert!(metric(world, others).await > before, "nobody sees that it is passed over");
    })
    .await;
}

/// Where a library wants requests to choose, what they are told elsewhere is theirs alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_asked_elsewhere_is_stored_for_nobody_else() {
    World::tell_with(believing, async |world| {
        let (user, liar) = blocked_and_liar(world).await;
        let asked = |blocks| ("asked-group".to_owned(), blocks);
        assert_eq!(world.answer_by(&liar.url(), user).await, asked(0));
        assert_eq!(world.answer_by(&world.users.url(), user).await, asked(1));
        assert_eq!(world.answer_by(&liar.url(), user).await, ("fresh-group".to_owned(), 1));
    })
    .await;
}

/// A users module that hung behind that gateway is found again, as behind any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_users_module_elsewhere_that_is_back_is_found() {
    let doubting = |config: &mut Config| config.okapi.gateway.is_pinned = false;
    World::tell_with(doubting, async |world| {
        let (user, elsewhere) = blocked_and_liar(world).await;
        assert_eq!(world.answer_by(&world.users.url(), user).await, ("asked-group".to_owned(), 1));
        elsewhere.set_mood(Mood::Silent);
        for _ in 0..5 {
            let answer = world.answer_by(&elsewhere.url(), user).await;
            assert_eq!(answer, ("last-known-group".to_owned(), 1));
        }
        elsewhere.set_mood(Mood::Right);
        let asked = ("asked-group".to_owned(), 0);
        let is_found = async |world: &World| world.answer_by(&elsewhere.url(), user).await == asked;
        world.until("it is asked again", is_found).await;
    })
    .await;
}

/// An old record of the topic is asked about. What is answered elsewhere is not stored, so the request waits for it.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_record_of_a_group_is_asked_about_elsewhere() {
    World::tell_with(believing, async |world| {
        let (user, elsewhere) = blocked_and_liar(world).await;
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 0.0).await;
        let long_ago = now() - TimeDelta::days(300);
        let old = done("UPDATED", &member(user, group), long_ago);
        world.publish(Kind::StoredUser, &old).await;
        world.settled().await;
        let answer = world.answer_by(&elsewhere.url(), user).await;
        assert_eq!(answer, ("asked-group".to_owned(), 0));
        elsewhere.set_mood(Mood::Broken);
        let answer = world.answer_by(&elsewhere.url(), user).await;
        assert_eq!(answer, ("last-known-group".to_owned(), 1));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_gateway_is_set_the_one_of_a_request_is_asked() {
    let unset = |config: &mut Config| {
        believing(config);
        of_requests(config);
        config.okapi.gateway.url = "http://127.0.0.1:9".to_owned();
    };
    World::tell_with(unset, async |world| {
        let (user, _liar) = blocked_and_liar(world).await;
        let url = format!("{}/", world.users.url());
        assert_eq!(world.answer_by(&url, user).await, ("asked-group".to_owned(), 1));
        assert_eq!(world.answer_by(&url, user).await, ("fresh-group".to_owned(), 1));
    })
    .await;
}

/// The address on which it listens is a setting.
#[tokio::test(flavor = "multi_thread")]
async fn on_one_address_it_listens_there_and_nowhere_else() {
    World::tell(async |world| {
        let port = world.url().rsplit(':').next().unwrap();
        let connect = |host: &str| std::net::TcpStream::connect(format!("{host}:{port}"));
        assert!(connect("127.0.0.1").is_ok());
        assert!(connect("127.0.0.2").is_err(), "it listens on all addresses");
    })
    .await;
}

/// Two empty pages of a gateway of one's own would close all that is open.
#[tokio::test(flavor = "multi_thread")]
async fn a_synchronisation_reads_from_no_gateway_of_a_request() {
    World::tell(async |world| {
        let (user, liar) = blocked_and_liar(world).await;
        let loan = json!({
            "id": Uuid::new_v4(), "userId": user, "status": { "name": "Open" },
            "dueDate": minutes_from_now(60),
        });
        world.users.shelf.put(crate::shelf::LOANS, loan);
        let job = "/automated-patron-blocks/synchronization/job";
        let (_, body) = world.post(job, &json!({ "scope": "full" })).await;
        let asked: Value = serde_json::from_str(&body).expect("it is JSON");
        let job = format!("{job}/{}", asked["id"].as_str().expect("an id"));
        let path = "/automated-patron-blocks/synchronization/start";
        let start = world.request(reqwest::Method::POST, path);
        let start = start.header("X-Okapi-Tenant", TENANT).header("X-Okapi-Url", liar.url());
        assert_eq!(start.send().await.expect("an answer").status(), 202);
        let done = async |world: &World| world.read(&job).await["status"] == "done";
        world.until("it is done", done).await;
        assert_eq!(liar.shelf.take_asked(), []);
        let open = "select count(*) from {schema}.loan where is_open";
        assert_eq!(world.count(open).await, 1);
    })
    .await;
}
