//! A stub of the storage modules for a story: pages of open loans and accounts, by the queries of
//! docs/contract/http-api.md#9-calls, and every kind of failure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use uuid::Uuid;

/// The stub's reaction to one request for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Responds with this status.
    Status(u16),
    /// Never responds.
    Hang,
    /// Responds with invalid JSON.
    InvalidJson,
    /// Responds with an endless body.
    EndlessBody,
    /// Responds correctly.
    None,
}

#[derive(Default)]
struct State {
    /// Open records by path and id.
    records: HashMap<&'static str, BTreeMap<Uuid, Value>>,
    /// The reactions to the next requests; later requests get a correct response.
    faults: VecDeque<Fault>,
    /// The only token that the stub accepts, if any.
    accepted_token: Option<String>,
    /// Tenants without any response.
    unanswered_tenants: Vec<String>,
    /// Path and query of each request.
    requests: Vec<(String, String)>,
}

#[derive(Clone, Default)]
pub(crate) struct StorageStub(Arc<Mutex<State>>);

pub(crate) const LOANS: &str = "/loan-storage/loans";
pub(crate) const ACCOUNTS: &str = "/accounts";

impl StorageStub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    /// Adds an open loan or account.
    pub(crate) fn insert(&self, path: &'static str, record: Value) {
        let id = record["id"].as_str().expect("an id").parse().expect("a UUID");
        self.state().records.entry(path).or_default().insert(id, record);
    }

    pub(crate) fn remove(&self, path: &'static str, id: Uuid) {
        self.state().records.entry(path).or_default().remove(&id);
    }

    pub(crate) fn set_faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults = faults.into_iter().collect();
    }

    /// Stops responses to this tenant.
    pub(crate) fn ignore_tenant(&self, tenant: &str) {
        self.state().unanswered_tenants.push(tenant.to_owned());
    }

    /// Returns the number of requests since [`StorageStub::take_requests`].
    pub(crate) fn request_count(&self) -> usize {
        self.state().requests.len()
    }

    pub(crate) fn accept_only_token(&self, token: &str) {
        self.state().accepted_token = Some(token.to_owned());
    }

    /// Returns the requests and clears the list.
    pub(crate) fn take_requests(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.state().requests)
    }

    pub(crate) fn routes(&self, app: &mut web::ServiceConfig) {
        for path in [LOANS, ACCOUNTS] {
            let stub = self.clone();
            let handler =
                move |request: HttpRequest, query: web::Query<HashMap<String, String>>| {
                    let stub = stub.clone();
                    async move { stub.handle(path, &request, &query).await }
                };
            app.route(path, web::get().to(handler));
        }
    }

    async fn handle(
        &self,
        path: &'static str,
        request: &HttpRequest,
        query: &HashMap<String, String>,
    ) -> HttpResponse {
        let header =
            |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let fault = {
            let mut state = self.state();
            state.requests.push((path.to_owned(), query["query"].clone()));
            if state.accepted_token.is_some() && state.accepted_token != header("X-Okapi-Token") {
                return HttpResponse::Unauthorized().body("token");
            }
            match header("X-Okapi-Tenant") {
                Some(tenant) if state.unanswered_tenants.contains(&tenant) => Fault::Hang,
                _ => state.faults.pop_front().unwrap_or(Fault::None),
            }
        };
        assert_eq!(query["limit"], "100");
        match fault {
            Fault::Status(status) => HttpResponse::build(status.try_into().unwrap()).body("no"),
            Fault::Hang => std::future::pending().await,
            Fault::InvalidJson => HttpResponse::Ok().body("{\"loans\": [{]}"),
            Fault::EndlessBody => HttpResponse::Ok().streaming(endless_body()),
            Fault::None => HttpResponse::Ok().json(self.page(path, &query["query"])),
        }
    }

    fn page(&self, path: &'static str, query: &str) -> Value {
        let mut clauses = query.strip_suffix(" sortBy id").expect("sorted").split(" and ");
        assert_eq!(clauses.next(), Some("status.name==Open"));
        let (mut user, mut after) = (None, None);
        for clause in clauses {
            if let Some(id) = clause.strip_prefix("userId==") {
                user = Some(id.to_owned());
            } else {
                let id = clause.strip_prefix("id > ").expect("the query has no other clause");
                after = Some(id.parse::<Uuid>().unwrap());
            }
        }
        let state = self.state();
        let none = BTreeMap::new();
        let all = state.records.get(path).unwrap_or(&none).iter();
        let of_user = all.filter(|(_, record)| {
            user.as_ref().is_none_or(|user| record["userId"] == user.as_str())
        });
        let rest: Vec<&Value> = of_user
            .filter(|(id, _)| after.is_none_or(|after| **id > after))
            .map(|(_, record)| record)
            .collect();
        let member = if path == LOANS { "loans" } else { "accounts" };
        json!({ member: &rest[..rest.len().min(100)], "totalRecords": rest.len() })
    }
}

fn endless_body() -> impl futures_util::Stream<Item = Result<web::Bytes, std::io::Error>> {
    futures_util::stream::repeat_with(|| Ok(web::Bytes::from(vec![b' '; 1 << 20])))
}
