//! Rules for all paths (docs/contract/http-api.md#1-common).

use futures_util::future::join_all;
use patron_blocks::config::DatabaseFailureMode;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    api_client::{ApiClient, ApiRequest, ApiResponse, METHODS},
    compare, run,
};
use crate::support::{
    payloads::minutes_from_now,
    raw_http::{drip_until_response, send_partial},
    world::{TENANT, World},
};

/// Returns each path, with the id of no existing resource, and its methods.
fn operations(api: &ApiClient<'_>) -> Vec<(String, String)> {
    let id = Uuid::new_v4();
    let filled = |path: String| {
        let mut parts = path.split('/').map(|part| match part.starts_with('{') {
            true => id.to_string(),
            false => part.to_owned(),
        });
        let first = parts.next().unwrap();
        parts.fold(first, |path, part| path + "/" + &part)
    };
    api.openapi.operations().into_iter().map(|(path, method)| (filled(path), method)).collect()
}

fn needs_no_tenant(path: &str) -> bool {
    path.starts_with("/admin/") || path == "/metrics" || path == "/"
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_an_enabled_tenant_are_rejected() {
    run("requests_without_an_enabled_tenant_are_rejected", async |api| {
        let all = operations(api);
        for (path, method) in all.iter().filter(|(path, _)| !needs_no_tenant(path)) {
            let ask = ApiRequest { method, path, ..ApiRequest::default() };
            api.send(ask).await.assert_is(400, "Unable to process request Tenant must be set");
            for bad in ["North", "9lib", "a-b", "x23456789012345678901234567890123"] {
                let headers = [("x-okapi-tenant", bad)];
                let answer = api.send(ApiRequest { headers: &headers, ..ask }).await;
                assert!(answer.status == 400 && answer.body.contains(bad), "{answer:?}");
            }
            for two in [[TENANT, "southlib"], ["southlib", TENANT], [TENANT, ""]] {
                let headers = two.map(|tenant| ("X-Okapi-Tenant", tenant));
                let answer = api.send(ApiRequest { headers: &headers, ..ask }).await;
                assert!(
                    answer.status == 400 && answer.body.contains("X-Okapi-Tenant"),
                    "{answer:?}"
                );
            }
            let headers = [("X-OKAPI-TENANT", "southlib")];
            if path.starts_with("/_/tenant/") {
                let answer = api.send(ApiRequest { headers: &headers, ..ask }).await;
                answer.assert_is(404, "Tenant not found southlib");
            } else if path == TIMER {
                let answer = api.send(ApiRequest { headers: &headers, ..ask }).await;
                answer.assert_is(202, "");
            } else if path != "/_/tenant" {
                let answer = api.send(ApiRequest { headers: &headers, ..ask }).await;
                answer.assert_is(400, "Tenant southlib is not enabled for this module");
            }
        }
        for (path, method) in all.iter().filter(|(path, _)| needs_no_tenant(path)) {
            let answer = api.send(ApiRequest { method, path, ..ApiRequest::default() }).await;
            assert_eq!(answer.status, 200, "{answer:?}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsupported_methods_return_405_and_unknown_paths_404() {
    const NAME: &str = "unsupported_methods_return_405_and_unknown_paths_404";
    run(NAME, async |api| {
        let all = operations(api);
        for (path, _) in &all {
            let taken = |method: &str| all.iter().any(|(p, m)| p == path && m == method);
            for method in METHODS.into_iter().filter(|method| !taken(method)) {
                let answer = api.request(method, path, None).await;
                assert_eq!(answer.status, 405, "{method} {path}");
                let mut named: Vec<_> = answer.allow.iter().flat_map(|a| a.split(", ")).collect();
                named.sort_unstable_by_key(|name| METHODS.iter().position(|m| m == name));
                let all: Vec<_> = METHODS.into_iter().filter(|method| taken(method)).collect();
                assert_eq!(named, all, "{method} {path}");
            }
        }
        for path in ["/nowhere", "/patron-block-limits/a/b", "/automated-patron-blocks"] {
            api.get(path).await.assert_is(404, "Not found");
        }
    })
    .await;
}

/// The endpoint accepts the timer's call whatever the result (docs/contract/http-api.md#81-endpoints).
const TIMER: &str = "/automated-patron-blocks/synchronization/start";

/// The path prefix of the event handlers.
pub(super) const EVENTS: &str = "/automated-patron-blocks/handlers/";

/// Returns a body for each of the eight handlers, which ignore unknown members.
pub(super) fn event() -> Value {
    json!({
        "userId": Uuid::new_v4(), "loanId": Uuid::new_v4(), "feeFineId": Uuid::new_v4(),
        "dueDate": "2026-09-14T21:59:59.000Z", "dueDateChangedByRecall": false, "balance": 1.5,
    })
}

/// Returns a valid body for the operation.
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
        ("PUT", "/patron-blocks/certainty-policy") => Some(json!({ "lateSeconds": 90 })),
        ("POST", "/patron-blocks/rebuilds") => Some(json!({ "source": "inbox" })),
        ("POST", "/patron-blocks/user-summaries/iteration") => {
            Some(json!({ "topicName": "search.patrons" }))
        }
        ("POST", "/_/tenant") => Some(json!({ "module_to": "mod-patron-blocks-2.0.0" })),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_reports_a_database_failure() {
    World::run(async |world| {
        world.stop().await;
        world.config.on_database_failure = DatabaseFailureMode::Error;
        world.start().await;
        let api = ApiClient::new(world);
        let topic = format!("{}.{TENANT}.search.patrons", api.world.log.environment());
        api.world.log.create_topics(vec![topic]).await;
        // This request loads the tenant into the cache, as any request does.
        assert_eq!(api.world.get("/patron-block-limits").await.0, 200);
        world.proxy.disconnect();
        let ask = async |(path, method): (String, String)| {
            let path = match path.ends_with("/retry") || method == "DELETE" {
                true => format!("{path}?query=cql.allRecords=1"),
                false if path.ends_with("/forecast") => {
                    format!("{path}?until={}", minutes_from_now(60))
                }
                false => path,
            };
            let answer = api.request(&method, &path, body(&method, &path).as_ref()).await;
            (method + " " + &path, answer)
        };
        let all = operations(&api);
        let (operators, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|(path, _)| needs_no_tenant(path));
        for (what, ApiResponse { status, body, .. }) in join_all(others.into_iter().map(ask)).await
        {
            let expected = match &*what {
                "POST /_/tenant" => 400,
                what if what.ends_with(TIMER) => 202,
                what if what.contains(EVENTS) => 503,
                _ => 500,
            };
            assert_eq!((status, body.is_empty()), (expected, expected == 202), "{what}: {body}");
        }
        for (what, answer) in join_all(operators.into_iter().map(ask)).await {
            let expected = if what == "GET /admin/ready" { 503 } else { 200 };
            assert_eq!(answer.status, expected, "{what}: {answer:?}");
        }
        world.proxy.restore();
        compare("every_operation_reports_a_database_failure", &api.into_seen());
    })
    .await;
}

/// Clients send headers and parameters without effect (docs/contract/http-api.md#12-bodies).
#[tokio::test(flavor = "multi_thread")]
async fn accept_header_and_unknown_parameters_are_ignored() {
    run("accept_header_and_unknown_parameters_are_ignored", async |api| {
        let path = "/patron-block-conditions";
        let plain = api.get(path).await;
        for path in ["/patron-block-conditions/", "/patron-block-conditions?lang=en&x=%00&limit="] {
            api.get(path).await.assert_is(200, &plain.body);
        }
        for accept in ["application/json, text/plain", "*/*", "text/html", "image/png;q=0", "?"] {
            let headers = [("X-Okapi-Tenant", TENANT), ("Accept", accept)];
            let answer =
                api.send(ApiRequest { method: "GET", path, headers: &headers, body: None }).await;
            answer.assert_is(200, &plain.body);
            assert_eq!(answer.content_type, "application/json", "{accept}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_must_be_json_objects_of_bounded_length() {
    run("bodies_must_be_json_objects_of_bounded_length", async |api| {
        let all = operations(api);
        for (path, method) in all.iter().filter(|(path, method)| body(method, path).is_some()) {
            let send = async |media: &str, body: &str| {
                let headers = [("X-Okapi-Tenant", TENANT), ("Content-Type", media)];
                api.send(ApiRequest { method, path, headers: &headers, body: Some(body) }).await
            };
            for (media, body) in [
                ("application/json", ""),
                ("application/json", "{"),
                ("application/json", "[]"),
                ("application/json", "null"),
                ("APPLICATION/JSON ; charset=utf-8", "not json"),
            ] {
                let answer = send(media, body).await;
                assert!(answer.status == 400 && answer.body.contains("body"), "{answer:?}");
            }
            let rule = "Content-type header must be [\"application/json\"] but it is";
            for media in ["text/plain", "text/xml; charset=utf-8"] {
                send(media, "{}").await.assert_is(400, &format!("{rule} \"{media}\""));
            }
            let long = format!("{{\"x\":\"{}\"}}", "x".repeat(1024 * 1024));
            assert_eq!(send("application/json", &long).await.status, 413);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_bodies_time_out_with_408() {
    run("slow_bodies_time_out_with_408", async |api| {
        let all = operations(api);
        let drip = async |(path, method): &(String, String)| {
            let head = format!(
                "{method} {path} HTTP/1.1\r\nHost: x\r\nX-Okapi-Tenant: {TENANT}\r\n\
                 Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{"
            );
            let response = drip_until_response(send_partial(api.world, &head).await).await;
            assert_eq!(response.status, 408, "{response:?}");
            let (content_type, body) = (response.content_type, response.body);
            api.record_response(
                method,
                path,
                &ApiResponse { status: 408, content_type, body, ..ApiResponse::default() },
            );
        };
        let written = all.iter().filter(|(path, method)| body(method, path).is_some());
        join_all(written.map(drip)).await;
    })
    .await;
}
