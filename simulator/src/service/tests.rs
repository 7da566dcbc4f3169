//! Tests of setup and judge against a stub of the service that answers from a truth.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_web::web::{self, Data, Json, Path};
use actix_web::{App, HttpResponse, HttpServer};
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::{Value, json};
use uuid::Uuid;

use super::compare::Summary;
use super::explanations::stub::explain;
use super::{Judge, Service, set_up};
use crate::blocks::{Finding, Rules, for_account};
use crate::clock::Clock;
use crate::model::{Settings, Truth};
use crate::regulations;
use crate::wire::{Faults, Play, SharedTruth, Wire};

fn end() -> DateTime<Utc> {
    "2026-09-15T00:00:00Z".parse().expect("the text is a time")
}

/// The truth of the stub, and the requests that it received.
struct ServiceStub {
    truth: SharedTruth,
    conditions: Mutex<Vec<Value>>,
    limits: Mutex<Vec<Value>>,
    job_polls: Mutex<u32>,
    /// Changes each explanation before the response.
    edit_explanation: Mutex<fn(&mut Value)>,
}

impl ServiceStub {
    fn rules(&self) -> Rules {
        let read = |list: &Mutex<Vec<Value>>| json!(*list.lock().expect("no thread panics"));
        let conditions = serde_json::from_value(read(&self.conditions));
        let limits = serde_json::from_value(read(&self.limits));
        let reason = "the stub has valid members";
        Rules { conditions: conditions.expect(reason), limits: limits.expect(reason) }
    }
}

async fn enable() -> HttpResponse {
    let job = json!({ "id": "1", "complete": false });
    HttpResponse::Created().append_header(("Location", "/_/tenant/1")).json(job)
}

async fn job(service: Data<ServiceStub>) -> HttpResponse {
    let mut polls = service.job_polls.lock().expect("no thread panics");
    *polls += 1;
    HttpResponse::Ok().json(json!({ "id": "1", "complete": *polls > 1 }))
}

async fn no_content() -> HttpResponse {
    HttpResponse::NoContent().finish()
}

async fn conditions(service: Data<ServiceStub>) -> HttpResponse {
    let list = service.conditions.lock().expect("no thread panics");
    HttpResponse::Ok().json(json!({ "patronBlockConditions": *list, "totalRecords": 6 }))
}

async fn limits(service: Data<ServiceStub>) -> HttpResponse {
    let list = service.limits.lock().expect("no thread panics");
    HttpResponse::Ok().json(json!({ "patronBlockLimits": *list, "totalRecords": list.len() }))
}

fn put(list: &Mutex<Vec<Value>>, id: &str, record: Value) -> HttpResponse {
    let mut list = list.lock().expect("no thread panics");
    match list.iter_mut().find(|one| one["id"] == json!(id)) {
        Some(one) => *one = record,
        None => return HttpResponse::NotFound().body("Not found"),
    }
    HttpResponse::NoContent().finish()
}

async fn put_condition(
    id: Path<String>,
    body: Json<Value>,
    service: Data<ServiceStub>,
) -> HttpResponse {
    put(&service.conditions, &id, body.into_inner())
}

async fn put_limit(
    id: Path<String>,
    body: Json<Value>,
    service: Data<ServiceStub>,
) -> HttpResponse {
    put(&service.limits, &id, body.into_inner())
}

async fn post_limit(body: Json<Value>, service: Data<ServiceStub>) -> HttpResponse {
    service.limits.lock().expect("no thread panics").push(body.into_inner());
    HttpResponse::Created().finish()
}

async fn summary(patron: Path<Uuid>, service: Data<ServiceStub>) -> HttpResponse {
    match service.truth.read().account(*patron).and_then(Summary::from_account) {
        Some(summary) => HttpResponse::Ok().json(summary),
        None => HttpResponse::NotFound().body("not found"),
    }
}

async fn blocks(patron: Path<Uuid>, service: Data<ServiceStub>) -> HttpResponse {
    let truth = service.truth.read();
    let account = truth.account(*patron).expect("requests name only patrons");
    let findings = for_account(account, &service.rules(), end());
    let block = |finding: Finding| {
        let mut block = json!(finding.block);
        block["metadata"] = json!({ "createdDate": end(), "updatedDate": end() });
        block
    };
    let blocks: Vec<_> = findings.into_iter().map(block).collect();
    HttpResponse::Ok().json(json!({ "automatedPatronBlocks": blocks }))
}

async fn explanation(patron: Path<Uuid>, service: Data<ServiceStub>) -> HttpResponse {
    let truth = service.truth.read();
    let account = truth.account(*patron).expect("requests name only patrons");
    let mut explanation = json!(explain(account, &service.rules(), end()));
    let edit = service.edit_explanation.lock().expect("no thread panics");
    edit(&mut explanation);
    HttpResponse::Ok().json(explanation)
}

fn routes(app: &mut web::ServiceConfig) {
    app.route("/_/tenant", web::post().to(enable))
        .route("/_/tenant/1", web::get().to(job))
        .route("/_/tenant/1", web::delete().to(no_content))
        .route("/patron-block-conditions", web::get().to(conditions))
        .route("/patron-block-conditions/{id}", web::put().to(put_condition))
        .route("/patron-block-limits", web::get().to(limits))
        .route("/patron-block-limits", web::post().to(post_limit))
        .route("/patron-block-limits/{id}", web::put().to(put_limit))
        .route("/user-summary/{id}", web::get().to(summary))
        .route("/automated-patron-blocks/{id}", web::get().to(blocks))
        .route("/patron-blocks/explanations/{id}", web::get().to(explanation));
}

/// A tenant set up in a stub with the truth.
struct World {
    stub: Data<ServiceStub>,
    truth: Arc<Truth>,
    service: Service,
    judge: Judge,
}

impl World {
    async fn new() -> Self {
        let settings = Settings { patrons: 200, ..Settings::new(6, end()) };
        let (_, truth) = Play::in_memory(&settings, &Wire::new("", "northlib"), Faults::NONE);
        let seed = regulations::rules().conditions.into_iter().map(|condition| {
            let (id, name, kind) = (condition.id, condition.name, condition.value_type);
            json!({ "id": id, "name": name, "valueType": kind })
        });
        let stub = Data::new(ServiceStub {
            truth: SharedTruth::new(truth.clone()),
            conditions: Mutex::new(seed.collect()),
            limits: Mutex::default(),
            job_polls: Mutex::default(),
            edit_explanation: Mutex::new(|_| ()),
        });
        let data = stub.clone();
        let server = HttpServer::new(move || App::new().app_data(data.clone()).configure(routes))
            .workers(1)
            .disable_signals()
            .bind((Ipv4Addr::LOCALHOST, 0))
            .expect("a port is free");
        let url = format!("http://{}", server.addrs()[0]);
        tokio::spawn(server.run());

        let service = Service::new(&url, "northlib", None).expect("the client is created");
        set_up(&service, &regulations::rules()).await.expect("the tenant is set up");
        let judge = Judge::new(service.clone(), Clock::Fixed(end()));
        Self { stub, truth: Arc::new(truth), service, judge }
    }

    async fn differences(&self) -> Vec<String> {
        let verdict = self.judge.compare(&self.truth).await.expect("the judge gets a response");
        verdict.differences.iter().map(ToString::to_string).collect()
    }

    /// Returns a patron with a loan and a fee/fine.
    fn borrower(&self) -> Uuid {
        let mut accounts = self.truth.accounts();
        let both =
            |a: &&crate::model::Account| !a.open_loans.is_empty() && !a.open_fees_fines.is_empty();
        accounts.find(both).expect("some patron has a loan and a fee/fine").patron.id
    }

    /// Changes an account in the truth of the stub.
    fn change_stub(&self, patron: Uuid, change: impl FnOnce(&mut Value)) {
        let mut truth = json!(self.stub.truth.snapshot());
        let accounts = truth["accounts"].as_array_mut().expect("a truth has accounts");
        let mut matching = accounts.iter_mut().filter(|one| one["patron"]["id"] == json!(patron));
        change(matching.next().expect("the id belongs to a patron"));
        *self.stub.truth.write() = serde_json::from_value(truth).expect("the value is a truth");
    }
}

fn first<'a>(account: &'a mut Value, list: &str) -> &'a mut Value {
    let all = account[list].as_object_mut().expect("the value is an object");
    all.values_mut().next().expect("the object is not empty")
}

#[tokio::test]
async fn second_setup_changes_no_rule() {
    let world = World::new().await;
    set_up(&world.service, &regulations::rules()).await.expect("the setup can be repeated");
    assert_eq!(
        world.judge.rules().await.expect("the service returns the rules"),
        regulations::rules()
    );
    let ids = regulations::rules().limits.into_iter().map(|limit| limit.id);
    let ids: std::collections::BTreeSet<_> = ids.collect();
    assert_eq!(ids.len(), 30);
    assert!(ids.iter().all(|id| id.get_version_num() == 4));
}

#[tokio::test]
async fn correct_service_has_no_difference() {
    let world = World::new().await;
    let verdict = world.judge.compare(&world.truth).await.expect("the judge gets a response");
    assert_eq!(verdict.differences, []);
    assert_eq!(verdict.patrons, 200);
    assert_eq!(verdict.loans, world.truth.loans_after(None).count());
    assert!(verdict.fees_fines > 10 && verdict.claimed_fees_fines > 0, "{verdict}");
    let end = "of claimed loans), 200 explanations compared, 0 differences";
    assert!(verdict.to_string().ends_with(end), "{verdict}");
}

#[tokio::test]
async fn every_wrong_member_is_found() {
    let world = World::new().await;
    let patron = world.borrower();
    for (list, member, value, expected) in [
        ("openLoans", "dueDate", json!("2026-01-01T00:00:00Z"), "due 2026-01-01T00:00:00.000Z"),
        ("openLoans", "gracePeriod", json!({"duration": 77, "intervalId": "Weeks"}), "77 Weeks"),
        ("openFeesFines", "balance", json!(0.07), "balance 0.07"),
        ("openFeesFines", "loanId", json!(Uuid::from_u128(9)), "loan 00000000"),
        ("openFeesFines", "feeFineTypeId", json!(Uuid::from_u128(8)), "type 00000000"),
    ] {
        let before = world.stub.truth.snapshot();
        world.change_stub(patron, |account| first(account, list)[member] = value);
        let found = world.differences().await;
        assert!(found.iter().any(|line| line.contains(expected)), "{member}: {found:?}");
        assert!(found.iter().all(|line| line.starts_with(&patron.to_string())));
        *world.stub.truth.write() = before;
    }
    assert_eq!(world.differences().await, [""; 0]);
}

#[tokio::test]
async fn flags_of_a_loan_are_compared() {
    let world = World::new().await;
    let patron = world.borrower();
    for (member, value, expected) in [
        ("itemStatus", json!("Declared lost"), ", lost"),
        ("itemStatus", json!("Claimed returned"), ", claimed returned"),
        ("recall", json!(true), ", recalled"),
    ] {
        let before = world.stub.truth.snapshot();
        world.change_stub(patron, |account| first(account, "openLoans")[member] = value);
        let found = world.differences().await;
        assert!(found.iter().any(|line| line.contains(expected)), "{expected}: {found:?}");
        *world.stub.truth.write() = before;
    }
}

#[tokio::test]
async fn missing_and_phantom_records_are_found() {
    let world = World::new().await;
    let patron = world.borrower();
    world.change_stub(patron, |account| {
        let loans = account["openLoans"].as_object_mut().expect("the value is an object");
        let (id, loan) = loans.pop_first_or_panic();
        loans.insert(Uuid::from_u128(u128::from(id.len() as u8)).to_string(), loan);
    });
    let found = world.differences().await;
    assert!(found.iter().any(|line| line.contains("got none")), "{found:?}");
    assert!(found.iter().any(|line| line.contains("expected none")), "{found:?}");

    world.change_stub(patron, |account| {
        account["openLoans"] = json!({});
        account["openFeesFines"] = json!({});
    });
    let found = world.differences().await;
    assert!(found[0].contains("got 404, nothing open"), "{found:?}");
}

trait PopFirst {
    fn pop_first_or_panic(&mut self) -> (String, Value);
}

impl PopFirst for serde_json::Map<String, Value> {
    fn pop_first_or_panic(&mut self) -> (String, Value) {
        let id = self.keys().next().expect("the object is not empty").clone();
        let value = self.remove(&id).expect("the object has the entry");
        (id, value)
    }
}

#[tokio::test]
async fn wrong_blocks_are_found_despite_a_correct_summary() {
    let world = World::new().await;
    // The judge reads the rules from the service, so only the evaluation can differ.
    let moved = world.truth.accounts().find(|account| {
        let blocks = for_account(account, &regulations::rules(), end());
        !blocks.is_empty()
    });
    let patron = moved.expect("some patron is blocked").patron.id;
    world.change_stub(patron, |account| account["patron"]["known"] = json!(false));
    let found = world.differences().await;
    let (explanation, others): (Vec<_>, Vec<_>) =
        found.iter().partition(|line| line.contains("explanation, "));
    assert_eq!(others.len(), 1, "{found:?}");
    assert!(others[0].contains("blocks: expected [") && others[0].ends_with("got []"));
    assert!(explanation[0].contains("explanation, patron group: expected \""), "{explanation:?}");
}

#[tokio::test]
async fn wrong_explanations_are_found_and_counted() {
    let world = World::new().await;
    type Edit = fn(&mut Value);
    let edits: [(Edit, usize, &str); 3] = [
        (|explanation| explanation["totals"]["loans"] = json!(77), 200, "totals, loans: expected"),
        (
            |explanation| explanation["evaluatedAt"] = json!("2026-09-15T00:00:01.001Z"),
            200,
            "evaluatedAt: expected an instant from 2026-09-15 00:00:00 UTC",
        ),
        (|explanation| explanation["title"] = json!("Momo"), 0, "is not the expected JSON"),
    ];
    for (edit, explanations, expected) in edits {
        *world.stub.edit_explanation.lock().expect("no thread panics") = edit;
        let verdict = world.judge.compare(&world.truth).await.expect("the judge gets a response");
        assert_eq!(verdict.explanations, explanations);
        let patrons: std::collections::BTreeSet<_> =
            verdict.differences.iter().map(|difference| difference.patron).collect();
        assert_eq!(patrons.len(), 200, "{expected}");
        let found = verdict.differences[0].to_string();
        assert!(found.contains("explanation") && found.contains(expected), "{found}");
    }
}

#[tokio::test]
async fn judge_waits_until_the_service_catches_up() {
    let world = World::new().await;
    let patron = world.borrower();
    let right = world.stub.truth.snapshot();
    world.change_stub(patron, |account| first(account, "openFeesFines")["balance"] = json!(0.07));
    let timeout = Duration::from_millis(600);
    let truth = async || Ok(Arc::clone(&world.truth));
    let verdict =
        world.judge.compare_until(timeout, &truth).await.expect("the judge gets a response");
    assert!(!verdict.differences.is_empty());

    let catch_up = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        *world.stub.truth.write() = right;
    };
    let comparison = world.judge.compare_until(Duration::from_secs(20), &truth);
    let (verdict, ()) = tokio::join!(comparison, catch_up);
    assert_eq!(verdict.expect("the judge gets a response").differences, []);
}

#[tokio::test]
async fn unavailable_service_is_named() {
    let service =
        Service::new("http://127.0.0.1:9", "northlib", None).expect("the client is created");
    let error =
        set_up(&service, &regulations::rules()).await.expect_err("no server listens on the port");
    let text = format!("{error:#}");
    assert!(text.contains("tenant northlib") && text.contains("http://127.0.0.1:9"), "{text}");
}

#[test]
fn amounts_are_compared_as_numbers() {
    let text = r#"{"feeFineId":"00000000-0000-0000-0000-000000000004","balance":12.550}"#;
    let fee: super::compare::SummaryFee = serde_json::from_str(text).expect("the text can be read");
    assert_eq!(fee.balance, Decimal::new(1255, 2));
    let large = text.replace("12.550", "1.25E7");
    let fee: super::compare::SummaryFee =
        serde_json::from_str(&large).expect("the text can be read");
    assert_eq!(fee.balance, Decimal::from(12_500_000));
}
