//! Tenants: enabled, upgraded, disabled, purged, and what of others' reaches them.

use patron_blocks::event::Kind;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    facts::{check_out, minutes_from_now},
    log::Draft,
    world::{TENANT, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn install_upgrade_disable_and_purge_as_okapi_asks_for_them() {
    World::tell(async |world| {
        let upgrade = json!({
            "module_from": "mod-patron-blocks-1.14.0", "module_to": "mod-patron-blocks-2.0.0",
            "parameters": [{ "key": "loadReference", "value": "true" }],
        });
        let (status, body) = world.post("/_/tenant", &upgrade).await;
        let job: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (status, &job["tenant"], &job["tenantAttributes"]),
            (201, &json!(TENANT), &upgrade)
        );
        let path = format!("/_/tenant/{}", job["id"].as_str().unwrap());
        assert_eq!(world.read(&format!("{path}?wait=30000")).await["complete"], true);
        assert_eq!(world.delete(&path).await.0, 204);
        assert_eq!(world.get(&path).await.0, 404);
        assert_eq!(world.get("/_/tenant/abc").await.0, 400);
        assert_eq!(
            world.read("/patron-block-conditions").await["totalRecords"],
            6,
            "not seeded twice"
        );

        let disable = json!({ "module_from": "mod-patron-blocks-2.0.0" });
        assert_eq!(world.post("/_/tenant", &disable).await, (204, String::new()));
        let (status, body) = world.get("/patron-block-limits").await;
        assert_eq!(status, 400);
        assert!(body.contains(TENANT), "{body}");
        assert_eq!(world.get(&format!("/automated-patron-blocks/{}", Uuid::new_v4())).await.0, 400);

        let install = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        assert_eq!(world.post("/_/tenant", &install).await.0, 201);
        let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        for _ in 0..2 {
            assert_eq!(world.post("/_/tenant", &purge).await, (204, String::new()));
            let left =
                "select count(*) from information_schema.schemata where schema_name = '{schema}'";
            assert_eq!(world.count(left).await, 0);
            assert_eq!(world.count("select count(*) from mod_patron_blocks.tenant").await, 0);
        }
        assert_eq!(world.post("/_/tenant", &install).await.0, 201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_must_name_a_tenant_that_can_be_one() {
    World::tell(async |world| {
        let path = format!("/user-summary/{}", Uuid::new_v4());
        let request = world.request(reqwest::Method::GET, &path);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 400);
        assert_eq!(response.text().await.unwrap(), "Unable to process request Tenant must be set");
        for bad in ["North", "a\"b", "x".repeat(32).as_str(), "southlib"] {
            let request = world.request(reqwest::Method::GET, &path).header("X-Okapi-Tenant", bad);
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), 400, "{bad}");
        }
        assert_eq!(world.get("/nowhere").await.0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_topic_serves_its_tenants_and_passes_by_the_others() {
    World::tell(async |world| {
        let topic = world.log.topic("ALL", Kind::ItemCheckedOut);
        world.log.make(vec![topic.clone()]).await;
        let (ours, theirs) = (Uuid::new_v4(), Uuid::new_v4());
        let tomorrow = minutes_from_now(1440);
        for (tenant, user) in [("southlib", theirs), (TENANT, ours), ("southlib", theirs)] {
            let payload = check_out(user, Uuid::new_v4(), &tomorrow).to_string();
            let draft = Draft {
                topic: topic.clone(),
                headers: vec![("X-Okapi-Tenant", tenant)],
                payload: Some(payload.as_bytes()),
                timestamp: None,
            };
            if tenant == TENANT {
                world.log.send(draft).await;
            } else {
                world.log.place(draft).await;
            }
        }
        // A topic that appears while the service runs is found within the metadata age.
        world.settled().await;
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 1);
        assert_eq!(world.get(&format!("/user-summary/{ours}")).await.0, 200);
        assert_eq!(world.get(&format!("/user-summary/{theirs}")).await.0, 404);
    })
    .await;
}
