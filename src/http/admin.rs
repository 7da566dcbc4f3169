//! `/admin`: liveness and readiness (http contract 11).

use std::time::Duration;

use actix_web::{
    HttpResponse,
    web::{Data, Json},
};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{Service, described};
use crate::{
    figures::figures,
    store::{self, Db, tenants::Knowledge},
    telemetry::Chain,
};

/// How long the database may take to show that it is there.
/// Tenants that a problem names, at most.
const BEHIND_NAMED: usize = 20;

const PATIENCE: Duration = Duration::from_secs(2);

/// `GET /admin/health`: this process answers; nothing else is looked at.
#[utoipa::path(
    get,
    path = "/admin/health",
    operation_id = "getHealth",
    summary = "Whether this process answers",
    responses(
        (
            status = 200,
            body = String,
            content_type = "application/json",
            description = "Always the JSON string OK",
        ),
    ),
)]
pub(super) async fn health() -> Json<&'static str> {
    Json("OK")
}

/// `GET /admin/openapi.json`
#[utoipa::path(
    get,
    path = "/admin/openapi.json",
    operation_id = "getDescription",
    summary = "This description",
    responses(
        (status = 200, body = Object, description = "OpenAPI 3.1"),
    ),
)]
pub(super) async fn description() -> Json<serde_json::Value> {
    Json(super::description())
}

/// `GET /metrics`, for Prometheus.
#[utoipa::path(
    get, path = "/metrics", operation_id = "getMetrics", summary = "Figures for Prometheus",
    responses(
        (status = 200, body = String, content_type = "text/plain", description = "Figures"),
    ),
)]
pub(super) async fn metrics(service: Data<Service>) -> HttpResponse {
    let _ = timeout(PATIENCE, service.gauges.set(&service.operators.db())).await;
    HttpResponse::Ok()
        .content_type("text/plain; version=0.0.4; charset=utf-8")
        .body(figures().text())
}

/// `GET /admin/ready`: 200, or 503 with each reason. Kafka is looked at although answers need no
/// broker: an operator wants to know, and a proxy may be told to look at `/admin/health`.
#[utoipa::path(
    get,
    path = "/admin/ready",
    operation_id = "getReadiness",
    summary = "Whether it is ready, and why not",
    responses(
        (status = 200, body = described::Readiness, description = "Ready"),
        (status = 503, body = described::Readiness, description = "Not ready"),
    ),
)]
pub(super) async fn ready(service: Data<Service>, db: Data<Db>) -> HttpResponse {
    let mut problems = Vec::new();
    if service.stopping.is_cancelled() {
        problems.push(json!({ "part": "service", "problem": "stopping" }));
    }
    let database = match timeout(PATIENCE, store::ping(&db)).await {
        Ok(Ok(())) => None,
        Ok(Err(error)) => Some(Chain(&error).to_string()),
        Err(_) => Some("does not answer".to_owned()),
    };
    problems.extend(database.map(|problem| json!({ "part": "database", "problem": problem })));
    let kafka = service.kafka.health();
    problems.extend(kafka.problem().map(|problem| json!({ "part": "kafka", "problem": problem })));
    problems.extend(behind(&service));
    // Messages that are late are no reason either: the desk is answered, and no message is lost.
    let behind = service.telling.behind();
    let body = json!({
        "ready": problems.is_empty(),
        "problems": problems,
        "tenants": lacking(&service),
        "messages": {
            "on": service.telling.is_on(),
            "waiting": behind.unsent,
            "oldestSeconds": behind.oldest.as_secs(),
            "late": service.telling.is_late(),
            "patronsToLookAt": behind.to_look_at,
        },
        "kafka": {
            "brokersUp": kafka.brokers_up,
            "joined": kafka.joined,
            "partitions": {
                "beginning": kafka.partitions.beginning,
                "reading": kafka.partitions.reading,
                "held": kafka.partitions.held,
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

/// Why tenants can't be served that are enabled: their schemas are not at this version.
fn behind(service: &Service) -> Option<Value> {
    if !service.tenants.is_caught_up() {
        let problem = "the registry of tenants is being read";
        return Some(json!({ "part": "tenants", "problem": problem }));
    }
    let behind = service.tenants.behind();
    if behind.is_empty() {
        return None;
    }
    let named = behind.iter().take(BEHIND_NAMED).map(|(id, failure)| match failure {
        Some(failure) => format!("{id}: {failure}"),
        None => format!("{id} is pending"),
    });
    let problem = format!(
        "tenants are not migrated to this version yet: {} ({})",
        behind.len(),
        named.collect::<Vec<_>>().join("; ")
    );
    Some(json!({ "part": "tenants", "problem": problem }))
}

/// Tenants of which not all is known that has happened. They are answered all the same, so that is no reason
/// not to be ready.
fn lacking(service: &Service) -> Value {
    let (mut filling, mut incomplete) = (Vec::new(), Vec::new());
    for tenant in service.tenants.all() {
        match tenant.knowledge() {
            Knowledge::Complete => {}
            Knowledge::Filling => filling.push(tenant.id.to_string()),
            Knowledge::IncompleteBefore(_) => incomplete.push(tenant.id.to_string()),
        }
    }
    filling.sort();
    incomplete.sort();
    json!({ "filling": filling, "incomplete": incomplete })
}
