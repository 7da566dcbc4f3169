//! What operators and the platform use: dead letters, ingest, incidents, tenants, admin (http contract 7,
//! 11 and `patron-blocks-operations`).

use patron_blocks::event::Kind;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    common::event,
    desk::{Ask, Desk},
    told,
};
use crate::{
    facts::fee,
    world::{TENANT, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_listed_found_tried_again_and_thrown_away() {
    const NAME: &str = "dead_letters_are_listed_found_tried_again_and_thrown_away";
    told(NAME, async |desk| {
        let world = desk.world;
        let small = "alter table {schema}.fee_fine add constraint small check (balance < 5)";
        world.meddle(small).await;
        for balance in [7.0, 8.0, 9.0] {
            let owed = fee(Uuid::new_v4(), Uuid::new_v4(), None, balance);
            world.publish(Kind::FeeFineBalanceChanged, &owed).await;
        }
        world.log.publish(Kind::LoanClosed, b"\xff").await;
        world.settled().await;
        world
            .until("all are parked", async |w: &World| {
                w.count("select count(*) from {schema}.dead_letter").await == 4
            })
            .await;

        let letters = "/patron-blocks/dead-letters";
        let found = |query: &str| format!("{letters}?query={query}");
        let all = desk.get(&found("cql.allRecords=1 sortby reason/sort.descending offset")).await;
        let all = all.json();
        assert_eq!(all["totalRecords"], 4);
        let first = &all["deadLetters"][0];
        assert_eq!(first["reason"], "refused_by_database");
        let received = first["receivedAt"].as_str().unwrap();
        assert!(received.len() == 29 && received.ends_with("+00:00"), "{received}");
        let last = format!("{letters}/{}", all["deadLetters"][3]["id"].as_str().unwrap());
        assert_eq!(desk.get(&last).await.json()["payload"], json!({ "base64": "/w==" }));
        for bad in ["?limit=-1", "?query=reason", "?totalRecords=x"] {
            assert_eq!(desk.get(&format!("{letters}{bad}")).await.status, 400, "{bad}");
        }
        let none = desk.get(&found("nothing==x or partition==x or reason=refused")).await.json();
        assert_eq!(none, json!({ "deadLetters": [], "totalRecords": 0 }));

        let one = format!("{letters}/{}", first["id"].as_str().unwrap());
        let mut whole = desk.get(&one).await.json();
        for bytes in ["key", "headers", "payload"] {
            assert!(whole.as_object_mut().unwrap().remove(bytes).is_some(), "{bytes}");
        }
        assert_eq!(whole, *first, "a list has all but the bytes");
        let retry = format!("{one}/retry");
        let [why, code, key, _] = desk.ask("POST", &retry, None).await.error();
        assert_eq!((why.is_empty(), code.as_str(), key.as_str()), (false, "-1", "id"));
        world.meddle("alter table {schema}.fee_fine drop constraint small").await;
        desk.ask("POST", &retry, None).await.is(204, "");
        gone_or_no_id(desk, &one).await;

        let (every, ours) = (format!("{letters}/retry"), "query=reason==refused_by_database");
        for missing in [&every, &format!("{every}?query=%20")] {
            let answer = desk.ask("POST", missing, None).await;
            assert_eq!(answer.status, 400, "which ones must be said: {answer:?}");
        }
        let retried = desk.ask("POST", &format!("{every}?{ours}"), None).await.json();
        assert_eq!(retried, json!({ "applied": 2, "stillParked": 0 }));
        let left = desk.get(letters).await.json();
        let left = left["deadLetters"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(desk.delete(letters).await.status, 400);
        assert_eq!(desk.delete(&found("unknown==x")).await.json(), json!({ "discarded": 0 }));
        desk.delete(&format!("{letters}/{left}")).await.is(204, "");
        assert_eq!(desk.delete(&found("cql.allRecords=1")).await.json(), json!({ "discarded": 0 }));
    })
    .await;
}

async fn gone_or_no_id(desk: &Desk<'_>, one: &str) {
    let id = one.rsplit('/').next().unwrap();
    let retry = format!("{one}/retry");
    for (method, path) in [("GET", one), ("DELETE", one), ("POST", &*retry)] {
        desk.ask(method, path, None).await.is(404, &format!("No dead letter {id}"));
        let bad = path.replace(id, "abc");
        desk.ask(method, &bad, None).await.is(400, "the dead letter's id is not a UUID");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ingest_is_told_and_incidents_are_resolved() {
    told("ingest_is_told_and_incidents_are_resolved", async |desk| {
        let id = Uuid::new_v4();
        let raise = format!(
            "insert into mod_patron_blocks.incident (incident_id, kind, tenant, topic, partition,
               from_offset, to_offset, from_time, detail, raised_at)
             values ('{id}', 'records_lost', '{TENANT}', 'a topic', 0, 1, 2, now(), 'gone', now())"
        );
        desk.world.meddle(&raise).await;
        let standing = desk.get("/patron-blocks/ingest").await.json();
        let raised = standing["incidents"][0]["raisedAt"].as_str().unwrap().to_owned();
        assert!(raised.len() == 29 && raised.ends_with("+00:00"), "{raised}");
        let resolve = |id: &str| format!("/patron-blocks/incidents/{id}/resolve");
        let shared = Uuid::new_v4().to_string();
        let of_all =
            raise.replace(&id.to_string(), &shared).replace(&format!("'{TENANT}'"), "null");
        desk.world.meddle(&of_all).await;
        let answer = desk.ask("POST", &resolve(&shared), None).await;
        assert!(answer.status == 403 && answer.text.contains(&shared), "{answer:?}");
        let id = id.to_string();
        desk.ask("POST", &resolve(&id), None).await.is(204, "");
        let answer = desk.ask("POST", &resolve(&id), None).await;
        answer.is(404, &format!("No open incident {id}"));
        assert_eq!(desk.ask("POST", &resolve("abc"), None).await.status, 400);
        assert_eq!(desk.world.take_incidents().await, ["records_lost"], "what is shared is open");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_enabled_disabled_and_purged() {
    told("tenants_are_enabled_disabled_and_purged", async |desk| {
        let upgrade = json!({
            "module_from": "mod_patron_blocks-1.0.0", "module_to": "mod_patron_blocks-999999.0.0",
            "parameters": [{ "key": "loadReference", "value": "true" }],
        });
        let job = desk.post("/_/tenant", &upgrade).await;
        let path = job.location.clone().unwrap();
        assert_eq!(path, format!("/_/tenant/{}", job.json()["id"].as_str().unwrap()));
        assert_eq!(job.json()["tenantAttributes"], upgrade);
        let told = desk.get(&format!("{path}?wait=30000")).await.json();
        assert_eq!((&told["id"], &told["complete"]), (&job.json()["id"], &json!(true)));
        desk.delete(&path).await.is(204, "");
        let id = path.rsplit('/').next().unwrap();
        for method in ["GET", "DELETE"] {
            desk.ask(method, &path, None).await.is(404, &format!("Job not found {id}"));
            assert_eq!(desk.ask(method, "/_/tenant/abc", None).await.status, 400);
        }
        for bad in [
            json!({ "module_to": 7 }),
            json!({ "module_from": ["x"] }),
            json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": "true" }),
            json!({ "module_to": "mod-patron-blocks-2.0.0", "parameters": {} }),
            json!({ "module_to": "mod-patron-blocks-2.0.0", "parameters": ["loadSample"] }),
        ] {
            assert_eq!(desk.post("/_/tenant", &bad).await.status, 400, "{bad}");
        }
        let unheard = json!({ "module_to": "mod-patron-blocks-2.0.0", "x": "a\0b" });
        let rule = "the record holds a text or a number that can't be stored";
        desk.post("/_/tenant", &unheard).await.is(400, rule);
        assert_eq!(desk.world.get("/patron-block-limits").await.0, 200, "it is enabled still");
        let disable = json!({ "module_from": "mod-patron-blocks-2.0.0" });
        desk.post("/_/tenant", &disable).await.is(204, "");
        let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        desk.post("/_/tenant", &purge).await.is(204, "");
        desk.post("/_/tenant", &purge).await.is(204, "");
        let install = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        assert_eq!(desk.post("/_/tenant", &install).await.status, 201);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_need_no_tenant() {
    told("operators_need_no_tenant", async |desk| {
        let ask = |path| Ask { method: "GET", path, headers: &[], body: None };
        desk.send(ask("/admin/health")).await.is(200, "\"OK\"");
        assert_eq!(desk.send(ask("/admin/ready")).await.json()["ready"], true);
        assert!(desk.send(ask("/metrics")).await.text.contains("patron_blocks_"));
        let served: Value = desk.send(ask("/admin/openapi.json")).await.json();
        assert_eq!(served["openapi"], "3.1.0");
        desk.world.wire.cut();
        desk.world
            .until("the database is missed", async |_: &World| {
                desk.send(ask("/admin/ready")).await.status == 503
            })
            .await;
        desk.send(ask("/admin/health")).await.is(200, "\"OK\"");
        desk.world.wire.mend();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_taken_over_http() {
    told("events_are_taken_over_http", async |desk| {
        for kind in Kind::BUSINESS {
            let path = kind.callback();
            desk.ask("POST", &path, Some(&event())).await.is(204, "");
            let mut lacking = event();
            let member = if kind == Kind::FeeFineBalanceChanged { "feeFineId" } else { "loanId" };
            lacking[member] = Value::Null;
            let [why, code, key, value] = desk.ask("POST", &path, Some(&lacking)).await.error();
            assert_eq!((&*why, &*key, &*value), ("must not be null", member, "null"));
            assert_eq!(code, "jakarta.validation.constraints.NotNull.message");
            let mut wrong = event();
            wrong[member] = json!(7);
            let answer = desk.ask("POST", &path, Some(&wrong)).await;
            assert!(answer.status == 400 && answer.text.contains(member), "{answer:?}");
        }
        for table in ["loan", "fee_fine"] {
            let nothing = format!("alter table {{schema}}.{table} add check (false) not valid");
            desk.world.meddle(&nothing).await;
        }
        for kind in Kind::BUSINESS {
            let answer = desk.ask("POST", &kind.callback(), Some(&event())).await;
            assert_eq!(answer.status, 500, "{answer:?}");
        }
    })
    .await;
}
