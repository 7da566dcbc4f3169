//! What holds for all paths (http contract 1).

use futures_util::future::join_all;
use patron_blocks::config::OnDatabaseFailure;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    compare,
    desk::{Answer, Ask, Desk, METHODS},
    told,
};
use crate::{
    raw::{begin, drip},
    world::{TENANT, World},
};

/// Each path with an id in it that nothing has, and its methods.
fn operations(desk: &Desk<'_>) -> Vec<(String, String)> {
    let id = Uuid::new_v4();
    let filled = |path: String| {
        let mut parts = path.split('/').map(|part| match part.starts_with('{') {
            true => id.to_string(),
            false => part.to_owned(),
        });
        let first = parts.next().unwrap();
        parts.fold(first, |path, part| path + "/" + &part)
    };
    desk.described.operations().into_iter().map(|(path, method)| (filled(path), method)).collect()
}

fn needs_no_tenant(path: &str) -> bool {
    path.starts_with("/admin/") || path == "/metrics"
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_names_a_tenant_that_is_enabled() {
    told("every_request_names_a_tenant_that_is_enabled", async |desk| {
        let all = operations(desk);
        for (path, method) in all.iter().filter(|(path, _)| !needs_no_tenant(path)) {
            let ask = Ask { method, path, ..Ask::default() };
            desk.send(ask).await.is(400, "Unable to process request Tenant must be set");
            for bad in ["North", "9lib", "a-b", "x23456789012345678901234567890123"] {
                let headers = [("x-okapi-tenant", bad)];
                let answer = desk.send(Ask { headers: &headers, ..ask }).await;
                assert!(answer.status == 400 && answer.text.contains(bad), "{answer:?}");
            }
            for two in [[TENANT, "southlib"], ["southlib", TENANT], [TENANT, ""]] {
                let headers = two.map(|tenant| ("X-Okapi-Tenant", tenant));
                let answer = desk.send(Ask { headers: &headers, ..ask }).await;
                assert!(
                    answer.status == 400 && answer.text.contains("X-Okapi-Tenant"),
                    "{answer:?}"
                );
            }
            let headers = [("X-OKAPI-TENANT", "southlib")];
            if path.starts_with("/_/tenant/") {
                let answer = desk.send(Ask { headers: &headers, ..ask }).await;
                answer.is(404, "Tenant not found southlib");
            } else if path == TIMER {
                let answer = desk.send(Ask { headers: &headers, ..ask }).await;
                answer.is(202, "");
            } else if path != "/_/tenant" {
                let answer = desk.send(Ask { headers: &headers, ..ask }).await;
                answer.is(400, "Tenant southlib is not enabled for this module");
            }
        }
        for (path, method) in all.iter().filter(|(path, _)| needs_no_tenant(path)) {
            let answer = desk.send(Ask { method, path, ..Ask::default() }).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_known_path_takes_no_other_method_and_an_unknown_path_is_not_found() {
    const NAME: &str = "a_known_path_takes_no_other_method_and_an_unknown_path_is_not_found";
    told(NAME, async |desk| {
        let all = operations(desk);
        for (path, _) in &all {
            let taken = |method: &str| all.iter().any(|(p, m)| p == path && m == method);
            for method in METHODS.into_iter().filter(|method| !taken(method)) {
                let answer = desk.ask(method, path, None).await;
                assert_eq!(answer.status, 405, "{method} {path}");
                let mut named: Vec<_> = answer.allow.iter().flat_map(|a| a.split(", ")).collect();
                named.sort_unstable_by_key(|name| METHODS.iter().position(|m| m == name));
                let all: Vec<_> = METHODS.into_iter().filter(|method| taken(method)).collect();
                assert_eq!(named, all, "{method} {path}");
            }
        }
        for path in ["/", "/nowhere", "/patron-block-limits/a/b", "/automated-patron-blocks"] {
            desk.get(path).await.is(404, "Not found");
        }
    })
    .await;
}

/// What the timer calls is heard, whatever comes of it (http contract 8.1).
const TIMER: &str = "/automated-patron-blocks/synchronization/start";

/// Below it events are posted.
pub(super) const EVENTS: &str = "/automated-patron-blocks/handlers/";

/// What each of the eight handlers takes: members that a kind does not know are ignored.
pub(super) fn event() -> Value {
    json!({
        "userId": Uuid::new_v4(), "loanId": Uuid::new_v4(), "feeFineId": Uuid::new_v4(),
        "dueDate": "2026-09-14T21:59:59.000Z", "dueDateChangedByRecall": false, "balance": 1.5,
    })
}

/// A body that the operation takes.
fn body(method: &str, path: &str) -> Option<Value> {
    let condition = || {
        json!({
            "id": Uuid::new_v4(), "name": "x", "valueType": "Integer",
            "blockBorrowing": false, "blockRenewals": false, "blockRequests": false,
        })
    };
    match (method, path) {
        ("PUT", path) if path.starts_with("/patron-block-conditions/") => Some(condition()),
        ("PUT" | "POST", path) if path.starts_with("/patron-block-limits") => Some(json!({
            "id": Uuid::new_v4(), "patronGroupId": Uuid::new_v4(), "conditionId": Uuid::new_v4(),
            "value": 1,
        })),
        ("POST", path) if path.starts_with(EVENTS) => Some(event()),
        ("POST", "/automated-patron-blocks/synchronization/job") => {
            Some(json!({ "scope": "full" }))
        }
        ("POST", "/patron-blocks/rebuilds") => Some(json!({ "source": "inbox" })),
        ("POST", "/patron-blocks/user-summaries/iteration") => {
            Some(json!({ "topicName": "search.patrons" }))
        }
        ("POST", "/_/tenant") => Some(json!({ "module_to": "mod-patron-blocks-2.0.0" })),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_says_when_the_database_fails() {
    World::tell(async |world| {
        world.stop().await;
        world.config.on_database_failure = OnDatabaseFailure::Error;
        world.start().await;
        let desk = Desk::of(world);
        let topic = format!("{}.{TENANT}.search.patrons", desk.world.log.environment());
        desk.world.log.make(vec![topic]).await;
        // Known from now on, as any tenant that anybody works with.
        assert_eq!(desk.world.get("/patron-block-limits").await.0, 200);
        world.wire.cut();
        let ask = async |(path, method): (String, String)| {
            let path = match path.ends_with("/retry") || method == "DELETE" {
                true => format!("{path}?query=cql.allRecords=1"),
                false => path,
            };
            let answer = desk.ask(&method, &path, body(&method, &path).as_ref()).await;
            (method + " " + &path, answer)
        };
        let all = operations(&desk);
        let (operators, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(path, _)| needs_no_tenant(path));
        for (what, Answer { status, text, .. }) in join_all(others.into_iter().map(ask)).await {
            let expected = match &*what {
                "POST /_/tenant" => 400,
                what if what.ends_with(TIMER) => 202,
                what if what.contains(EVENTS) => 503,
                _ => 500,
            };
            assert_eq!((status, text.is_empty()), (expected, expected == 202), "{what}: {text}");
        }
        for (what, answer) in join_all(operators.into_iter().map(ask)).await {
            let expected = if what == "GET /admin/ready" { 503 } else { 200 };
            assert_eq!(answer.status, expected, "{what}: {answer:?}");
        }
        world.wire.mend();
        compare("every_operation_says_when_the_database_fails", &desk.seen());
    })
    .await;
}

/// Headers and parameters that clients send and that change nothing (1.2).
#[tokio::test(flavor = "multi_thread")]
async fn accept_unknown_parameters_and_trailing_slashes_change_nothing() {
    told("accept_unknown_parameters_and_trailing_slashes_change_nothing", async |desk| {
        let path = "/patron-block-conditions";
        let plain = desk.get(path).await;
        for path in ["/patron-block-conditions/", "/patron-block-conditions?lang=en&x=%00&limit="] {
            desk.get(path).await.is(200, &plain.text);
        }
        for accept in ["application/json, text/plain", "*/*", "text/html", "image/png;q=0", "?"] {
            let headers = [("X-Okapi-Tenant", TENANT), ("Accept", accept)];
            let answer =
                desk.send(Ask { method: "GET", path, headers: &headers, body: None }).await;
            answer.is(200, &plain.text);
            assert_eq!(answer.media, "application/json", "{accept}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_json_objects_of_a_bounded_length() {
    told("bodies_are_json_objects_of_a_bounded_length", async |desk| {
        let all = operations(desk);
        for (path, method) in all.iter().filter(|(path, method)| body(method, path).is_some()) {
            let send = async |media: &str, body: &str| {
                let headers = [("X-Okapi-Tenant", TENANT), ("Content-Type", media)];
                desk.send(Ask { method, path, headers: &headers, body: Some(body) }).await
            };
            for (media, body) in [
                ("application/json", ""),
                ("application/json", "{"),
                ("application/json", "[]"),
                ("application/json", "null"),
                ("APPLICATION/JSON ; charset=utf-8", "not json"),
            ] {
                let answer = send(media, body).await;
                assert!(answer.status == 400 && answer.text.contains("body"), "{answer:?}");
            }
            let rule = "Content-type header must be [\"application/json\"] but it is";
            for media in ["text/plain", "text/xml; charset=utf-8"] {
                send(media, "{}").await.is(400, &format!("{rule} \"{media}\""));
            }
            let long = format!("{{\"x\":\"{}\"}}", "x".repeat(1024 * 1024));
            assert_eq!(send("application/json", &long).await.status, 413);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_to_be_there_in_time() {
    told("bodies_have_to_be_there_in_time", async |desk| {
        let all = operations(desk);
        let drip = async |(path, method): &(String, String)| {
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {TENANT}\r\n\
                 Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
            );
            let said = drip(begin(desk.world, &head).await).await;
            assert_eq!(said.status, 408, "{said:?}");
            let (media, text) = (said.media, said.text);
            desk.saw(method, path, &Answer { status: 408, media, text, ..Answer::default() });
        };
        let written = all.iter().filter(|(path, method)| body(method, path).is_some());
        join_all(written.map(drip)).await;
    })
    .await;
}
