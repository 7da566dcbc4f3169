//! Readiness, as the description of all interfaces needs it.

use utoipa::ToSchema;

#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::http) struct Readiness {
    ready: bool,
    problems: Vec<Problem>,
    kafka: Kafka,
    tenants: Lacking,
    messages: Messages,
}

/// How far others are behind who are told of blocks; no reason not to be ready.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Messages {
    /// Whether they are told at all.
    on: bool,
    /// Messages that wait to be sent, counted up to 100,000 a tenant.
    waiting: i64,
    /// For how long the first of them has.
    oldest_seconds: u64,
    /// Whether that is longer than it should be.
    late: bool,
    /// Notes of patrons whose blocks may have changed, counted up to 10,000 a tenant.
    patrons_to_look_at: i64,
}

/// Tenants of which not all is known that has happened; no reason not to be ready.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Lacking {
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
    partitions: Partitions,
}

/// How many partitions are how far.
#[derive(ToSchema)]
#[serde(deny_unknown_fields)]
struct Partitions {
    beginning: u64,
    reading: u64,
    held: u64,
    stopped: u64,
}
