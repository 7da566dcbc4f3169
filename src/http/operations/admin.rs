//! `/admin`: liveness and readiness (docs/contract/http-api.md#11-admin).

use std::time::Duration;

use actix_web::{
    HttpResponse,
    web::{Data, Json},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    http::{AppState, openapi},
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
        (status = 200, body = openapi::Readiness, description = "Ready"),
        (status = 503, body = openapi::Readiness, description = "Not ready"),
    ),
)]
pub(in crate::http) async fn ready(service: Data<AppState>, db: Data<Db>) -> HttpResponse {
    let mut problems = Vec::new();
    if service.stopping.is_cancelled() {
        problems.push(json!({ "part": "service", "problem": "stopping" }));
    }
    let database = match timeout(PROBE_TIMEOUT, store::ping(&db)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(ErrorChain(&error).to_string()),
        Err(_) => Some("the database does not respond".to_owned()),
    };
    problems.extend(database.map(|problem| json!({ "part": "database", "problem": problem })));
    let kafka = service.kafka.health();
    problems.extend(kafka.problem().map(|problem| json!({ "part": "kafka", "problem": problem })));
    problems.extend(migration_problem(&service));
    // Overdue messages leave the service ready: evaluations continue, and no message is lost.
    let backlog = service.block_events.backlog();
    let body = json!({
        "ready": problems.is_empty(),
        "problems": problems,
        "tenants": incomplete_tenants(&service),
        "messages": {
            "enabled": service.block_events.is_enabled(),
            "waiting": backlog.unsent_messages,
            "oldestSeconds": backlog.oldest_unsent_age.as_secs(),
            "overdue": service.block_events.is_overdue(),
            "pendingPatrons": backlog.pending_patrons,
        },
        "kafka": {
            "brokersUp": kafka.brokers_up,
            "joined": kafka.joined,
            "partitions": {
                "starting": kafka.partitions.starting,
                "reading": kafka.partitions.reading,
                "paused": kafka.partitions.paused,
                "stopped": kafka.partitions.stopped,
            },
        },
    });
    if problems.is_empty() {
        HttpResponse::Ok().json(body)
    } else {
        HttpResponse::ServiceUnavailable().json(body)
    }
}

/// Returns the problem of enabled tenants with a schema of another version, if there are any.
fn migration_problem(service: &AppState) -> Option<Value> {
    if !service.tenants.is_caught_up() {
        let problem = "the service is reading the registry of tenants";
        return Some(json!({ "part": "tenants", "problem": problem }));
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
    Some(json!({ "part": "tenants", "problem": problem }))
}

/// Returns the tenants with an incomplete history. The service evaluates their patrons too, so readiness is
/// unaffected.
fn incomplete_tenants(service: &AppState) -> Value {
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
    json!({ "filling": filling, "incomplete": incomplete })
}
