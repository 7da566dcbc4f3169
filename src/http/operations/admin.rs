//! `/admin`: liveness and readiness (docs/contract/http-api.md#11-admin).

use std::time::Duration;

use actix_web::{
    HttpResponse,
    web::{Data, Json},
};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use crate::{
    http::AppState,
    kafka::assignment,
    logging::ErrorChain,
    store::{self, Db, tenants::Completeness},
};

/// Maximum number of tenants that a problem names.
const NAMED_TENANTS_MAX: usize = 20;

/// Maximum wait for the database in a readiness check.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// The start page, without the version.
const START_PAGE: &str = include_str!("start_page.html");

/// Returns a page of links for people who open the service's port in a browser. The page needs no script.
#[utoipa::path(
    get,
    path = "/",
    operation_id = "getStartPage",
    summary = "Get a page of links",
    responses(
        (status = 200, body = String, content_type = "text/html", description = "Links to the other pages"),
    ),
)]
pub(in crate::http) async fn start_page() -> HttpResponse {
    HttpResponse::Ok()
        .content_type("text/html; charset=utf-8")
        .insert_header(("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'"))
        .body(START_PAGE.replace("{version}", env!("CARGO_PKG_VERSION")))
}

/// Returns `OK` if this process answers HTTP requests. The check uses neither the database nor Kafka.
#[utoipa::path(
    get,
    path = "/admin/health",
    operation_id = "getHealth",
    summary = "Check that the process responds",
    responses(
        (
            status = 200,
            body = String,
            content_type = "application/json",
            description = "Always the JSON string OK",
        ),
    ),
)]
pub(in crate::http) async fn health() -> Json<&'static str> {
    Json("OK")
}

/// Returns all metrics in the text format of Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", summary = "Get metrics for Prometheus",
    responses(
        (status = 200, body = String, content_type = "text/plain", description = "Metrics"),
    ),
)]
pub(in crate::http) async fn metrics(service: Data<AppState>) -> HttpResponse {
    let _ = timeout(PROBE_TIMEOUT, service.gauges.update(&service.operators.db())).await;
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(crate::metrics::recorder().render())
}

/// Returns 200 if the service is ready, and 503 with every problem otherwise. A problem with Kafka counts
/// too, although evaluations need no broker. A proxy may use `/admin/health` instead.
#[utoipa::path(
    get,
    path = "/admin/ready",
    operation_id = "getReadiness",
    summary = "Get the readiness of the service and the failed checks",
    responses(
        (status = 200, body = Readiness, description = "Ready"),
        (status = 503, body = Readiness, description = "Not ready"),
    ),
)]
pub(in crate::http) async fn ready(service: Data<AppState>, db: Data<Db>) -> HttpResponse {
    let mut problems = Vec::new();
    if service.stopping.is_cancelled() {
        problems.push(Problem::new("service", "stopping"));
    }
    let database = match timeout(PROBE_TIMEOUT, store::ping(&db)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(ErrorChain(&error).to_string()),
        Err(_) => Some("the database does not respond".to_owned()),
    };
    problems.extend(database.map(|problem| Problem::new("database", problem)));
    let kafka = service.kafka.health();
    problems.extend(kafka.problem().map(|problem| Problem::new("kafka", problem)));
    problems.extend(migration_problem(&service));
    // Overdue messages leave the service ready: evaluations continue, and no message is lost.
    let backlog = service.block_events.backlog();
    let body = Readiness {
        ready: problems.is_empty(),
        problems,
        kafka: Kafka {
            brokers_up: kafka.brokers_up,
            joined: kafka.joined,
            partitions: kafka.partitions.into(),
        },
        tenants: incomplete_tenants(&service),
        messages: Messages {
            enabled: service.block_events.is_enabled(),
            waiting: backlog.unsent_messages,
            oldest_seconds: backlog.oldest_unsent_age.as_secs(),
            overdue: service.block_events.is_overdue(),
            pending_patrons: backlog.pending_patrons,
        },
    };
    if body.ready {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Readiness {
    ready: bool,
    problems: Vec<Problem>,
    kafka: Kafka,
    tenants: IncompleteTenants,
    messages: Messages,
}

/// Backlog of block events; a backlog leaves the service ready.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Messages {
    /// Whether block events are published.
    enabled: bool,
    /// Unsent messages, counted up to 100,000 per tenant.
    waiting: i64,
    /// Age of the oldest unsent message, in seconds.
    oldest_seconds: u64,
    /// Whether the age of the oldest unsent message has reached the configured limit.
    overdue: bool,
    /// Requests for the evaluation of a patron, counted up to 10,000 per tenant.
    pending_patrons: i64,
}

/// Tenants with an incomplete history; they leave the service ready.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct IncompleteTenants {
    filling: Vec<String>,
    incomplete: Vec<String>,
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Problem {
    part: &'static str,
    problem: String,
}

impl Problem {
    fn new(part: &'static str, problem: impl Into<String>) -> Self {
        Self { part, problem: problem.into() }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kafka {
    #[schema(value_type = u64)]
    brokers_up: usize,
    joined: bool,
    partitions: PartitionCounts,
}

/// Number of partitions per stage.
#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct PartitionCounts {
    #[schema(value_type = u64)]
    starting: usize,
    #[schema(value_type = u64)]
    reading: usize,
    #[schema(value_type = u64)]
    paused: usize,
    #[schema(value_type = u64)]
    stopped: usize,
}

copy_members! { assignment::PartitionCounts => PartitionCounts { starting, reading, paused, stopped } }

/// Returns the problem of enabled tenants with a schema of another version, if there are any.
fn migration_problem(service: &AppState) -> Option<Problem> {
    if !service.tenants.is_caught_up() {
        return Some(Problem::new("tenants", "the service is reading the registry of tenants"));
    }
    let unmigrated = service.tenants.outdated();
    if unmigrated.is_empty() {
        return None;
    }
    let named = unmigrated.iter().take(NAMED_TENANTS_MAX).map(|(id, failure)| match failure {
        Some(failure) => format!("{id}: {failure}"),
        None => format!("{id} is pending"),
    });
    let problem = format!(
        "tenants with a pending or failed migration to this version: {} ({})",
        unmigrated.len(),
        named.collect::<Vec<_>>().join("; ")
    );
    Some(Problem::new("tenants", problem))
}

/// Returns the tenants with an incomplete history. The service evaluates their patrons too, so readiness is
/// unaffected.
fn incomplete_tenants(service: &AppState) -> IncompleteTenants {
    let (mut filling, mut incomplete) = (Vec::new(), Vec::new());
    for tenant in service.tenants.all() {
        match tenant.completeness() {
            Completeness::Complete => {}
            Completeness::Filling => filling.push(tenant.id.to_string()),
            Completeness::IncompleteBefore(_) => incomplete.push(tenant.id.to_string()),
        }
    }
    filling.sort();
    incomplete.sort();
    IncompleteTenants { filling, incomplete }
}
