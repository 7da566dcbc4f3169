//! Bodies of iterations for the OpenAPI document.

use chrono::{DateTime, Utc};
use utoipa::ToSchema;
use uuid::Uuid;

/// Topic, event type and selected patrons of an iteration.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct IterationRequest {
    /// Name of an existing topic: the full name, which starts with environment and tenant, or the part after
    /// them.
    #[schema(pattern = "^[A-Za-z0-9_-][A-Za-z0-9._-]{0,248}$")]
    topic_name: String,
    /// Type of the published events; `ITERATE` by default.
    #[schema(pattern = "^[A-Za-z0-9._-]{1,100}$")]
    event_type: Option<String>,
    /// Only patrons of this group.
    #[schema(nullable = false)]
    patron_group_id: Option<Uuid>,
    /// Only patrons with a change since this time, including patrons who no longer have open items.
    #[schema(nullable = false)]
    changed_since: Option<DateTime<Utc>>,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum IterationStatus {
    Waiting,
    Publishing,
    Done,
    Failed,
    Cancelled,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct Iteration {
    id: Uuid,
    job_params: JobParams,
    status: IterationStatus,
    /// The staff user, or the name of another requester.
    requested_by: String,
    submitted_date: DateTime<Utc>,
    #[schema(nullable = false)]
    started_date: Option<DateTime<Utc>>,
    #[schema(nullable = false)]
    ended_date: Option<DateTime<Utc>>,
    /// Summaries that the broker has acknowledged.
    number_of_records_published: i64,
    /// Number of summaries to publish, once known.
    #[schema(nullable = false)]
    total_records: Option<i64>,
    #[schema(nullable = false)]
    records_per_second: Option<f64>,
    /// The cause of the failure.
    #[schema(nullable = false)]
    error: Option<String>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobParams {
    /// Full name of the topic.
    topic_name: String,
    event_type: String,
    #[schema(nullable = false)]
    patron_group_id: Option<Uuid>,
    #[schema(nullable = false)]
    changed_since: Option<DateTime<Utc>>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct Iterations {
    iterations: Vec<Iteration>,
    total_records: i64,
}
