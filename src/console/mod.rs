//! The console: pages for librarians and operators (docs/console.md). The server renders each page; a page is a
//! struct, a template in `templates/`, and a function that fills the struct from the services.
//!
//! The pages have two doors with the same paths below them. Through the gateway, a header names the tenant. On
//! the console port of the host, the path names the tenant.

mod assets;
mod desk;
mod home;
mod ingest;
mod parked;
mod response;
mod search;
mod shell;
mod tenants;
mod visit;
mod words;

use std::sync::Arc;

use actix_web::{
    HttpResponse, guard,
    web::{self, Data},
};

use tokio::sync::Semaphore;

use crate::{http::AppState, store::Db};

/// The path of the console behind the gateway.
pub const GATEWAY_ROOT: &str = "/patron-blocks/console";

/// The path of the console of one tenant on the console port. Like [`GATEWAY_ROOT`], it has two segments.
const LOOPBACK_ROOT: &str = "/tenants/{tenant}";

/// What the pages need.
pub struct Console {
    /// The services.
    pub state: Arc<AppState>,
    /// The pool of the console, so that no page waits for other requests, and no other request for a page.
    pub db: Db,
    /// Limits the pages that load at once.
    load_limit: Arc<Semaphore>,
}

/// Largest number of pages that load at once. They share one connection.
const PAGES_MAX: usize = 16;

impl Console {
    /// Creates the console with its pool.
    pub fn new(state: Arc<AppState>, db: Db) -> Self {
        Self { state, db, load_limit: Arc::new(Semaphore::new(PAGES_MAX)) }
    }
}

/// Adds the pages behind the gateway. Each page needs a permission, which the gateway checks.
pub fn gateway_routes(console: &Arc<Console>, app: &mut web::ServiceConfig) {
    app.service(
        web::scope(GATEWAY_ROOT)
            .app_data(Data::from(console.clone()))
            .configure(page_routes)
            .wrap(response::headers()),
    );
}

/// Adds the pages of all tenants, for the console port. The port accepts connections of this host only.
pub fn loopback_routes(console: &Arc<Console>, app: &mut web::ServiceConfig) {
    // Another name may be that of a web site whose address was changed to this host.
    let is_local = || guard::Any(guard::Host("127.0.0.1")).or(guard::Host("localhost"));
    app.service(
        web::scope(LOOPBACK_ROOT)
            .guard(is_local())
            .app_data(Data::from(console.clone()))
            .configure(page_routes)
            .wrap(response::headers()),
    )
    .service(
        web::scope("")
            .guard(is_local())
            .app_data(Data::from(console.clone()))
            .route("/", web::get().to(tenants::page))
            .route("/assets/{name}", web::get().to(assets::get))
            .default_service(web::to(HttpResponse::NotFound))
            .wrap(response::headers()),
    );
}

fn page_routes(app: &mut web::ServiceConfig) {
    app.route("", web::get().to(home::redirect))
        .route("/home", web::get().to(home::page))
        .route("/search", web::get().to(search::redirect))
        .route("/desk/{userId}", web::get().to(desk::page))
        .route("/ingest", web::get().to(ingest::page))
        .route("/parked", web::get().to(parked::list))
        .route("/parked/{id}", web::get().to(parked::page))
        .route("/assets/{name}", web::get().to(assets::get))
        .route("/{root}/home", web::get().to(home::redirect_up))
        .default_service(web::to(response::not_found));
}
