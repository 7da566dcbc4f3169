//! Bodies of rebuilds, as the description of all interfaces needs them.

use chrono::{DateTime, Utc};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

/// Which part of a list.
#[derive(IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::http) struct ListPaging {
    #[param(minimum = 0, maximum = 2_147_483_647, default = 0)]
    offset: Option<i64>,
    /// More than 1,000 are never given at once.
    #[param(minimum = 0, maximum = 2_147_483_647, default = 10)]
    limit: Option<i64>,
}

/// Which rebuild.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::http) struct RebuildRequest {
    /// What is read; topics where it isn't said.
    #[schema(nullable = false)]
    source: Option<Source>,
    /// `earliest`; a date-time: what was written from then on; or topics, as `topic`, `topic/partition` or
    /// `topic/partition@offset` with commas between: what they hold is merged, as with `fill`.
    #[schema(nullable = false)]
    from: Option<String>,
    /// The whole tenant where it isn't said.
    #[schema(nullable = false)]
    scope: Option<Scope>,
    /// For scope user.
    #[schema(nullable = false)]
    user_id: Option<Uuid>,
    /// Whether it ends with the differences, which may be applied later.
    #[schema(nullable = false)]
    dry_run: Option<bool>,
    /// Where topics don't hold everything any more: what speaks for the rest.
    #[schema(nullable = false)]
    covered_by: Option<CoveredBy>,
    /// Merge what the topics hold, however little that is, and drop nothing that is known.
    #[schema(nullable = false)]
    fill: Option<bool>,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    Topics,
    Inbox,
    /// The storage modules; asked with the token of the request.
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
    /// The differences are known. They wait to be applied: that was to be all, or they would close too much.
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
    /// The staff user, or who else asked.
    requested_by: String,
    requested_at: DateTime<Utc>,
    #[schema(nullable = false)]
    started_at: Option<DateTime<Utc>>,
    #[schema(nullable = false)]
    ended_at: Option<DateTime<Utc>>,
    progress: Progress,
    #[schema(nullable = false)]
    summary: Option<Summary>,
    /// Why it failed, or was not applied.
    #[schema(nullable = false)]
    error: Option<String>,
    /// What was odd on the way: records that were passed over, tokens that were refused.
    problems: Vec<String>,
}

/// Of the stage it is in; nothing before the first.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Progress {
    #[schema(nullable = false)]
    stage: Option<String>,
    #[schema(nullable = false)]
    done: Option<u64>,
    #[schema(nullable = false)]
    total: Option<u64>,
    /// A second.
    #[schema(nullable = false)]
    rate: Option<f64>,
    #[schema(nullable = false)]
    seconds_left: Option<f64>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Summary {
    /// Of whom anything is different.
    patrons: i64,
    /// Of them, those whose counters are not what a recount gives.
    wrong_counters: i64,
    /// Of them, those who were put right.
    applied: i64,
    /// Patrons on whom a block is imposed by it.
    blocks_imposed: i64,
    /// Patrons of whom a block is lifted by it.
    blocks_lifted: i64,
    loans: DifferenceCounts,
    fees_fines: DifferenceCounts,
    /// Patrons whose group the source tells and that was not heard of here.
    patron_groups: i64,
    /// Records of the source that can't be read: what is known of them stays as it is.
    skipped_records: i32,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DifferenceCounts {
    /// Open here, and not in the source.
    only_current: i64,
    /// Open in the source, and not here.
    only_in_source: i64,
    /// Open in both, and not the same.
    different: i64,
    /// Different in nothing that counts now.
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
    /// Open loans here.
    current_loans: Option<i64>,
    /// Open loans once it is applied.
    target_loans: Option<i64>,
    loans: Vec<Difference>,
    fees_fines: Vec<Difference>,
    /// Conditions that block the patron now; null where the patron group is not known.
    blocked_before: Option<Vec<String>>,
    /// Conditions that block the patron once it is applied.
    blocked_after: Option<Vec<String>>,
    applied_at: Option<DateTime<Utc>>,
}

#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Difference {
    id: Uuid,
    kind: DifferenceKind,
    /// Which parts of what is known are not the same.
    registers: Vec<String>,
    /// As it is here; null where nothing is known of it.
    current: Option<Value>,
    /// As it is in the source; null where that knows nothing of it.
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
