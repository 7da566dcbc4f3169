//! The API of operators and of the platform: dead letters, ingest, incidents, tenants, admin
//! (docs/contract/http-api.md#7-tenants, docs/contract/http-api.md#11-admin and
//! `patron-blocks-operations`).

use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    api_client::{ApiClient, ApiRequest},
    common::event,
    run,
};
use crate::support::{
    payloads::balance_change,
    users_stub::UsersBehavior,
    world::{TENANT, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_searched_retried_and_discarded() {
    const NAME: &str = "dead_letters_are_listed_searched_retried_and_discarded";
    run(NAME, async |api| {
        let world = api.world;
        let small = "alter table {schema}.fee_fine add constraint small check (balance < 5)";
        world.execute_sql(small).await;
        for balance in [7.0, 8.0, 9.0] {
            let owed = balance_change(Uuid::new_v4(), Uuid::new_v4(), None, balance);
            world.publish(Kind::FeeFineBalanceChanged, &owed).await;
        }
        world.log.publish(Kind::LoanClosed, b"\xff").await;
        world.until_committed().await;
        world
            .until("four dead letters are stored", async |w: &World| {
                w.count("select count(*) from {schema}.dead_letter").await == 4
            })
            .await;

        let letters = "/patron-blocks/dead-letters";
        let found = |query: &str| format!("{letters}?query={query}");
        let all = api.get(&found("cql.allRecords=1 sortby reason/sort.descending offset")).await;
        let all = all.json();
        assert_eq!(all["totalRecords"], 4);
        let first = &all["deadLetters"][0];
        assert_eq!(first["reason"], "refused_by_database");
        let received = first["receivedAt"].as_str().unwrap();
        assert!(received.len() == 29 && received.ends_with("+00:00"), "{received}");
        let last = format!("{letters}/{}", all["deadLetters"][3]["id"].as_str().unwrap());
        assert_eq!(api.get(&last).await.json()["payload"], json!({ "base64": "/w==" }));
        for bad in ["?limit=-1", "?query=reason", "?totalRecords=x"] {
            assert_eq!(api.get(&format!("{letters}{bad}")).await.status, 400, "{bad}");
        }
        let none = api.get(&found("nothing==x or partition==x or reason=refused")).await.json();
        assert_eq!(none, json!({ "deadLetters": [], "totalRecords": 0 }));

        let one = format!("{letters}/{}", first["id"].as_str().unwrap());
        let mut whole = api.get(&one).await.json();
        for bytes in ["key", "headers", "payload"] {
            assert!(whole.as_object_mut().unwrap().remove(bytes).is_some(), "{bytes}");
        }
        assert_eq!(whole, *first, "a list omits only the bytes");
        let retry = format!("{one}/retry");
        let [why, code, key, _] = api.request("POST", &retry, None).await.validation_error();
        assert_eq!((why.is_empty(), code.as_str(), key.as_str()), (false, "-1", "id"));
        world.execute_sql("alter table {schema}.fee_fine drop constraint small").await;
        api.request("POST", &retry, None).await.assert_is(204, "");
        assert_not_found_or_bad_id(api, &one).await;

        let (every, rejected_query) =
            (format!("{letters}/retry"), "query=reason==refused_by_database");
        for missing in [&every, &format!("{every}?query=%20")] {
            let answer = api.request("POST", missing, None).await;
            assert_eq!(answer.status, 400, "the request requires a query: {answer:?}");
        }
        let retried = api.request("POST", &format!("{every}?{rejected_query}"), None).await.json();
        assert_eq!(retried, json!({ "applied": 2, "stillParked": 0 }));
        let left = api.get(letters).await.json();
        let left = left["deadLetters"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(api.delete(letters).await.status, 400);
        assert_eq!(api.delete(&found("unknown==x")).await.json(), json!({ "discarded": 0 }));
        api.delete(&format!("{letters}/{left}")).await.assert_is(204, "");
        assert_eq!(api.delete(&found("cql.allRecords=1")).await.json(), json!({ "discarded": 0 }));
    })
    .await;
}

async fn assert_not_found_or_bad_id(api: &ApiClient<'_>, one: &str) {
    let id = one.rsplit('/').next().unwrap();
    let retry = format!("{one}/retry");
    for (method, path) in [("GET", one), ("DELETE", one), ("POST", &*retry)] {
        api.request(method, path, None).await.assert_is(404, &format!("No dead letter {id}"));
        let bad = path.replace(id, "abc");
        api.request(method, &bad, None).await.assert_is(400, "the dead letter's id is not a UUID");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_status_is_read_and_incidents_are_resolved() {
    run("ingest_status_is_read_and_incidents_are_resolved", async |api| {
        let id = Uuid::new_v4();
        let raise = format!(
            "insert into mod_patron_blocks.incident (incident_id, kind, tenant, topic, partition,
               from_offset, to_offset, from_time, detail, raised_at)
             values ('{id}', 'records_lost', '{TENANT}', 'a topic', 0, 1, 2, now(), 'gone', now())"
        );
        api.world.execute_sql(&raise).await;
        let status_page = api.get("/patron-blocks/ingest").await.json();
        let raised = status_page["incidents"][0]["raisedAt"].as_str().unwrap().to_owned();
        assert!(raised.len() == 29 && raised.ends_with("+00:00"), "{raised}");
        let resolve = |id: &str| format!("/patron-blocks/incidents/{id}/resolve");
        let shared = Uuid::new_v4().to_string();
        let of_all =
            raise.replace(&id.to_string(), &shared).replace(&format!("'{TENANT}'"), "null");
        api.world.execute_sql(&of_all).await;
        let answer = api.request("POST", &resolve(&shared), None).await;
        assert!(answer.status == 403 && answer.body.contains(&shared), "{answer:?}");
        let id = id.to_string();
        api.request("POST", &resolve(&id), None).await.assert_is(204, "");
        let answer = api.request("POST", &resolve(&id), None).await;
        answer.assert_is(404, &format!("No open incident {id}"));
        assert_eq!(api.request("POST", &resolve("abc"), None).await.status, 400);
        assert_eq!(
            api.world.take_incidents().await,
            ["records_lost"],
            "the incident of the shared topic is open"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certainty_is_read_for_tenant_and_patron() {
    run("certainty_is_read_for_tenant_and_patron", async |api| {
        let path = "/patron-blocks/certainty";
        let found = api.get(path).await.json();
        assert_eq!(
            (&found["knowledge"], &found["hasDeadLetters"]),
            (&json!("complete"), &json!(false))
        );
        let user = Uuid::new_v4();
        let found = api.get(&format!("{path}?userId={user}")).await.json();
        assert_eq!(found["patron"]["userId"], json!(user));
        assert_eq!(api.request("GET", &format!("{path}?userId=abc"), None).await.status, 400);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certainty_policy_is_read_and_replaced() {
    run("certainty_policy_is_read_and_replaced", async |api| {
        let path = "/patron-blocks/certainty-policy";
        let mut policy = api.get(path).await.json();
        policy["policy"]["doubtful"]["requests"] = json!("ask");
        api.request("PUT", path, Some(&policy)).await.assert_is(204, "");
        assert_eq!(api.get(path).await.json(), policy);
        policy["policy"]["late"]["borrowing"] = json!("block");
        let refused = api.request("PUT", path, Some(&policy)).await;
        assert!(refused.status == 422 && refused.body.contains("confirm"), "{refused:?}");
        policy["confirm"] = json!(7);
        assert_eq!(api.request("PUT", path, Some(&policy)).await.status, 400);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn settings_are_checked() {
    run("settings_are_checked", async |api| {
        let path = "/patron-blocks/settings-check";
        let found = api.get(path).await.json();
        assert_eq!((&found["groupsChecked"], &found["findings"]), (&json!(true), &json!([])));
        let group = Uuid::new_v4();
        api.world.add_limit(group, Measure::ChargedOut, 0.0).await;
        api.world.add_limit(group, Measure::LostItems, 0.0).await;
        let known = (group.to_string(), "staff".to_owned());
        api.world.users.set_patron_groups([known, (Uuid::new_v4().to_string(), String::new())]);
        let found = api.get(path).await.json();
        assert_eq!(found["totalRecords"], 3, "{found}");
        api.world.users.set_behavior(UsersBehavior::InvalidBody);
        let found = api.get(&format!("{path}?unknown=1")).await.json();
        assert_eq!(found["groupsUncheckedBecause"], "invalid-body");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_enabled_disabled_and_purged() {
    run("tenants_are_enabled_disabled_and_purged", async |api| {
        let upgrade = json!({
            "module_from": "mod_patron_blocks-1.0.0", "module_to": "mod_patron_blocks-999999.0.0",
            "parameters": [{ "key": "loadReference", "value": "true" }],
        });
        let job = api.post("/_/tenant", &upgrade).await;
        let path = job.location.clone().unwrap();
        assert_eq!(path, format!("/_/tenant/{}", job.json()["id"].as_str().unwrap()));
        assert_eq!(job.json()["tenantAttributes"], upgrade);
        let job_status = api.get(&format!("{path}?wait=30000")).await.json();
        assert_eq!((&job_status["id"], &job_status["complete"]), (&job.json()["id"], &json!(true)));
        api.delete(&path).await.assert_is(204, "");
        let id = path.rsplit('/').next().unwrap();
        for method in ["GET", "DELETE"] {
            api.request(method, &path, None).await.assert_is(404, &format!("Job not found {id}"));
            assert_eq!(api.request(method, "/_/tenant/abc", None).await.status, 400);
        }
        for bad in [
            json!({ "module_to": 7 }),
            json!({ "module_from": ["x"] }),
            json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": "true" }),
            json!({ "module_to": "mod-patron-blocks-2.0.0", "parameters": {} }),
            json!({ "module_to": "mod-patron-blocks-2.0.0", "parameters": ["loadSample"] }),
        ] {
            assert_eq!(api.post("/_/tenant", &bad).await.status, 400, "{bad}");
        }
        let with_nul = json!({ "module_to": "mod-patron-blocks-2.0.0", "x": "a\0b" });
        let rule = "the record contains a text or a number that cannot be stored";
        api.post("/_/tenant", &with_nul).await.assert_is(400, rule);
        assert_eq!(
            api.world.get("/patron-block-limits").await.0,
            200,
            "the tenant is still enabled"
        );
        let disable = json!({ "module_from": "mod-patron-blocks-2.0.0" });
        api.post("/_/tenant", &disable).await.assert_is(204, "");
        let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        api.post("/_/tenant", &purge).await.assert_is(204, "");
        api.post("/_/tenant", &purge).await.assert_is(204, "");
        let install = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        assert_eq!(api.post("/_/tenant", &install).await.status, 201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_endpoints_need_no_tenant() {
    run("operator_endpoints_need_no_tenant", async |api| {
        let ask = |path| ApiRequest { method: "GET", path, headers: &[], body: None };
        api.send(ask("/admin/health")).await.assert_is(200, "\"OK\"");
        let start_page = api.send(ask("/")).await;
        assert_eq!(start_page.status, 200);
        for path in ["/admin/ready", "/admin/health", "/admin/openapi.json", "/metrics"] {
            let link = format!("href=\"{}\"", &path[1..]);
            assert!(start_page.body.contains(&link), "{}", start_page.body);
            assert_eq!(api.send(ask(path)).await.status, 200);
        }
        assert_eq!(api.send(ask("/admin/ready")).await.json()["ready"], true);
        assert!(api.send(ask("/metrics")).await.body.contains("patron_blocks_"));
        let served: Value = api.send(ask("/admin/openapi.json")).await.json();
        assert_eq!(served["openapi"], "3.1.0");
        api.world.proxy.disconnect();
        api.world
            .until("the service reports that it is not ready", async |_: &World| {
                api.send(ask("/admin/ready")).await.status == 503
            })
            .await;
        api.send(ask("/admin/health")).await.assert_is(200, "\"OK\"");
        api.world.proxy.restore();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_accepted_over_http() {
    run("events_are_accepted_over_http", async |api| {
        for kind in Kind::BUSINESS {
            let path = kind.http_path();
            api.request("POST", &path, Some(&event())).await.assert_is(204, "");
            let mut incomplete = event();
            let member = if kind == Kind::FeeFineBalanceChanged { "feeFineId" } else { "loanId" };
            incomplete[member] = Value::Null;
            let [why, code, key, value] =
                api.request("POST", &path, Some(&incomplete)).await.validation_error();
            assert_eq!((&*why, &*key, &*value), ("must not be null", member, "null"));
            assert_eq!(code, "jakarta.validation.constraints.NotNull.message");
            let mut wrong = event();
            wrong[member] = json!(7);
            let answer = api.request("POST", &path, Some(&wrong)).await;
            assert!(answer.status == 400 && answer.body.contains(member), "{answer:?}");
        }
        for table in ["loan", "fee_fine"] {
            let nothing = format!("alter table {{schema}}.{table} add check (false) not valid");
            api.world.execute_sql(&nothing).await;
        }
        for kind in Kind::BUSINESS {
            let answer = api.request("POST", &kind.http_path(), Some(&event())).await;
            assert_eq!(answer.status, 500, "{answer:?}");
        }
    })
    .await;
}
