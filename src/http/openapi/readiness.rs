//! Readiness, as the description of all interfaces needs it.

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

/// How far others are behind who are told of blocks; no reason not to be ready.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Messages {
    /// Whether they are told at all.
    enabled: bool,
    /// Messages that wait to be sent, counted up to 100,000 a tenant.
    waiting: i64,
    /// For how long the first of them has.
    oldest_seconds: u64,
    /// Whether that is longer than it should be.
    overdue: bool,
    /// Notes of patrons whose blocks may have changed, counted up to 10,000 a tenant.
    pending_patrons: i64,
}

/// Tenants of which not all is known that has happened; no reason not to be ready.
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

/// How many partitions are how far.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct PartitionCounts {
    starting: u64,
    reading: u64,
    paused: u64,
    stopped: u64,
}
