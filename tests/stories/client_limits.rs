//! Clients that send too much, send too slowly, or disconnect.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use patron_blocks::blocks::Measure;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{
    raw_http::{drip_until_response, expect_continue, read_response, send_partial},
    world::{TENANT, WAIT_TIMEOUT, World},
};

/// More clients than the only HTTP thread of a story admits.
const CLIENTS: usize = 600;

fn head(method: &str, path: &str, headers: &str) -> String {
    let common = format!("Host: x\r\nConnection: close\r\nX-Okapi-Tenant: {TENANT}");
    format!("{method} {path} HTTP/1.1\r\n{common}\r\n{headers}\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn oversized_request_head_is_rejected_at_once() {
    World::run(async |world| {
        let kib = |n: usize| "x".repeat(n * 1024);
        let header = format!("X-Long: {}\r\n", kib(200));
        let headers: String = (0..200).map(|n| format!("X-{n}: x\r\n")).collect();
        let query = |n| format!("/patron-block-limits?query={}", kib(n));
        let groups = format!("/patron-block-limits?query={}", "(".repeat(60 * 1024));
        for (what, sent, expected) in [
            ("a header", head("GET", "/user-summary/x", &header), 431),
            ("headers", head("GET", "/user-summary/x", &headers), 431),
            ("a path", head("GET", &format!("/user-summary/{}", kib(60)), ""), 400),
            ("an oversized path", head("GET", &format!("/{}", kib(70)), ""), 400),
            ("a query", head("GET", &query(60), ""), 400),
            ("an oversized query", head("GET", &query(70), ""), 400),
            ("a query of nested groups", head("GET", &groups, ""), 400),
            ("a query beyond the limit of the head", head("GET", &query(1024), ""), 431),
        ] {
            let response = read_response(send_partial(world, &sent).await).await;
            assert_eq!(response.status, expected, "{what}: {response:?}");
        }
        assert_eq!(world.get("/patron-block-limits").await.0, 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_request_head_is_disconnected() {
    World::run(async |world| {
        let began = Instant::now();
        let slow = "GET /patron-block-limits HTTP/1.1\r\nX-Slow: ";
        let slow = async { drip_until_response(send_partial(world, slow).await).await };
        let silent = async { read_response(send_partial(world, "").await).await };
        let (slow, silent) = tokio::join!(slow, silent);
        assert_eq!((slow.status, silent.status), (408, 408));
        assert!(began.elapsed() < WAIT_TIMEOUT, "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_request_bodies_block_no_other_client() {
    World::run(async |world| {
        let long =
            "Content-Type: application/json\r\nContent-Length: 1000\r\nExpect: 100-continue\r\n";
        let slow = head("POST", "/patron-block-limits", long) + "{";
        let mut slow = join_all((0..CLIENTS).map(|_| send_partial(world, &slow))).await;
        // The service has read the heads of all requests.
        join_all(slow.iter_mut().map(expect_continue)).await;
        assert_eq!(world.get("/patron-block-limits").await.0, 200);
        assert_eq!(world.evaluation_source(Uuid::new_v4()).await, "nothing-open");
        let began = Instant::now();
        let responses = join_all(slow.into_iter().map(read_response)).await;
        assert!(responses.iter().all(|response| response.status == 408), "{responses:?}");
        assert!(began.elapsed() < WAIT_TIMEOUT, "{:?}", began.elapsed());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disconnected_clients_release_their_resources() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 5.0).await;
        let user = Uuid::new_v4();
        let asked = format!("/automated-patron-blocks/{user}");
        // Evaluations and other requests have separate limits.
        let full = async |w: &World, path: &str| match path == asked {
            true => w.evaluation_source(user).await == "too-many",
            false => w.get(path).await.0 == 503,
        };
        for path in [&*asked, "/patron-block-limits"] {
            world.proxy.freeze();
            let sent = head("GET", path, "");
            // On a busy machine the first requests may time out before the last ones arrive.
            let mut waiting = Vec::new();
            world
                .until("the load limit is reached", async |w: &World| {
                    waiting = join_all((0..CLIENTS).map(|_| send_partial(w, &sent))).await;
                    timeout(Duration::from_secs(1), full(w, path)).await == Ok(true)
                })
                .await;
            drop(waiting);
            // The database still sends nothing, and the abandoned requests release their permits.
            world
                .until("the load limit has free permits", async |w: &World| !full(w, path).await)
                .await;
            world.proxy.restore();
            world
                .until("all requests succeed again", async |w: &World| {
                    let asked = join_all((0..20).map(|_| w.evaluation_source(user))).await;
                    asked.iter().all(|source| source == "nothing-open")
                })
                .await;
            assert_eq!(world.get("/patron-block-limits").await.0, 200);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pending_request_bodies_are_bounded_in_bytes() {
    World::run(async |world| {
        let long = "Content-Type: application/json\r\nContent-Length: 1000000\r\n";
        let most = head("POST", "/patron-block-limits", long) + &"x".repeat(900_000);
        let sending = join_all((0..60).map(|_| async { read_response(send_partial(world, &most).await).await }));
        let responses = sending.await;
        let rejected = responses.iter().filter(|response| response.status == 503).count();
        let waited = responses.iter().filter(|response| response.status == 408).count();
        assert!(rejected > 0 && waited > 0, "{rejected} requests were rejected, {waited} waited");
        assert_eq!(rejected + waited, responses.len());
        assert_eq!(world.get("/patron-block-limits").await.0, 200);
        // The rejected bodies have released their memory.
        let id = Uuid::new_v4();
        let limit = serde_json::json!({
            "id": id, "patronGroupId": id, "conditionId": Measure::ChargedOut.condition_id(), "value": 1,
        });
        assert_eq!(world.post("/patron-block-limits", &limit).await.0, 201);
    })
    .await;
}
