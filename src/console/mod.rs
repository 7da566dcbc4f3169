//! The console: pages for librarians and operators (docs/console.md). The server renders each page; a page is a
//! struct, a template in `templates/`, and a function that fills the struct from the services.
//!
//! The pages have three doors with the same paths below them. Through the gateway, a header names the tenant. On
//! the console port, the path names the tenant: for operators of this host, or for persons who sign in.

mod act_words;
mod acts;
mod answers;
mod assets;
mod certainty_words;
mod desk;
mod discarded;
mod fact_words;
mod help;
mod home;
mod ingest;
mod items;
mod limits;
mod log;
mod messages;
mod parked;
mod parked_bulk;
mod patron;
mod rebuild_words;
mod rebuilds;
mod response;
pub mod roles;
mod same_origin;
mod search;
mod shell;
mod sign_in;
mod sparkline;
mod tenants;
pub mod texts;
mod timeline;
mod titles;
mod trailing_slash;
mod visit;
mod words;

use std::sync::Arc;

use actix_web::{
    HttpResponse, guard,
    middleware::from_fn,
    web::{self, Data},
};

use tokio::sync::Semaphore;

pub use self::{sign_in::SignIn, trailing_slash::redirect_trailing_slash};
use crate::{
    http::AppState,
    oidc::{CALLBACK_PATH, SIGNED_OUT_PATH},
    store::Db,
};

/// The path of the console behind the gateway.
pub const GATEWAY_ROOT: &str = "/patron-blocks/console";

/// The path of the tenants on the console port.
const LOOPBACK_TENANTS: &str = "/tenants";

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
    /// Permit of the only preview of a retry.
    preview_permit: Arc<Semaphore>,
}

/// Largest number of pages that load at once. They share one connection.
const PAGES_MAX: usize = 16;

impl Console {
    /// Creates the console with its pool.
    pub fn new(state: Arc<AppState>, db: Db) -> Self {
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        Self { state, db, load_limit: semaphore(PAGES_MAX), preview_permit: semaphore(1) }
    }
}

/// Adds the pages behind the gateway. Each page needs a permission, which the gateway checks.
pub fn gateway_routes(console: &Arc<Console>, app: &mut web::ServiceConfig) {
    app.service(
        web::scope(GATEWAY_ROOT)
            .app_data(Data::from(console.clone()))
            .configure(page_routes)
            .wrap(from_fn(same_origin::require_same_origin))
            .wrap(response::headers(None)),
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
            .wrap(from_fn(same_origin::require_same_origin))
            .wrap(response::headers(None)),
    )
    .service(
        web::scope("")
            .guard(is_local())
            .app_data(Data::from(console.clone()))
            .route("/", web::get().to(tenants::page))
            .route("/assets/{name}", web::get().to(assets::get))
            .default_service(web::to(HttpResponse::NotFound))
            .wrap(response::headers(None)),
    );
}

/// Adds the pages of all tenants for persons who sign in. Only the files of pages and the sign-in itself need no session.
pub fn sign_in_routes(console: &Arc<Console>, sign_in: &Arc<SignIn>, app: &mut web::ServiceConfig) {
    let is_own_host = {
        let sign_in = sign_in.clone();
        guard::fn_guard(move |request| sign_in.is_own_host(request))
    };
    let same_origin = || from_fn(same_origin::require_same_origin);
    let files = || web::get().to(assets::get);
    app.service(
        web::scope("")
            .guard(is_own_host)
            .app_data(Data::from(console.clone()))
            .app_data(Data::from(sign_in.clone()))
            .route("/assets/{name}", files())
            .route(&format!("{LOOPBACK_ROOT}/assets/{{name}}"), files())
            .route(&format!("/{CALLBACK_PATH}"), web::get().to(sign_in::callback))
            .route(&format!("/{SIGNED_OUT_PATH}"), web::get().to(sign_in::signed_out))
            .service(
                web::resource("/sign-out")
                    .route(web::post().to(sign_in::sign_out))
                    .wrap(same_origin()),
            )
            .service(
                web::scope(LOOPBACK_ROOT)
                    .configure(page_routes)
                    .wrap(from_fn(sign_in::require_session))
                    .wrap(same_origin()),
            )
            .service(
                web::resource("/")
                    .route(web::get().to(tenants::page))
                    .wrap(from_fn(sign_in::require_session)),
            )
            .default_service(web::to(HttpResponse::NotFound))
            .wrap(response::headers(sign_in.provider_origin().as_deref())),
    );
}

fn page_routes(app: &mut web::ServiceConfig) {
    app.app_data(acts::form_config())
        .route("", web::get().to(home::redirect))
        .route("/home", web::get().to(home::page))
        .route("/search", web::get().to(search::redirect))
        .route("/desk/{userId}", web::get().to(desk::page))
        .route("/patron/{userId}", web::get().to(patron::page))
        .route("/loan/{id}", web::get().to(items::loan))
        .route("/fee-fine/{id}", web::get().to(items::fee_fine))
        .route("/ingest", web::get().to(ingest::page))
        .route("/incidents/{id}/resolve", web::post().to(ingest::resolve))
        .route("/parked", web::get().to(parked::list))
        .route("/parked/preview", web::post().to(parked_bulk::preview))
        .route("/parked/bulk", web::post().to(parked_bulk::step))
        .route("/parked/{id}", web::get().to(parked::page))
        .route("/parked/{id}/retry", web::post().to(parked::retry))
        .route("/parked/{id}/discard", web::post().to(parked::discard))
        .route("/discarded", web::get().to(discarded::page))
        .route("/discarded/restore", web::post().to(discarded::restore_all))
        .route("/discarded/{id}/restore", web::post().to(discarded::restore))
        .route("/rebuilds", web::get().to(rebuilds::list))
        .route("/rebuilds", web::post().to(rebuilds::request))
        .route("/rebuilds/{id}", web::get().to(rebuilds::page))
        .route("/rebuilds/{id}/apply", web::post().to(rebuilds::apply))
        .route("/rebuilds/{id}/cancel", web::post().to(rebuilds::cancel))
        .route("/limits", web::get().to(limits::page))
        .route("/limits", web::post().to(limits::change))
        .route("/messages", web::get().to(messages::page))
        .route("/exports", web::post().to(messages::request))
        .route("/exports/{id}/cancel", web::post().to(messages::cancel))
        .route("/log", web::get().to(log::page))
        .route("/help", web::get().to(help::page))
        .route("/assets/{name}", web::get().to(assets::get))
        .default_service(web::to(response::not_found));
}
