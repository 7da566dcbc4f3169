//! Storage modules that a story commands: open loans and accounts, a page at a time, by the queries of the
//! contract (http contract 9), and everything that can go wrong with one.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use uuid::Uuid;

/// How it answers one request for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// With this status.
    Status(u16),
    /// Not at all.
    Hang,
    /// With something else than a page.
    Rubbish,
    /// With a page that never ends.
    Endless,
    /// As it should.
    None,
}

#[derive(Default)]
struct State {
    /// By path, and there by id.
    kept: HashMap<&'static str, BTreeMap<Uuid, Value>>,
    /// What becomes of the next requests; after them all are answered as they should be.
    faults: VecDeque<Fault>,
    /// Only this token is taken.
    token: Option<String>,
    /// Tenants who are not answered at all.
    silent: Vec<String>,
    /// Path and query of each request.
    asked: Vec<(String, String)>,
}

#[derive(Clone, Default)]
pub(crate) struct Shelf(Arc<Mutex<State>>);

pub(crate) const LOANS: &str = "/loan-storage/loans";
pub(crate) const ACCOUNTS: &str = "/accounts";

impl Shelf {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic")
    }

    /// Puts an open loan or account there.
    pub(crate) fn put(&self, path: &'static str, record: Value) {
        let id = record["id"].as_str().expect("an id").parse().expect("a UUID");
        self.state().kept.entry(path).or_default().insert(id, record);
    }

    pub(crate) fn remove(&self, path: &'static str, id: Uuid) {
        self.state().kept.entry(path).or_default().remove(&id);
    }

    pub(crate) fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        self.state().faults = faults.into_iter().collect();
    }

    /// Has this tenant be answered no more.
    pub(crate) fn ignore(&self, tenant: &str) {
        self.state().silent.push(tenant.to_owned());
    }

    /// How often it was asked since [`Shelf::take_asked`].
    pub(crate) fn asked(&self) -> usize {
        self.state().asked.len()
    }

    pub(crate) fn take_only(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// What it was asked, and forgets it.
    pub(crate) fn take_asked(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.state().asked)
    }

    pub(crate) fn routes(&self, app: &mut web::ServiceConfig) {
        for path in [LOANS, ACCOUNTS] {
            let shelf = self.clone();
            let answer = move |request: HttpRequest, query: web::Query<HashMap<String, String>>| {
                let shelf = shelf.clone();
                async move { shelf.answer(path, &request, &query).await }
            };
            app.route(path, web::get().to(answer));
        }
    }

    async fn answer(
        &self,
        path: &'static str,
        request: &HttpRequest,
        query: &HashMap<String, String>,
    ) -> HttpResponse {
        let header =
            |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
        let fault = {
            let mut state = self.state();
            state.asked.push((path.to_owned(), query["query"].clone()));
            if state.token.is_some() && state.token != header("X-Okapi-Token") {
                return HttpResponse::Unauthorized().body("token");
            }
            match header("X-Okapi-Tenant") {
                Some(tenant) if state.silent.contains(&tenant) => Fault::Hang,
                _ => state.faults.pop_front().unwrap_or(Fault::None),
            }
        };
        assert_eq!(query["limit"], "100");
        match fault {
            Fault::Status(status) => HttpResponse::build(status.try_into().unwrap()).body("no"),
            Fault::Hang => std::future::pending().await,
            Fault::Rubbish => HttpResponse::Ok().body("{\"loans\": [{]}"),
            Fault::Endless => HttpResponse::Ok().streaming(endless()),
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
                let id = clause.strip_prefix("id > ").expect("no other clause");
                after = Some(id.parse::<Uuid>().unwrap());
            }
        }
        let state = self.state();
        let none = BTreeMap::new();
        let all = state.kept.get(path).unwrap_or(&none).iter();
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

fn endless() -> impl futures_util::Stream<Item = Result<web::Bytes, std::io::Error>> {
    futures_util::stream::repeat_with(|| Ok(web::Bytes::from(vec![b' '; 1 << 20])))
}
