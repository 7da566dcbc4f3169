//! Tests of the HTTP modules, with the requests of the service.

use std::collections::BTreeMap;

use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

use super::{Folio, FolioBehavior, ModuleBehavior};
use crate::model::{Settings, Transaction, Truth};
use crate::wire::{Faults, Play, SharedTruth, Wire};

const TENANT: &str = "northlib";

struct World {
    folio: Folio,
    truth: Truth,
    client: Client,
}

impl World {
    fn new() -> Self {
        let end = "2026-09-15T00:00:00Z".parse().expect("the text is a time");
        let settings = Settings { patrons: 300, ..Settings::new(5, end) };
        let (_, truth) = Play::in_memory(&settings, &Wire::new("", TENANT), Faults::NONE);
        let shared = SharedTruth::new(truth.clone());
        let folio = Folio::start(TENANT, shared, 0).expect("a port is free");
        Self { folio, truth, client: Client::new() }
    }

    async fn get(&self, path: &str, query: &[(&str, &str)]) -> Response {
        let request = self.client.get(format!("{}{path}", self.folio.url()));
        let request = request.header("X-Okapi-Tenant", TENANT).query(query);
        request.send().await.expect("the server responds")
    }

    /// Returns all records of a collection, page by page like a rebuild.
    async fn read(&self, path: &str, filter: &str) -> BTreeMap<String, Value> {
        let collection = path.rsplit('/').next().expect("a path has a last part");
        let mut records = BTreeMap::new();
        loop {
            let after = records.keys().next_back();
            let after = after.map_or(String::new(), |id| format!(" and id > {id}"));
            let query = format!("status.name==Open{filter}{after} sortBy id");
            let answer = self.get(path, &[("limit", "100"), ("query", &query)]).await;
            let page: Value = answer.json().await.expect("a page is JSON");
            let page = page[collection].as_array().expect("a page has records").clone();
            let last = page.len() < 100;
            for record in page {
                let id = record["id"].as_str().expect("a record has an id").to_owned();
                assert!(records.last_key_value().is_none_or(|(last, _)| *last < id), "in order");
                records.insert(id, record);
            }
            if last {
                return records;
            }
        }
    }
}

#[tokio::test]
async fn storage_is_read_page_by_page() {
    let world = World::new();
    let loans = world.read("/loan-storage/loans", "").await;
    let wanted: Vec<_> = world.truth.loans_after(None).collect();
    assert!(wanted.len() > 300);
    assert_eq!(loans.len(), wanted.len());
    for (id, patron, loan) in wanted {
        let record = &loans[&id.to_string()];
        assert_eq!(record["userId"], json!(patron));
        assert_eq!(record["itemStatus"], json!(loan.item_status));
        assert_eq!(record["dueDateChangedByRecall"] == json!(true), loan.recall);
        assert!(record["dueDate"].as_str().is_some_and(|due| due.ends_with("+00:00")));
    }
    let accounts = world.read("/accounts", "").await;
    assert_eq!(accounts.len(), world.truth.fees_after(None).count());
    assert!(accounts.values().any(|account| account["loanId"] == json!("0")));

    let (id, patron, _) = world.truth.loans_after(None).next().expect("the truth has a loan");
    let loans_of_patron =
        world.read("/loan-storage/loans", &format!(" and userId=={patron}")).await;
    let account = world.truth.account(patron).expect("the id belongs to a patron");
    assert_eq!(loans_of_patron.len(), account.open_loans.len());
    assert!(loans_of_patron.contains_key(&id.to_string()));
}

#[tokio::test]
async fn pages_count_all_and_other_queries_are_rejected() {
    let world = World::new();
    let query = ("query", "status.name==Open sortBy id");
    let path = "/loan-storage/loans";
    let page = world.get(path, &[query, ("limit", "3"), ("offset", "5")]).await;
    let page: Value = page.json().await.expect("a page is JSON");
    assert_eq!(page["totalRecords"], json!(world.truth.loans_after(None).count()));
    let sixth = world.truth.loans_after(None).nth(5).expect("the truth has six loans").0;
    assert_eq!(page["loans"][0]["id"], json!(sixth));
    assert_eq!(page["loans"].as_array().map(Vec::len), Some(3));

    for query in [
        "cql.allRecords=1",
        "status.name==Open",
        "userId==7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01 sortBy id",
        "status.name==Open and id > abc sortBy id",
        "status.name==Closed sortBy id",
    ] {
        let answer = world.get(path, &[("query", query)]).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST, "{query}");
    }
}

#[tokio::test]
async fn user_responses_follow_the_behavior() {
    let world = World::new();
    let patron = world.truth.accounts().map(|account| &account.patron).find(|one| one.known);
    let patron = patron.expect("the users module knows most patrons");
    let path = format!("/users/{}", patron.id);
    let answer = world.get(&path, &[]).await;
    let user: Value = answer.json().await.expect("a user is JSON");
    assert_eq!(user["username"], json!(patron.username));
    assert_eq!(user["patronGroup"], json!(patron.patron_group));
    let unknown_user = world.get("/users/7b1f0c52-9a3e-4d0e-8f66-2c4f5a9d1e01", &[]).await;
    assert_eq!(unknown_user.status(), StatusCode::NOT_FOUND);

    world
        .folio
        .set_behavior(FolioBehavior { users: ModuleBehavior::Error, ..FolioBehavior::default() });
    assert_eq!(world.get(&path, &[]).await.status(), StatusCode::INTERNAL_SERVER_ERROR);
    let switch = world.client.post(format!("{}/simulator/behavior", world.folio.url()));
    let response = switch.json(&json!({ "users": "notFound" })).send().await;
    assert_eq!(response.expect("the server responds").status(), StatusCode::NO_CONTENT);
    assert_eq!(world.get(&path, &[]).await.status(), StatusCode::NOT_FOUND);

    let truth = world.get("/simulator/truth", &[]).await;
    assert_eq!(truth.json::<Truth>().await.expect("the truth is JSON"), world.truth);
}

#[tokio::test]
async fn pause_responds_when_publishing_is_idle() {
    let world = World::new();
    let post = |what: &str| {
        let request = world.client.post(format!("{}/simulator/{what}", world.folio.url()));
        async { request.send().await.expect("the server responds").status() }
    };
    let pause = world.folio.pause();
    assert!(!pause.is_requested());
    let asked = async {
        assert_eq!(post("pause").await, StatusCode::NO_CONTENT);
        assert!(pause.is_requested());
        assert_eq!(post("resume").await, StatusCode::NO_CONTENT);
    };
    let accepted = async {
        while !pause.is_requested() {
            tokio::task::yield_now().await;
        }
        pause.acknowledge().await;
    };
    tokio::join!(asked, accepted);
    assert!(!pause.is_requested());
}

#[tokio::test]
async fn desk_requests_name_open_items() {
    let world = World::new();
    let post = async |path: String| {
        let request = world.client.post(format!("{}/simulator/{path}", world.folio.url()));
        request.send().await.expect("the server responds").status()
    };
    let (loan, ..) = world.truth.loans_after(None).next().expect("the library has loans");
    let (fee, ..) = world.truth.fees_after(None).next().expect("the library has fees");
    assert_eq!(post(format!("loans/{loan}/check-in")).await, StatusCode::ACCEPTED);
    assert_eq!(post(format!("fees-fines/{fee}/pay")).await, StatusCode::ACCEPTED);
    for path in [format!("loans/{fee}/check-in"), format!("fees-fines/{loan}/pay")] {
        assert_eq!(post(path).await, StatusCode::NOT_FOUND);
    }
    let desk = world.folio.desk();
    assert_eq!(desk.next().await, Transaction::CheckIn(loan));
    assert_eq!(desk.next().await, Transaction::Pay(fee));
}

#[tokio::test]
async fn other_tenants_are_rejected_and_pubsub_calls_are_recorded() {
    let world = World::new();
    let post = |tenant: &str| {
        let url = format!("{}/pubsub/event-types", world.folio.url());
        let body = json!({ "eventType": "ITEM_CHECKED_OUT" });
        world.client.post(url).header("X-Okapi-Tenant", tenant).json(&body).send()
    };
    let refused = post("southlib").await.expect("the server responds");
    assert_eq!(refused.status(), StatusCode::BAD_REQUEST);
    assert_eq!(world.folio.pubsub_calls(), []);
    let accepted = post(TENANT).await.expect("the server responds");
    assert_eq!(accepted.status(), StatusCode::CREATED);
    let calls = world.folio.pubsub_calls();
    assert_eq!(calls[0].path, "/pubsub/event-types");
    assert_eq!(calls[0].body, json!({ "eventType": "ITEM_CHECKED_OUT" }));
}
