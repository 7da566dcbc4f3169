//! The HTTP interfaces of the module descriptor, one file per resource.

/// Converts a value of another layer to a body with the same members.
macro_rules! copy_members {
    ($source:ty => $body:ty { $($member:ident),+ }) => {
        impl From<$source> for $body {
            fn from(source: $source) -> Self {
                Self { $($member: source.$member.into()),+ }
            }
        }
    };
}

mod api;
mod deadline;
mod error;
mod extract;
mod openapi;
mod operations;
mod other_gateways;

use std::sync::Arc;

use actix_web::{HttpResponse, middleware::NormalizePath, web};

pub(crate) use self::operations::{ingest::Incident, rebuild_bodies};
use self::{
    api::{
        automated_blocks, conditions, events, limits, synchronization, tenant_jobs, user_summary,
    },
    extract::load_limit::LoadLimit,
    operations::{admin, dead_letters, exports, ingest, rebuilds},
};
pub use self::{
    deadline::with_timeout,
    error::ApiError,
    extract::{
        body::BodyBudget,
        load_limit::{Operators, connections_max},
    },
    openapi::document::openapi_json,
    other_gateways::{OtherGateways, register_metrics},
};
use crate::{
    clock::Clock,
    config::{DatabaseFailureMode, Gateway},
    event::{Collection, Environment, Kind},
    kafka::{BrokerClient, ConsumerStatus},
    services::{
        block_events::BlockEvents,
        evaluation::Evaluator,
        gauges::Gauges,
        ingest::{dead_letters::DeadLetterService, http_events::HttpEvents},
        rebuild::Rebuilds,
        summary_export::SummaryExports,
        tenant_lifecycle::jobs::TenantJobs,
        tenants::TenantRegistry,
    },
    store::Db,
};

/// Maximum length of a request body in bytes; clients send far less.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The state that all HTTP threads share.
pub struct AppState {
    /// Registry of the enabled tenants.
    pub tenants: Arc<TenantRegistry>,
    /// Connections and load limit of all requests except evaluations.
    pub operators: Operators,
    /// Memory budget for bodies.
    pub body_budget: BodyBudget,
    /// Metrics that are computed on request.
    pub gauges: Gauges,
    /// Evaluates patrons.
    pub evaluator: Arc<Evaluator>,
    /// Stores events that arrive over HTTP.
    pub http_events: HttpEvents,
    /// Source of the current time.
    pub clock: Clock,
    /// Status of the Kafka consumer.
    pub kafka: Arc<ConsumerStatus>,
    /// Client for requests to the brokers.
    pub broker: Arc<BrokerClient>,
    /// The environment, which determines the names of topics.
    pub environment: Environment,
    /// Retries and discards dead letters.
    pub redrive: Arc<DeadLetterService>,
    /// Runs the jobs that enable tenants.
    pub tenant_jobs: Arc<TenantJobs>,
    /// Requests and runs rebuilds.
    pub rebuilds: Arc<Rebuilds>,
    /// Publishes block events.
    pub block_events: Arc<BlockEvents>,
    /// Publishes summaries.
    pub summary_exports: Arc<SummaryExports>,
    /// The tenant collection for published topics, if configured.
    pub collection: Option<Collection>,
    /// Gateway for calls to other modules.
    pub gateway: Gateway,
    /// Gateways that requests name and the service ignores.
    pub other_gateways: OtherGateways,
    /// The response to an evaluation if the database fails.
    pub on_database_failure: DatabaseFailureMode,
    /// Cancelled when the service stops; a stopping service is not ready.
    pub stopping: tokio_util::sync::CancellationToken,
}

/// Adds all routes. `db` is the pool of the current thread, for evaluations only.
pub fn routes(service: &Arc<AppState>, db: Db, app: &mut web::ServiceConfig) {
    let connections = db.options().get_max_connections();
    app.app_data(web::Data::from(service.clone()))
        .app_data(LoadLimit::new(connections))
        .app_data(web::Data::new(db))
        .service(
            web::resource("/automated-patron-blocks/{userId}")
                .route(web::get().to(automated_blocks::get)),
        )
        .configure(event_routes)
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
        .service(web::resource("/user-summary/{userId}").route(web::get().to(user_summary::get)))
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
        .service(web::resource("/patron-blocks/ingest").route(web::get().to(ingest::ingest)))
        .service(
            web::resource("/patron-blocks/incidents/{id}/resolve")
                .route(web::post().to(ingest::resolve)),
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
        .service(web::resource("/").route(web::get().to(admin::start_page)))
        .service(web::resource("/admin/health").route(web::get().to(admin::health)))
        .service(web::resource("/metrics").route(web::get().to(admin::metrics)))
        .service(
            web::resource("/admin/openapi.json")
                .route(web::get().to(openapi::document::description)),
        )
        .service(web::resource("/admin/ready").route(web::get().to(admin::ready)))
        .default_service(web::to(not_found));
}

fn event_routes(app: &mut web::ServiceConfig) {
    for kind in Kind::BUSINESS {
        let post = move |request, body| events::post(kind, request, body);
        app.service(web::resource(kind.http_path()).route(web::post().to(post)));
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
            .route(web::get().to(exports::list))
            .route(web::post().to(exports::post)),
    )
    .service(
        web::resource("/patron-blocks/user-summaries/iteration/{jobId}")
            .route(web::get().to(exports::get))
            .route(web::delete().to(exports::delete)),
    );
}

/// Removes a trailing slash from each path (docs/contract/http-api.md#12-bodies).
pub fn normalize() -> NormalizePath {
    NormalizePath::trim()
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound().content_type("text/plain").body("Not found")
}
