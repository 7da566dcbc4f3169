//! Bodies of iterations, as the description of all interfaces needs them.

use chrono::{DateTime, Utc};
use utoipa::ToSchema;
use uuid::Uuid;

/// What is to be published where.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct IterationRequest {
    /// A topic that there is: its full name, which begins with the environment and the tenant, or what follows
    /// them.
    topic_name: String,
    /// The type of its events; `ITERATE` where it isn't said.
    #[schema(nullable = false)]
    event_type: Option<String>,
    /// Only patrons of this group.
    #[schema(nullable = false)]
    patron_group_id: Option<Uuid>,
    /// Only patrons of whom something has changed since, those who have nothing open any more among them.
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
    /// The staff user, or who else asked.
    requested_by: String,
    submitted_date: DateTime<Utc>,
    #[schema(nullable = false)]
    started_date: Option<DateTime<Utc>>,
    #[schema(nullable = false)]
    ended_date: Option<DateTime<Utc>>,
    /// Summaries that the broker has acknowledged.
    number_of_records_published: i64,
    /// How many there are, once that is known.
    #[schema(nullable = false)]
    total_records: Option<i64>,
    #[schema(nullable = false)]
    records_per_second: Option<f64>,
    /// Why it failed.
    #[schema(nullable = false)]
    error: Option<String>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobParams {
    /// Full name.
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
