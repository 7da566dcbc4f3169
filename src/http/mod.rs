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

/// Passes the operations to another macro: the path of each resource, then the methods with their handlers.
/// The table defines the routes and the list of described handlers; `tests/repository/contract.rs` compares the routes
/// with the paths in `#[utoipa::path]`.
macro_rules! operation_table {
    ($then:ident) => {
        $then! {
            "/automated-patron-blocks/{userId}" => get automated_blocks::get;
            "/automated-patron-blocks/synchronization/job" => post synchronization::post;
            "/automated-patron-blocks/synchronization/job/{syncJobId}" => get synchronization::get;
            "/automated-patron-blocks/synchronization/start" => post synchronization::start;
            "/user-summary/{userId}" => get user_summary::get;
            "/patron-block-conditions" => get conditions::list;
            "/patron-block-conditions/{id}" => get conditions::get, put conditions::put;
            "/patron-block-limits" => get limits::list, post limits::post;
            "/patron-block-limits/{id}" => get limits::get, put limits::put, delete limits::delete;
            "/patron-blocks/explanations/{userId}" => get explanations::get;
            "/patron-blocks/certainty" => get certainty::get;
            "/patron-blocks/certainty-policy" => get certainty_policy::get, put certainty_policy::put;
            "/patron-blocks/forecast" => get forecast::get;
            "/patron-blocks/settings-check" => get settings_check::get;
            "/patron-blocks/ingest" => get ingest::ingest;
            "/patron-blocks/incidents/{id}/resolve" => post ingest::resolve;
            "/patron-blocks/dead-letters" => get dead_letters::list, delete dead_letters::discard_all;
            "/patron-blocks/dead-letters/retry" => post dead_letters::retry_all;
            "/patron-blocks/dead-letters/{id}" => get dead_letters::get, delete dead_letters::discard;
            "/patron-blocks/dead-letters/{id}/retry" => post dead_letters::retry;
            "/patron-blocks/rebuilds" => get rebuilds::list, post rebuilds::post;
            "/patron-blocks/rebuilds/{id}" => get rebuilds::get, delete rebuilds::delete;
            "/patron-blocks/rebuilds/{id}/differences" => get rebuilds::differences;
            "/patron-blocks/rebuilds/{id}/apply" => post rebuilds::apply;
            "/patron-blocks/user-summaries/iteration" => get exports::list, post exports::post;
            "/patron-blocks/user-summaries/iteration/{jobId}" => get exports::get, delete exports::delete;
            "/_/tenant" => post tenant_jobs::post;
            "/_/tenant/{id}" => get tenant_jobs::get, delete tenant_jobs::delete;
            "/" => get admin::start_page;
            "/admin/health" => get admin::health;
            "/admin/ready" => get admin::ready;
            "/admin/openapi.json" => get description;
            "/metrics" => get admin::metrics;
        }
    };
}

pub(crate) mod api;
mod deadline;
mod error;
pub(crate) mod extract;
mod insight;
mod openapi;
mod operations;
mod other_gateways;

use std::sync::Arc;

use actix_web::{HttpResponse, middleware::NormalizePath, web};

use self::{
    api::{
        automated_blocks, conditions, events, limits, synchronization, tenant_jobs, user_summary,
    },
    extract::load_limit::LoadLimit,
    insight::{certainty, certainty_policy, explanations, forecast, settings_check},
    openapi::document::description,
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
pub(crate) use self::{
    insight::{explanation_bodies, forecast_bodies, settings_check_bodies},
    operations::{ingest::Incident, rebuild_bodies},
};
use crate::{
    clock::Clock,
    config::{DatabaseFailureMode, Gateway},
    event::{Collection, Environment, Kind},
    kafka::{BrokerClient, ConsumerStatus},
    okapi::ReaderLookups,
    services::{
        block_events::BlockEvents,
        evaluation::Evaluator,
        forecast::Forecasts,
        gauges::Gauges,
        ingest::{dead_letters::DeadLetterService, http_events::HttpEvents},
        rebuild::Rebuilds,
        settings_check::SettingsChecker,
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
    /// Checks the settings of tenants.
    pub settings_checker: SettingsChecker,
    /// Computes forecasts.
    pub forecasts: Forecasts,
    /// Finds titles and barcodes for the readers of pages.
    pub reader_lookups: ReaderLookups,
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
        .configure(operation_routes)
        .configure(event_routes)
        .default_service(web::to(not_found));
}

macro_rules! define_routes {
    ($($path:literal => $($method:ident $($handler:ident)::+),+;)+) => {
        /// Method and path of each operation, without the event handlers.
        pub const OPERATIONS: &[(&str, &str)] = &[$($((stringify!($method), $path)),+),+];

        fn operation_routes(app: &mut web::ServiceConfig) {
            $(app.service(web::resource($path)$(.route(web::$method().to($($handler)::+)))+);)+
        }
    };
}

operation_table!(define_routes);

fn event_routes(app: &mut web::ServiceConfig) {
    for kind in Kind::BUSINESS {
        let post = move |request, body| events::post(kind, request, body);
        app.service(web::resource(kind.http_path()).route(web::post().to(post)));
    }
}

/// Removes a trailing slash from each path (docs/contract/http-api.md#12-bodies).
pub fn normalize() -> NormalizePath {
    NormalizePath::trim()
}

async fn not_found() -> HttpResponse {
    HttpResponse::NotFound().content_type("text/plain").body("Not found")
}
