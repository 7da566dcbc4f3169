//! REST: the interfaces of the module descriptor, one file a resource.

mod admin;
mod blocks;
mod body;
mod collection;
mod conditions;
mod dead_letters;
mod deadline;
mod described;
mod description;
mod error;
mod gate;
mod handlers;
mod iterations;
mod limits;
mod operations;
mod other_gateways;
mod query;
mod rebuilds;
mod record;
mod request;
mod summary;
mod synchronization;
mod tenant_jobs;

use std::sync::Arc;

use actix_web::{HttpResponse, middleware::NormalizePath, web};

pub use body::Room;
pub use deadline::in_time;
pub use description::description;
pub use error::ApiError;
pub use gate::{Operators, connections_most};
pub use other_gateways::OtherGateways;

use gate::Gate;

use crate::{
    clock::Clock,
    config::{Gateway, OnDatabaseFailure},
    event::{Collection, Environment, Kind},
    flow::{
        answer::Answers, callbacks::Callbacks, gauges::Gauges, iteration::Iterations,
        rebuild::Rebuilds, redrive::Redrive, telling::Telling, tenant_jobs::TenantJobs,
        tenants::Tenants,
    },
    kafka::{Broker, Status},
    store::Db,
};

/// Largest request body: all that clients send is far smaller.
const BODY_MOST: usize = 1024 * 1024;

/// What all threads that answer share.
pub struct Service {
    /// Enabled tenants.
    pub tenants: Arc<Tenants>,
    /// Connections and gate of all requests but those of desks.
    pub operators: Operators,
    /// Room for bodies.
    pub room: Room,
    /// Figures that are asked for.
    pub gauges: Gauges,
    /// Answers about patrons.
    pub answers: Arc<Answers>,
    /// Takes events that come over HTTP.
    pub callbacks: Callbacks,
    /// The time.
    pub clock: Clock,
    /// The connection to Kafka.
    pub kafka: Arc<Status>,
    /// Who asks brokers.
    pub broker: Arc<Broker>,
    /// How topics are named.
    pub environment: Environment,
    /// Works on dead letters.
    pub redrive: Arc<Redrive>,
    /// Enables tenants.
    pub tenant_jobs: Arc<TenantJobs>,
    /// Works on rebuilds.
    pub rebuilds: Arc<Rebuilds>,
    /// Tells others.
    pub telling: Arc<Telling>,
    /// Publishes summaries.
    pub iterations: Arc<Iterations>,
    /// The collection whose topics we write to, if any.
    pub collection: Option<Collection>,
    /// Whom calls to other modules go through.
    pub gateway: Gateway,
    /// Those that requests name and nobody asks.
    pub other_gateways: OtherGateways,
    /// What the desk is told when the database fails.
    pub on_database_failure: OnDatabaseFailure,
    /// Whether the service is stopping: then it isn't ready.
    pub stopping: tokio_util::sync::CancellationToken,
}

/// Adds all routes. `db` is the pool of the thread that answers, for desks alone.
pub fn routes(service: &Arc<Service>, db: Db, app: &mut web::ServiceConfig) {
    let connections = db.options().get_max_connections();
    app.app_data(web::Data::from(service.clone()))
        .app_data(Gate::new(connections))
        .app_data(web::Data::new(db))
        .service(
            web::resource("/automated-patron-blocks/{userId}").route(web::get().to(blocks::get)),
        )
        .configure(event_handlers)
        .service(
            web::resource("/automated-patron-blocks/synchronization/job")
                .route(web::post().to(synchronization::post)),
        )
        .service(
            web::resource("/automated-patron-blocks/synchronization/job/{syncJobId}")
                .route(web::get().to(synchronization::get)),
        )
        .service(
            web::resource("/automated-patron-blocks/synchronization/start")
                .route(web::post().to(synchronization::start)),
        )
        .service(web::resource("/user-summary/{userId}").route(web::get().to(summary::get)))
        .service(web::resource("/patron-block-conditions").route(web::get().to(conditions::list)))
        .service(
            web::resource("/patron-block-conditions/{id}")
                .route(web::get().to(conditions::get))
                .route(web::put().to(conditions::put)),
        )
        .service(
            web::resource("/patron-block-limits")
                .route(web::get().to(limits::list))
                .route(web::post().to(limits::post)),
        )
        .service(
            web::resource("/patron-block-limits/{id}")
                .route(web::get().to(limits::get))
                .route(web::put().to(limits::put))
                .route(web::delete().to(limits::delete)),
        )
        .service(web::resource("/patron-blocks/ingest").route(web::get().to(operations::ingest)))
        .service(
            web::resource("/patron-blocks/incidents/{id}/resolve")
                .route(web::post().to(operations::resolve)),
        )
        .service(
            web::resource("/patron-blocks/dead-letters")
                .route(web::get().to(dead_letters::list))
                .route(web::delete().to(dead_letters::discard_all)),
        )
        .service(
            web::resource("/patron-blocks/dead-letters/retry")
                .route(web::post().to(dead_letters::retry_all)),
        )
        .service(
            web::resource("/patron-blocks/dead-letters/{id}")
                .route(web::get().to(dead_letters::get))
                .route(web::delete().to(dead_letters::discard)),
        )
        .service(
            web::resource("/patron-blocks/dead-letters/{id}/retry")
                .route(web::post().to(dead_letters::retry)),
        )
        .configure(job_routes)
        .service(web::resource("/_/tenant").route(web::post().to(tenant_jobs::post)))
        .service(
            web::resource("/_/tenant/{id}")
                .route(web::get().to(tenant_jobs::get))
                .route(web::delete().to(tenant_jobs::delete)),
        )
        .service(web::resource("/admin/health").route(web::get().to(admin::health)))
        .service(web::resource("/metrics").route(web::get().to(admin::metrics)))
        .service(web::resource("/admin/openapi.json").route(web::get().to(admin::description)))
        .service(web::resource("/admin/ready").route(web::get().to(admin::ready)))
        .default_service(web::to(not_found));
}

fn event_handlers(app: &mut web::ServiceConfig) {
    for kind in Kind::BUSINESS {
        let post = move |request, body| handlers::post(kind, request, body);
        app.service(web::resource(kind.callback()).route(web::post().to(post)));
    }
}

fn job_routes(app: &mut web::ServiceConfig) {
    app.service(
        web::resource("/patron-blocks/rebuilds")
            .route(web::get().to(rebuilds::list))
            .route(web::post().to(rebuilds::post)),
    )
    .service(
        web::resource("/patron-blocks/rebuilds/{id}")
            .route(web::get().to(rebuilds::get))
            .route(web::delete().to(rebuilds::delete)),
    )
    .service(
        web::resource("/patron-blocks/rebuilds/{id}/differences")
            .route(web::get().to(rebuilds::differences)),
    )
    .service(
        web::resource("/patron-blocks/rebuilds/{id}/apply").route(web::post().to(rebuilds::apply)),
    )
    .service(
        web::resource("/patron-blocks/user-summaries/iteration")
            .route(web::get().to(iterations::list))
            .route(web::post().to(iterations::post)),
    )
    .service(
        web::resource("/patron-blocks/user-summaries/iteration/{jobId}")
            .route(web::get().to(iterations::get))
            .route(web::delete().to(iterations::delete)),
    );
}

/// A trailing slash is no part of a path (http contract 1.2).
pub fn normalize() -> NormalizePath {
    NormalizePath::trim()
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound().content_type("text/plain").body("Not found")
}
