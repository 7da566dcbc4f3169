//! A stub of the users module for a story, with a stub of the storage modules.

use std::{
    collections::HashMap,
    net::TcpListener,
    sync::{Arc, Mutex},
};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use serde_json::json;
use uuid::Uuid;

use crate::support::storage_stub::StorageStub;

/// The stub's reaction to requests.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum UsersBehavior {
    #[default]
    Normal,
    /// Status 500.
    ServerError,
    /// Accepts the request and never responds.
    NoResponse,
    /// A correct response, followed by two megabytes of spaces.
    OversizedBody,
    /// Status 200 with a body that is not the expected JSON.
    InvalidBody,
}

/// The only query of the service for patron groups, as in the settings pages of ui-users.
const GROUPS_QUERY: &str = "cql.allRecords=1 sortby group";

#[derive(Default)]
struct State {
    groups: HashMap<Uuid, Option<Uuid>>,
    /// Id and name of each patron group.
    patron_groups: Vec<(String, String)>,
    /// Number of patron groups that responses lack, although their total includes them.
    missing_patron_groups: usize,
    behavior: UsersBehavior,
    requests: usize,
    /// Patron of each barcode, and title of each loan.
    barcodes: HashMap<String, Uuid>,
    titles: HashMap<Uuid, String>,
    /// Whether readers may see neither barcodes nor titles.
    is_forbidden: bool,
}

pub(crate) struct UsersStub {
    /// Storage modules at the same address.
    pub(crate) storage: StorageStub,
    state: Arc<Mutex<State>>,
    port: u16,
    server: ServerHandle,
}

impl UsersStub {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        let (shared, storage) = (state.clone(), StorageStub::default());
        let app_storage = storage.clone();
        let app = move || {
            let (shared, app_storage) = (web::Data::from(shared.clone()), app_storage.clone());
            let app = App::new()
                .app_data(shared)
                .route("/users/{id}", web::get().to(handle_user))
                .route("/users", web::get().to(handle_barcode))
                .route("/circulation/loans", web::get().to(handle_titles))
                .route("/groups", web::get().to(handle_groups));
            app.configure(move |app| app_storage.routes(app))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0)
            .listen(listener)
            .expect("the stub listens")
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { storage, state, port, server: handle }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Adds a patron of this group.
    pub(crate) fn add_patron(&self, group: impl Into<Option<Uuid>>) -> Uuid {
        let user = Uuid::new_v4();
        self.set_group(user, group);
        user
    }

    pub(crate) fn set_group(&self, user: Uuid, group: impl Into<Option<Uuid>>) {
        self.state.lock().expect("no panic").groups.insert(user, group.into());
    }

    /// Replaces the patron groups, by id and name.
    pub(crate) fn set_patron_groups(&self, groups: impl IntoIterator<Item = (String, String)>) {
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by(|(_, one), (_, other)| one.cmp(other));
        self.state.lock().expect("no panic").patron_groups = groups;
    }

    /// Removes patron groups from all responses, although the total includes them.
    pub(crate) fn hide_patron_groups(&self, count: usize) {
        self.state.lock().expect("no panic").missing_patron_groups = count;
    }

    pub(crate) fn set_barcode(&self, barcode: &str, user: Uuid) {
        self.state.lock().expect("no panic").barcodes.insert(barcode.to_owned(), user);
    }

    pub(crate) fn set_title(&self, loan: Uuid, title: &str) {
        self.state.lock().expect("no panic").titles.insert(loan, title.to_owned());
    }

    /// Lets readers see neither barcodes nor titles.
    pub(crate) fn forbid_lookups(&self) {
        self.state.lock().expect("no panic").is_forbidden = true;
    }

    pub(crate) fn remove_user(&self, user: Uuid) {
        self.state.lock().expect("no panic").groups.remove(&user);
    }

    pub(crate) fn set_behavior(&self, behavior: UsersBehavior) {
        self.state.lock().expect("no panic").behavior = behavior;
    }

    /// Returns the number of requests.
    pub(crate) fn request_count(&self) -> usize {
        self.state.lock().expect("no panic").requests
    }
}

impl Drop for UsersStub {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

async fn handle_user(state: web::Data<Mutex<State>>, user: web::Path<Uuid>) -> HttpResponse {
    let (behavior, group) = {
        let mut state = state.lock().expect("no panic");
        state.requests += 1;
        (state.behavior, state.groups.get(&user).copied())
    };
    match (behavior, group) {
        (UsersBehavior::NoResponse, _) => std::future::pending().await,
        (UsersBehavior::ServerError, _) => HttpResponse::InternalServerError().finish(),
        (UsersBehavior::OversizedBody, _) => {
            let user = json!({ "id": *user, "patronGroup": group.flatten() }).to_string();
            HttpResponse::Ok().body(user + &" ".repeat(2 << 20))
        }
        (UsersBehavior::InvalidBody, _) => HttpResponse::Ok().body("<html></html>"),
        (UsersBehavior::Normal, None) => HttpResponse::NotFound().body("User not found"),
        (UsersBehavior::Normal, Some(None)) => HttpResponse::Ok().json(json!({ "id": *user })),
        (UsersBehavior::Normal, Some(Some(group))) => {
            HttpResponse::Ok().json(json!({ "id": *user, "active": true, "patronGroup": group }))
        }
    }
}

#[derive(serde::Deserialize)]
struct GroupPage {
    query: String,
    limit: usize,
    offset: usize,
}

async fn handle_groups(
    state: web::Data<Mutex<State>>,
    page: web::Query<GroupPage>,
) -> HttpResponse {
    let (behavior, body) = {
        let mut state = state.lock().expect("no panic");
        state.requests += 1;
        let total = state.patron_groups.len();
        let present = state.patron_groups.iter().take(total - state.missing_patron_groups);
        let groups: Vec<_> = present
            .skip(page.offset)
            .take(page.limit)
            .map(|(id, name)| json!({ "id": id, "group": name, "metadata": {} }))
            .collect();
        (state.behavior, json!({ "usergroups": groups, "totalRecords": total }))
    };
    match behavior {
        _ if page.query != GROUPS_QUERY => HttpResponse::BadRequest().body("another query"),
        UsersBehavior::Normal => HttpResponse::Ok().json(body),
        UsersBehavior::ServerError => HttpResponse::InternalServerError().finish(),
        UsersBehavior::NoResponse => std::future::pending().await,
        UsersBehavior::OversizedBody => {
            HttpResponse::Ok().body(body.to_string() + &" ".repeat(2 << 20))
        }
        UsersBehavior::InvalidBody => HttpResponse::Ok().json(json!({ "groups": [] })),
    }
}

#[derive(serde::Deserialize)]
struct Search {
    query: String,
}

async fn handle_barcode(
    state: web::Data<Mutex<State>>,
    search: web::Query<Search>,
) -> HttpResponse {
    let state = state.lock().expect("no panic");
    if state.is_forbidden {
        return HttpResponse::Forbidden().finish();
    }
    let barcode = search.query.trim_start_matches("barcode==\"").trim_end_matches('"');
    let found = state.barcodes.get(barcode).map(|user| json!({ "id": user, "barcode": barcode }));
    HttpResponse::Ok().json(json!({ "users": found.into_iter().collect::<Vec<_>>() }))
}

async fn handle_titles(state: web::Data<Mutex<State>>, search: web::Query<Search>) -> HttpResponse {
    let state = state.lock().expect("no panic");
    if state.is_forbidden {
        return HttpResponse::Forbidden().finish();
    }
    let is_named = |loan: &Uuid| search.query.contains(&format!("\"{loan}\""));
    let loans = state.titles.iter().filter(|(loan, _)| is_named(loan)).map(|(loan, title)| {
        json!({ "id": loan, "item": { "title": title, "barcode": "1000", "status": {} } })
    });
    HttpResponse::Ok().json(json!({ "loans": loans.collect::<Vec<_>>() }))
}
