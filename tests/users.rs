//! A users module that a story commands, and beside it storage modules.

use std::{
    collections::HashMap,
    net::TcpListener,
    sync::{Arc, Mutex},
};

use actix_web::{App, HttpResponse, HttpServer, dev::ServerHandle, web};
use serde_json::json;
use uuid::Uuid;

use crate::shelf::Shelf;

/// How it answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Mood {
    #[default]
    Right,
    /// Status 500.
    Broken,
    /// Takes the request and never answers.
    Silent,
    /// The right answer, and two megabytes of spaces after it.
    Verbose,
}

#[derive(Default)]
struct State {
    groups: HashMap<Uuid, Option<Uuid>>,
    mood: Mood,
    asked: usize,
}

pub(crate) struct Users {
    /// Storage modules at the same address.
    pub(crate) shelf: Shelf,
    state: Arc<Mutex<State>>,
    port: u16,
    server: ServerHandle,
}

impl Users {
    pub(crate) fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (shared, shelf) = (state.clone(), Shelf::default());
        let kept = shelf.clone();
        let app = move || {
            let (shared, kept) = (web::Data::from(shared.clone()), kept.clone());
            let app = App::new().app_data(shared).route("/users/{id}", web::get().to(answer));
            app.configure(move |app| kept.routes(app))
        };
        let server = HttpServer::new(app)
            .workers(1)
            .disable_signals()
            .shutdown_timeout(0)
            .listen(listener)
            .expect("it listens")
            .run();
        let handle = server.handle();
        tokio::spawn(server);
        Self { shelf, state, port, server: handle }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A new patron of this group.
    pub(crate) fn patron(&self, group: impl Into<Option<Uuid>>) -> Uuid {
        let user = Uuid::new_v4();
        self.set_group(user, group);
        user
    }

    pub(crate) fn set_group(&self, user: Uuid, group: impl Into<Option<Uuid>>) {
        self.state.lock().expect("no panic").groups.insert(user, group.into());
    }

    pub(crate) fn forget(&self, user: Uuid) {
        self.state.lock().expect("no panic").groups.remove(&user);
    }

    pub(crate) fn set_mood(&self, mood: Mood) {
        self.state.lock().expect("no panic").mood = mood;
    }

    /// How often it was asked.
    pub(crate) fn asked(&self) -> usize {
        self.state.lock().expect("no panic").asked
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        drop(self.server.stop(false));
    }
}

async fn answer(state: web::Data<Mutex<State>>, user: web::Path<Uuid>) -> HttpResponse {
    let (mood, group) = {
        let mut state = state.lock().expect("no panic");
        state.asked += 1;
        (state.mood, state.groups.get(&user).copied())
    };
    match (mood, group) {
        (Mood::Silent, _) => std::future::pending().await,
        (Mood::Broken, _) => HttpResponse::InternalServerError().finish(),
        (Mood::Verbose, _) => {
            let user = json!({ "id": *user, "patronGroup": group.flatten() }).to_string();
            HttpResponse::Ok().body(user + &" ".repeat(2 << 20))
        }
        (Mood::Right, None) => HttpResponse::NotFound().body("User not found"),
        (Mood::Right, Some(None)) => HttpResponse::Ok().json(json!({ "id": *user })),
        (Mood::Right, Some(Some(group))) => {
            HttpResponse::Ok().json(json!({ "id": *user, "active": true, "patronGroup": group }))
        }
    }
}
