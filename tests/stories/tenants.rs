//! Tenants: enabled, upgraded, disabled, purged, and separate from other tenants.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use patron_blocks::{
    clock::Clock,
    event::{Kind, TenantId},
    services::tenants::TenantRegistry,
    store::{self, Schema, jobs::Lease, tenants},
};
use reqwest::Method;
use serde_json::{Value, json};
use simulator::{
    folio::{Folio, FolioBehavior, ModuleBehavior},
    model::Truth,
    wire::SharedTruth,
};
use uuid::Uuid;

use super::gateway;
use crate::support::{
    binary::run_cli,
    log::OutgoingRecord,
    payloads::{check_out, minutes_from_now, now},
    world::{TENANT, World},
};

/// Sends a request as another tenant, and returns the status and the body.
async fn send_as_tenant(
    world: &World,
    tenant: &str,
    method: Method,
    path: &str,
    body: &Value,
) -> (u16, Value) {
    let request = world.request(method, path).header("X-Okapi-Tenant", tenant);
    let response = request.json(body).send().await.unwrap();
    let status = response.status().as_u16();
    (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
}

/// Enables another tenant, and returns the job after its end.
async fn enable(world: &World, tenant: &str) -> Value {
    let install = json!({ "module_to": "mod-patron-blocks-2.0.0" });
    let (status, job) = send_as_tenant(world, tenant, Method::POST, "/_/tenant", &install).await;
    assert_eq!(status, 201);
    until_job_ended(world, tenant, job["id"].as_str().unwrap()).await
}

async fn until_job_ended(world: &World, tenant: &str, job: &str) -> Value {
    let path = format!("/_/tenant/{job}?wait=60000");
    let (status, job) = send_as_tenant(world, tenant, Method::GET, &path, &json!({})).await;
    assert_eq!((status, &job["complete"]), (200, &json!(true)));
    job
}

#[tokio::test(flavor = "multi_thread")]
async fn okapi_installs_upgrades_disables_and_purges_a_tenant() {
    World::run(async |world| {
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
        assert_eq!(world.get_json(&format!("{path}?wait=30000")).await["complete"], true);
        assert_eq!(world.delete(&path).await.0, 204);
        assert_eq!(world.get(&path).await.0, 404);
        assert_eq!(world.get("/_/tenant/abc").await.0, 400);
        assert_eq!(
            world.get_json("/patron-block-conditions").await["totalRecords"],
            6,
            "the conditions are inserted once"
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
async fn request_with_invalid_tenant_is_rejected() {
    World::run(async |world| {
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
async fn collection_topic_serves_enabled_tenants_and_skips_others() {
    World::run(async |world| {
        let topic = world.log.topic("ALL", Kind::ItemCheckedOut);
        world.log.create_topics(vec![topic.clone()]).await;
        let (own_user, other_user) = (Uuid::new_v4(), Uuid::new_v4());
        let tomorrow = minutes_from_now(1440);
        for (tenant, user) in
            [("southlib", other_user), (TENANT, own_user), ("southlib", other_user)]
        {
            let payload = check_out(user, Uuid::new_v4(), &tomorrow).to_string();
            let draft = OutgoingRecord {
                topic: topic.clone(),
                headers: vec![("X-Okapi-Tenant", tenant)],
                payload: Some(payload.as_bytes()),
                timestamp: None,
            };
            if tenant == TENANT {
                world.log.send(draft).await;
            } else {
                world.log.send_untracked(draft).await;
            }
        }
        // The service finds a new topic within the metadata age.
        world.until_committed().await;
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 1);
        assert_eq!(world.get(&format!("/user-summary/{own_user}")).await.0, 200);
        assert_eq!(world.get(&format!("/user-summary/{other_user}")).await.0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_of_dead_instance_is_resumed_and_served_by_any() {
    World::run(async |world| {
        world.start().await;
        let job = Uuid::new_v4();
        world
            .execute_sql(&format!(
                "insert into mod_patron_blocks.job (id, kind, tenant, request, requested_by, requested_at, lease_expires_at)
                 values ('{job}', 'tenant', 'southlib', '{{\"module_to\": \"mod-patron-blocks-2.0.0\"}}', '_tenant', now(), now())"
            ))
            .await;
        let job = until_job_ended(world, "southlib", &job.to_string()).await;
        assert_eq!(job.get("error"), None, "{job}");
        let enabled = "select count(*) from mod_patron_blocks.tenant where tenant = 'southlib' and enabled";
        assert_eq!(world.count(enabled).await, 1);
        let path = format!("/_/tenant/{}", job["id"].as_str().unwrap());
        assert_eq!(send_as_tenant(world, "southlib", Method::DELETE, &path, &json!({})).await.0, 204);
        assert_eq!(send_as_tenant(world, "southlib", Method::GET, &path, &json!({})).await.0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_tenant_job_reports_its_cause_and_is_repeatable() {
    World::run(async |world| {
        let obstacle = "southlib_mod_patron_blocks.loan";
        world
            .execute_sql(&format!(
                "create schema southlib_mod_patron_blocks; create table {obstacle} (id int)"
            ))
            .await;
        let job = enable(world, "southlib").await;
        assert!(job["error"].as_str().is_some_and(|error| error.contains("loan")), "{job}");
        let summary = format!("/user-summary/{}", Uuid::new_v4());
        assert_eq!(
            send_as_tenant(world, "southlib", Method::GET, &summary, &json!({})).await.0,
            400
        );
        world.execute_sql(&format!("drop table {obstacle}")).await;
        assert_eq!(enable(world, "southlib").await.get("error"), None);
        assert_eq!(
            send_as_tenant(world, "southlib", Method::GET, &summary, &json!({})).await.0,
            404
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_enabled_concurrently_leave_nothing_when_purged() {
    World::run(async |world| {
        let world = &*world;
        let (one, other) = tokio::join!(enable(world, "eastlib"), enable(world, "eastlib"));
        assert_eq!((one.get("error"), other.get("error")), (None, None), "{one} {other}");
        let names: Vec<String> = (0..12).map(|n| format!("lib{n}")).collect();
        for name in &names {
            assert_eq!(enable(world, name).await.get("error"), None);
        }
        let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        for name in names.iter().map(String::as_str).chain(["eastlib", "neverlib"]) {
            let (status, _) = send_as_tenant(world, name, Method::POST, "/_/tenant", &purge).await;
            assert_eq!(status, 204, "{name}");
        }
        for left in [
            "select count(*) from information_schema.schemata where schema_name similar to '(lib|east|never)%'",
            "select count(*) from mod_patron_blocks.tenant where tenant <> 'northlib'",
            "select count(*) from mod_patron_blocks.job where tenant <> 'northlib'",
        ] {
            assert_eq!(world.count(left).await, 0, "{left}");
        }
        let figures = world.get("/metrics").await.1;
        assert!(figures.contains("tenant=\"all\"") && !figures.contains("eastlib"), "{figures}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mod_pubsub_registration_is_sent_and_optional() {
    World::run(async |world| {
        world.stop().await;
        world.config.okapi.pubsub_registration = true;
        gateway::use_request_gateway(&mut world.config);
        world.start().await;
        let truth = Truth::for_patrons([], now());
        let folio = Folio::start(TENANT, SharedTruth::new(truth), 0).unwrap();
        let install = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let enable = async |world: &World| {
            let request = world.request(Method::POST, "/_/tenant").json(&install);
            let request = request.header("X-Okapi-Tenant", TENANT);
            let answer = request.header("X-Okapi-Url", folio.url()).send().await.unwrap();
            let job: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
            let job = until_job_ended(world, TENANT, job["id"].as_str().unwrap()).await;
            assert_eq!(job.get("error"), None, "{job}");
            job["messages"][0].as_str().unwrap().to_owned()
        };
        assert_eq!(enable(world).await, "mod-pubsub accepted the subscription");
        let calls = folio.pubsub_calls();
        let paths: Vec<_> = calls.iter().map(|call| &*call.path).collect();
        let declare = "/pubsub/event-types/declare";
        assert_eq!(paths[..5], ["/pubsub/event-types"; 5]);
        assert_eq!(paths[5..], [format!("{declare}/publisher"), format!("{declare}/subscriber")]);
        let subscriber = &calls[6].body;
        assert_eq!(subscriber["moduleId"], "mod-patron-blocks-2.0.0");
        let definitions = subscriber["subscriptionDefinitions"].as_array().unwrap();
        for kind in Kind::BUSINESS {
            let definition =
                json!({ "eventType": kind.name(), "callbackAddress": kind.http_path() });
            assert!(definitions.contains(&definition), "{kind:?}");
        }
        for (behavior, number) in [(ModuleBehavior::NotFound, 1), (ModuleBehavior::Error, 3)] {
            folio.set_behavior(FolioBehavior { pubsub: behavior, ..FolioBehavior::default() });
            let (before, began) = (folio.pubsub_calls().len(), Instant::now());
            let message = enable(world).await;
            assert!(message.starts_with("mod-pubsub did not accept"), "{message}");
            assert!(began.elapsed().as_secs() < 20);
            let calls = folio.pubsub_calls().len() - before;
            assert!(calls <= number, "{calls} calls");
        }
        folio.stop().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_installations_do_not_deadlock() {
    World::run(async |world| {
        let tenants = ["southlib", "westlib", "eastlib", "midlib", "farlib"];
        for job in join_all(tenants.map(|tenant| enable(world, tenant))).await {
            assert!(job["error"].is_null(), "{job}");
        }
    })
    .await;
}

/// A record that waits for a tenant stays the tenant's while it is discarded, so a purge deletes it.
#[tokio::test(flavor = "multi_thread")]
async fn purge_deletes_discarded_records_that_waited_for_the_tenant() {
    World::run(async |world| {
        let park = "insert into mod_patron_blocks.dead_letter
            (dead_letter_id, reason, rule, topic, partition, \"offset\", received_at, headers, payload, tenant)
            select gen_random_uuid(), 'tenant_unusable', 'waits', 't', 0, n, now(), '[]', '', tenant
              from unnest(array['southlib', 'southlib', 'westlib', null]) with ordinality as x (tenant, n)";
        world.execute_sql(park).await;
        let (code, output) = run_cli(world, &["dead-letters", "discard"]);
        assert_eq!((code, &*output), (Some(0), "discarded: 4\n"));
        let tenants = "select count(*) from mod_patron_blocks.discarded_dead_letter where tenant = 'southlib'";
        assert_eq!(world.count(tenants).await, 2);
        // A restored record waits for its tenant again.
        let id = "select dead_letter_id::text from mod_patron_blocks.discarded_dead_letter
                   where tenant = 'southlib' limit 1";
        let id: String = sqlx::query_scalar(id).fetch_one(&world.db).await.unwrap();
        assert_eq!(run_cli(world, &["dead-letters", "restore", &id]).0, Some(0));
        let waiting = "select count(*) from mod_patron_blocks.dead_letter where tenant = 'southlib'";
        assert_eq!(world.count(waiting).await, 1);
        let registry = TenantRegistry::new(world.db.clone(), Clock::system());
        registry.purge(&TenantId::parse("southlib").unwrap()).await.unwrap();
        assert_eq!(world.count(waiting).await + world.count(tenants).await, 0);
        let rest = "select count(*) from mod_patron_blocks.discarded_dead_letter";
        assert_eq!(world.count(rest).await, 2, "those of another tenant and of none stay");
    })
    .await;
}

/// A purge deletes the jobs of its tenant. An enabling that waited for the purge then has no lease, and enables
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn enabling_does_nothing_after_a_purge_of_its_job() {
    World::run(async |world| {
        let registry = TenantRegistry::new(world.db.clone(), Clock::system());
        let tenant = TenantId::parse("southlib").unwrap();
        let mut purge = store::begin(&world.db).await.unwrap();
        tenants::lock_exclusive(&mut purge, &tenant).await.unwrap();
        let deleted_job = (Uuid::new_v4(), Lease::new(Duration::from_secs(60)));
        let enabling = registry.enable_for(&tenant, "mod-patron-blocks-2.0.0", Some(deleted_job));
        let purge = async {
            let waiting = "select count(*) from pg_stat_activity
                            where datname = current_database() and wait_event = 'advisory'";
            world.until("the enabling waits", async |world| world.count(waiting).await > 0).await;
            let schema = Schema::of(&tenant);
            tenants::purge(&mut purge, &tenant, &schema).await.unwrap();
            store::commit(purge).await.unwrap();
        };
        let (enabled, ()) = tokio::join!(enabling, purge);
        assert!(matches!(enabled, Err(store::Error::LeaseLost)), "{enabled:?}");
        let known = registry.find_for_request(&world.db, &tenant).await.unwrap();
        assert!(known.is_none());
    })
    .await;
}
