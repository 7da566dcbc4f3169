//! Request headers: conflicting tenants, a NUL in a user id, and bytes that are not text.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use patron_blocks::blocks::Measure;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::world::{TENANT, World};

fn limit() -> Value {
    json!({
        "id": Uuid::new_v4(), "patronGroupId": Uuid::new_v4(),
        "conditionId": Measure::LostItems.condition_id(), "value": 1,
    })
}

/// Returns the response to a request with these tenant headers.
async fn response_to(world: &World, method: Method, path: &str, tenants: &[&str]) -> (u16, String) {
    let request = world.request(method.clone(), path);
    let request = if method == Method::POST { request.json(&limit()) } else { request };
    let request = tenants.iter().fold(request, |request, t| request.header("X-Okapi-Tenant", *t));
    let answer = request.send().await.expect("the service responds");
    (answer.status().as_u16(), answer.text().await.expect("a body"))
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicting_tenant_headers_are_rejected() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let paths = [
            (Method::GET, format!("/automated-patron-blocks/{user}")),
            (Method::GET, format!("/user-summary/{user}")),
            (Method::GET, "/patron-block-limits".to_owned()),
            (Method::POST, "/patron-block-limits".to_owned()),
            (Method::POST, "/automated-patron-blocks/handlers/loan-closed".to_owned()),
            (Method::POST, "/automated-patron-blocks/synchronization/start".to_owned()),
            (Method::GET, format!("/_/tenant/{user}")),
            (Method::POST, "/_/tenant".to_owned()),
        ];
        let both = [TENANT, "southlib"];
        for (method, path) in paths {
            for tenants in [&both[..], &["southlib", TENANT], &[TENANT, ""], &[TENANT, TENANT, "x"]]
            {
                let (status, text) = response_to(world, method.clone(), &path, tenants).await;
                assert_eq!(status, 400, "{method} {path} {tenants:?}: {text}");
                assert!(text.contains("X-Okapi-Tenant"), "{method} {path} {tenants:?}: {text}");
            }
        }
        assert_eq!(world.count("select count(*) from {schema}.patron_block_limits").await, 0);
        let path = format!("/automated-patron-blocks/{user}");
        assert_eq!(response_to(world, Method::GET, &path, &[TENANT, TENANT]).await.0, 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nul_in_token_user_id_causes_no_failure() {
    World::run(async |world| {
        let token = |user: &str| {
            let claims = json!({ "sub": "x", "user_id": user }).to_string();
            format!("e30.{}.x", BASE64_URL_SAFE_NO_PAD.encode(claims))
        };
        let send = async |method: Method, path: &str, token: &str, body: &Value| {
            let request = world.request(method, path).header("X-Okapi-Token", token);
            world.send(request.json(body)).await
        };
        for user in ["a\0b", "\0", &"x".repeat(50_000), "\u{7}", "é 🦀"] {
            let token = token(user);
            let limit = limit();
            let (status, body) = send(Method::POST, "/patron-block-limits", &token, &limit).await;
            assert_eq!(status, 201, "{user:?}: {body}");
            let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
            assert_eq!(send(Method::PUT, &path, &token, &limit).await.0, 204, "{user:?}");
            let rebuild = json!({ "source": "inbox", "dryRun": true });
            let (status, body) =
                send(Method::POST, "/patron-blocks/rebuilds", &token, &rebuild).await;
            assert_eq!(status, 201, "{user:?}: {body}");
            let job = json!({ "scope": "full" });
            let path = "/automated-patron-blocks/synchronization/job";
            assert_eq!(send(Method::POST, path, &token, &job).await.0, 201, "{user:?}");
            let enable = json!({ "module_to": "mod-patron-blocks-2.0.0" });
            assert_eq!(send(Method::POST, "/_/tenant", &token, &enable).await.0, 201, "{user:?}");
        }
        let list = world.get_json("/patron-block-limits").await;
        let by = |n: usize| list["patronBlockLimits"][n]["metadata"]["createdByUserId"].clone();
        assert_eq!((by(0), by(4)), (Value::Null, json!("é 🦀")));
    })
    .await;
}

/// A header counts as absent if its bytes are not text.
#[tokio::test(flavor = "multi_thread")]
async fn non_text_header_bytes_cause_no_failure() {
    World::run(async |world| {
        for name in ["X-Okapi-User-Id", "X-Okapi-Token", "X-Okapi-Request-Id", "X-Okapi-Url"] {
            let bytes = reqwest::header::HeaderValue::from_bytes(b"\xff\xfe\x80").unwrap();
            let path = "/patron-block-limits";
            let request = world.request(Method::POST, path).header("X-Okapi-Tenant", TENANT);
            let answer = request.header(name, bytes).json(&limit()).send().await.unwrap();
            assert_eq!(answer.status(), 201, "{name}");
        }
    })
    .await;
}
