//! Bodies of rebuilds for the OpenAPI document.

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// The requested part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct ListPaging {
    #[param(minimum = 0, maximum = 2_147_483_647, default = 0)]
    offset: Option<i64>,
    /// Maximum number of records; a page has at most 1,000 records.
    #[param(minimum = 0, maximum = 2_147_483_647, default = 10)]
    limit: Option<i64>,
}

/// Source, scope and mode of a rebuild.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct RebuildRequest {
    /// The source to read; `topics` by default.
    source: Option<Source>,
    /// Start of the read: `earliest`, or a date-time for records that were written from then on. Topics, as
    /// `topic`, `topic/partition` or `topic/partition@offset` separated by commas, are merged as with `fill`.
    #[schema(
        pattern = "^(earliest|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})|[A-Za-z0-9_-]+[.][A-Za-z0-9._-]+(/[0-9]{1,9}(@[0-9]{1,18})?)?(,[A-Za-z0-9_-]+[.][A-Za-z0-9._-]+(/[0-9]{1,9}(@[0-9]{1,18})?)?)*)$"
    )]
    from: Option<String>,
    /// `tenant` by default.
    scope: Option<Scope>,
    /// Required for scope `user`.
    user_id: Option<Uuid>,
    /// If true, the rebuild ends with the differences, which may be applied later.
    #[schema(nullable = false)]
    dry_run: Option<bool>,
    /// `inbox` if the inbox covers the records that the topics no longer contain.
    covered_by: Option<CoveredBy>,
    /// If true, the rebuild merges the records of the topics, even if records are missing, and drops no
    /// stored state.
    #[schema(nullable = false)]
    fill: Option<bool>,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    Topics,
    Inbox,
    /// The storage modules, read with the token of the request.
    Storage,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum Scope {
    Tenant,
    User,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum CoveredBy {
    Inbox,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum RebuildStatus {
    Waiting,
    Reading,
    Comparing,
    /// The differences are known and wait to be applied: after a dry run, or because they exceed the limit
    /// for changes without an operator.
    Compared,
    Applying,
    Done,
    Failed,
    Cancelled,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct Rebuild {
    id: Uuid,
    source: Source,
    from: String,
    scope: Scope,
    #[schema(nullable = false)]
    user_id: Option<Uuid>,
    dry_run: bool,
    #[schema(nullable = false)]
    covered_by: Option<CoveredBy>,
    #[schema(nullable = false)]
    fill: Option<bool>,
    status: RebuildStatus,
    /// The staff user, or the name of another requester.
    requested_by: String,
    requested_at: DateTime<Utc>,
    #[schema(nullable = false)]
    started_at: Option<DateTime<Utc>>,
    #[schema(nullable = false)]
    ended_at: Option<DateTime<Utc>>,
    progress: Progress,
    #[schema(nullable = false)]
    summary: Option<Summary>,
    /// The cause of the failure, or the cause for which the differences were not applied.
    #[schema(nullable = false)]
    error: Option<String>,
    /// Problems during the rebuild, such as skipped records and rejected tokens.
    problems: Vec<String>,
}

/// Progress of the current stage; empty before the first stage.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Progress {
    #[schema(nullable = false)]
    stage: Option<String>,
    #[schema(nullable = false)]
    done: Option<u64>,
    #[schema(nullable = false)]
    total: Option<u64>,
    /// Steps per second.
    #[schema(nullable = false)]
    rate: Option<f64>,
    #[schema(nullable = false)]
    seconds_left: Option<f64>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Summary {
    /// Number of patrons with a difference.
    patrons: i64,
    /// Number of these patrons with counters that differ from a recount.
    wrong_counters: i64,
    /// Number of these patrons with applied differences.
    applied: i64,
    /// Number of patrons on whom the rebuild imposes a block.
    blocks_imposed: i64,
    /// Number of patrons from whom the rebuild lifts a block.
    blocks_lifted: i64,
    loans: DifferenceCounts,
    fees_fines: DifferenceCounts,
    /// Number of patrons with a group in the source that the service did not have.
    patron_groups: i64,
    /// Number of unreadable records in the source; the stored state of their loans and fees/fines stays
    /// unchanged.
    skipped_records: i32,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DifferenceCounts {
    /// Open in the stored state only.
    only_current: i64,
    /// Open in the source only.
    only_in_source: i64,
    /// Open in the stored state and in the source, with different values.
    different: i64,
    /// Different without an effect on a count or a block.
    insignificant: i64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct Rebuilds {
    rebuilds: Vec<Rebuild>,
    total_records: i64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct Differences {
    patrons: Vec<DifferingPatron>,
    total_records: i64,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DifferingPatron {
    user_id: Uuid,
    wrong_counters: bool,
    /// Open loans in the stored state.
    current_loans: Option<i64>,
    /// Open loans after the rebuild is applied.
    target_loans: Option<i64>,
    loans: Vec<Difference>,
    fees_fines: Vec<Difference>,
    /// Conditions that block the patron now; null if the patron group is unknown.
    blocked_before: Option<Vec<String>>,
    /// Conditions that block the patron after the rebuild is applied.
    blocked_after: Option<Vec<String>>,
    applied_at: Option<DateTime<Utc>>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Difference {
    id: Uuid,
    kind: DifferenceKind,
    /// Names of the parts that differ.
    registers: Vec<String>,
    /// The stored state; null if there is none.
    current: Option<Value>,
    /// The target state, computed from the source; null if there is none.
    target: Option<Value>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase")]
enum DifferenceKind {
    OnlyCurrent,
    OnlyInSource,
    Different,
    Insignificant,
}
