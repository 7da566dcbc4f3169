//! Body of the readiness check for the OpenAPI document.

use utoipa::ToSchema;

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Readiness {
    ready: bool,
    problems: Vec<Problem>,
    kafka: Kafka,
    tenants: IncompleteTenants,
    messages: Messages,
}

/// Backlog of block events; a backlog leaves the service ready.
#[derive(ToSchema)]
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
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct IncompleteTenants {
    filling: Vec<String>,
    incomplete: Vec<String>,
}

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Problem {
    part: String,
    problem: String,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Kafka {
    brokers_up: u64,
    joined: bool,
    partitions: PartitionCounts,
}

/// Number of partitions per stage.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct PartitionCounts {
    starting: u64,
    reading: u64,
    paused: u64,
    stopped: u64,
}
