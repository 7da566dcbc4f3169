//! The exact requests of today's clients, and their use of the responses
//! (docs/contract/http-api.md#16-collections, docs/contract/http-api.md#2-blocks to
//! docs/contract/http-api.md#5-limits, docs/contract/http-api.md#7-tenants and
//! docs/contract/http-api.md#12-clients).

use patron_blocks::blocks::Measure;
use serde_json::{Value, json};
use uuid::Uuid;

use super::api_client::{ApiClient, ApiRequest, ApiResponse};
use crate::support::world::{TENANT, World};

pub(super) const STAFF: &str = "3e9a6b10-7c42-4d8f-9e15-a0b4c6d27f10";
const GROUP: &str = "d86e1a4f-2c93-4750-a1be-5f7c903b2e55";

/// A client, identified by the headers of its HTTP layer.
pub(super) struct Client<'d> {
    api: &'d ApiClient<'d>,
    headers: Vec<(&'static str, String)>,
}

impl<'d> Client<'d> {
    pub(super) fn new(api: &'d ApiClient<'_>, accept: Option<&str>, user: Option<&str>) -> Self {
        let mut headers = vec![
            ("X-Okapi-Tenant", TENANT.to_owned()),
            ("X-Okapi-Url", api.world.users.url()),
            ("X-Okapi-Token", "eyJhbGciOiJIUzI1NiJ9.e30.x".to_owned()),
            ("X-Okapi-Request-Id", "123456/automated-patron-blocks".to_owned()),
        ];
        headers.extend(accept.map(|accept| ("Accept", accept.to_owned())));
        headers.extend(user.map(|user| ("X-Okapi-User-Id", user.to_owned())));
        Self { api, headers }
    }

    pub(super) async fn send(&self, method: &str, path: &str, body: Option<&Value>) -> ApiResponse {
        let body = body.map(Value::to_string);
        let mut headers: Vec<_> = self.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
        headers.extend(body.as_ref().map(|_| ("Content-Type", "application/json")));
        self.api.send(ApiRequest { method, path, headers: &headers, body: body.as_deref() }).await
    }

    async fn read(&self, path: &str) -> Value {
        let answer = self.send("GET", path, None).await;
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        answer.json()
    }
}

/// The settings pages read conditions and limits and write each one back completely.
#[tokio::test(flavor = "multi_thread")]
async fn ui_users_edits_conditions_and_limits() {
    World::run(async |world| {
        let api = ApiClient::new(world);
        let ui = Client::new(&api, Some("application/json"), Some(STAFF));
        let sorted = "/patron-block-conditions?query=cql.allRecords=1%20sortby%20name";
        let names: Vec<String> = ui.read(sorted).await["patronBlockConditions"]
            .as_array()
            .unwrap()
            .iter()
            .map(|condition| condition["name"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(
            names,
            [
                "Maximum number of items charged out",
                "Maximum number of lost items",
                "Maximum number of overdue items",
                "Maximum number of overdue recalls",
                "Maximum outstanding fee/fine balance",
                "Recall overdue by maximum number of days",
            ]
        );
        let conditions = ui.read("/patron-block-conditions").await;
        assert_eq!(conditions["totalRecords"], 6);
        let mut condition = conditions["patronBlockConditions"][1].clone();
        let path = format!("/patron-block-conditions/{}", condition["id"].as_str().unwrap());
        for message in ["Too many lost items", "Ask at the desk"] {
            condition["blockBorrowing"] = json!(true);
            condition["message"] = json!(message);
            ui.send("PUT", &path, Some(&condition)).await.assert_is(204, "");
            condition = ui.read(&path).await; // with metadata, which goes back
            assert_eq!(condition["message"], message);
            assert_eq!(condition["metadata"]["updatedByUserId"], STAFF);
        }

        assert_eq!(ui.read("/patron-block-limits?limit=1500").await["totalRecords"], 0);
        for measure in [Measure::LostItems, Measure::FeeFineBalance] {
            let limit = json!({
                "id": Uuid::new_v4(), "patronGroupId": GROUP, "conditionId": measure.condition_id(),
                "value": "10",
            });
            assert_eq!(ui.send("POST", "/patron-block-limits", Some(&limit)).await.status, 201);
        }
        let listed = ui.read("/patron-block-limits?query=cql.allRecords=1&limit=1200").await;
        assert_eq!(listed["totalRecords"], 2);
        for limit in listed["patronBlockLimits"].as_array().unwrap() {
            let path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
            let mut changed = limit.clone();
            changed["value"] = json!(10.4);
            // The number of lost items must be whole, so this change is rejected.
            let whole = limit["conditionId"] == json!(Measure::LostItems.condition_id());
            let status = ui.send("PUT", &path, Some(&changed)).await.status;
            assert_eq!(status, if whole { 422 } else { 204 });
            assert_eq!(
                ui.read(&path).await["value"].as_f64(),
                Some(if whole { 10.0 } else { 10.4 })
            );
            changed["value"] = Value::Null;
            assert_eq!(
                ui.send("PUT", &path, Some(&changed)).await.validation_error()[0],
                "must not be null"
            );
            ui.send("DELETE", &path, None).await.assert_is(204, "");
        }
    })
    .await;
}

/// Scripts query by CQL.
#[tokio::test(flavor = "multi_thread")]
async fn scripts_find_limits_by_group_and_condition() {
    World::run(async |world| {
        let api = ApiClient::new(world);
        let script = Client::new(&api, None, None);
        let group: Uuid = GROUP.parse().unwrap();
        api.world.add_limit(group, Measure::LostItems, 3.0).await;
        api.world.add_limit(group, Measure::ChargedOut, 20.0).await;
        api.world.add_limit(Uuid::new_v4(), Measure::ChargedOut, 100.0).await;
        let charged = Measure::ChargedOut.condition_id();
        for (query, expected) in [
            (format!("patronGroupId=={GROUP}"), 2),
            (format!("patronGroupId=={}", GROUP.to_uppercase()), 2),
            (format!("conditionId=={charged} and patronGroupId==\"{GROUP}\""), 1),
            (format!("conditionId=={charged} NOT patronGroupId=={GROUP}"), 1),
            (format!("(conditionId=={charged} or value<5) and patronGroupId={GROUP}"), 2),
            ("value>20 sortby value/sort.descending".to_owned(), 1),
            ("patronGroupId==\"d86e1a4f*\" sortBy conditionId".to_owned(), 2),
            (format!("PatronGroupId=={GROUP}"), 0),
        ] {
            let encoded = query.replace(' ', "+").replace('"', "%22").replace('<', "%3C");
            let path = format!("/patron-block-limits?query={encoded}");
            assert_eq!(script.read(&path).await["totalRecords"], expected, "{query}");
        }
    })
    .await;
}

/// Circulation and self-service: any status except 200 would stop a check-out.
#[tokio::test(flavor = "multi_thread")]
async fn circulation_sip2_and_ui_users_query_blocks() {
    World::run(async |world| {
        let api = ApiClient::new(world);
        let circulation = Client::new(&api, Some("application/json, text/plain"), Some(STAFF));
        let sip2 = Client::new(&api, Some("application/json"), None);
        let ui = Client::new(&api, Some("*/*"), Some(STAFF));
        let user = Uuid::new_v4();
        for (client, path) in [
            (&circulation, format!("/automated-patron-blocks/{user}")),
            (&sip2, format!("/automated-patron-blocks/{user}")),
            (&ui, format!("/automated-patron-blocks/{user}?limit=2000")),
        ] {
            assert_eq!(client.read(&path).await, json!({ "automatedPatronBlocks": [] }), "{path}");
        }
    })
    .await;
}

/// Installs, upgrades and disables the tenant as the gateway does.
#[tokio::test(flavor = "multi_thread")]
async fn okapi_enables_tenant_and_polls_its_job() {
    World::run(async |world| {
        let api = ApiClient::new(world);
        let okapi = Client::new(&api, Some("*/*"), None);
        let module = "mod-patron-blocks-2.0.0";
        for attributes in [
            json!({ "module_to": module, "purge": false }),
            json!({ "module_from": module, "module_to": module }),
            json!({ "module_to": module, "module_from": "mod-patron-blocks-1.14.0", "parameters": [
                { "key": "loadReference", "value": "true" }, { "key": "loadSample", "value": "false" },
            ] }),
        ] {
            let job = okapi.send("POST", "/_/tenant", Some(&attributes)).await;
            assert_eq!((job.status, job.location.is_some()), (201, true), "{job:?}");
            let path = format!("/_/tenant/{}", job.json()["id"].as_str().unwrap());
            let ended = okapi.read(&path).await;
            assert_eq!((&ended["complete"], ended.get("error")), (&json!(true), None));
            okapi.send("DELETE", &path, None).await.assert_is(204, "");
        }
        let disable = json!({ "module_from": module });
        let off = okapi.send("POST", "/_/tenant", Some(&disable)).await;
        assert_eq!((off.status, off.location), (204, None));
        assert_eq!(okapi.send("GET", "/admin/health", None).await.body, "\"OK\"");
        let on = json!({ "module_to": module });
        assert_eq!(okapi.send("POST", "/_/tenant", Some(&on)).await.status, 201);
    })
    .await;
}
