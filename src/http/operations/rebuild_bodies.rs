//! Bodies about rebuilds. The command line prints the same bodies.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    clock,
    store::{
        self,
        jobs::{Job, Status},
        rebuild::{
            differences::{self, PatronDifferences},
            rebuilds,
        },
    },
};

/// Source, scope and mode of a rebuild.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RebuildRequest {
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

#[derive(Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Source {
    #[default]
    Topics,
    Inbox,
    /// The storage modules, read with the token of the request.
    Storage,
}

#[derive(Default, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Scope {
    #[default]
    Tenant,
    User,
}

#[derive(Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum CoveredBy {
    Inbox,
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "schema of the statuses of a rebuild")]
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

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rebuild {
    id: Uuid,
    source: Source,
    from: String,
    scope: Scope,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    user_id: Option<Uuid>,
    dry_run: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    covered_by: Option<CoveredBy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    fill: Option<bool>,
    #[schema(value_type = RebuildStatus)]
    status: Status,
    /// The staff user, or the name of another requester.
    requested_by: String,
    #[serde(serialize_with = "clock::serialize")]
    requested_at: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    started_at: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    ended_at: Option<DateTime<Utc>>,
    progress: Progress,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    summary: Option<Summary>,
    /// The cause of the failure, or the cause for which the differences were not applied.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
    /// Problems during the rebuild, such as skipped records and rejected tokens.
    problems: Vec<String>,
}

impl Rebuild {
    pub(crate) fn from_job(job: Job) -> Result<Self, store::Error> {
        let progress = rebuilds::Progress::from_job(&job)?;
        let summary = rebuilds::Summary::from_job(&job)?;
        // The service validates each request before it stores the request.
        let request: RebuildRequest = serde_json::from_value(job.request).unwrap_or_default();
        Ok(Self {
            id: job.id,
            source: request.source.unwrap_or_default(),
            from: request.from.unwrap_or_else(|| "earliest".to_owned()),
            scope: request.scope.unwrap_or_default(),
            user_id: request.user_id,
            dry_run: request.dry_run.unwrap_or_default(),
            covered_by: request.covered_by,
            fill: request.fill,
            status: job.status,
            requested_by: job.requested_by,
            requested_at: job.requested_at,
            started_at: job.started_at,
            ended_at: job.ended_at,
            progress: progress.into(),
            summary: summary.map(Summary::from),
            error: job.error,
            problems: job.messages,
        })
    }
}

/// Progress of the current stage; empty before the first stage.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Progress {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    stage: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    done: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total: Option<u64>,
    /// Steps per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    seconds_left: Option<f64>,
}

copy_members! { rebuilds::Progress => Progress { stage, done, total, rate, seconds_left } }

#[derive(Serialize, ToSchema)]
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

copy_members! {
    rebuilds::Summary => Summary {
        patrons, wrong_counters, applied, blocks_imposed, blocks_lifted, loans, fees_fines, patron_groups,
        skipped_records
    }
}

#[derive(Serialize, ToSchema)]
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

copy_members! {
    rebuilds::DifferenceCounts => DifferenceCounts {
        only_current, only_in_source, different, insignificant
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Rebuilds {
    pub(super) rebuilds: Vec<Rebuild>,
    pub(super) total_records: i64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Differences {
    pub(super) patrons: Vec<DifferingPatron>,
    pub(super) total_records: i64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DifferingPatron {
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
    #[serde(serialize_with = "clock::serialize_option")]
    applied_at: Option<DateTime<Utc>>,
}

impl DifferingPatron {
    /// Selects the differences of the patron among the differences of several patrons.
    pub(crate) fn new(patron: PatronDifferences, all: &[differences::Difference]) -> Self {
        let of_patron = |is_loan| {
            let selected = all.iter().filter(|difference| {
                difference.user_id == Some(patron.user_id) && difference.is_loan == is_loan
            });
            selected.cloned().map(Difference::from).collect()
        };
        Self {
            user_id: patron.user_id,
            wrong_counters: patron.counters,
            current_loans: patron.current_loans.map(i64::from),
            target_loans: patron.target_loans.map(i64::from),
            loans: of_patron(true),
            fees_fines: of_patron(false),
            blocked_before: patron.blocked_before,
            blocked_after: patron.blocked_after,
            applied_at: patron.applied_at,
        }
    }
}

#[derive(Serialize, ToSchema)]
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

impl From<differences::Difference> for Difference {
    fn from(stored: differences::Difference) -> Self {
        Self {
            id: stored.subject,
            kind: DifferenceKind::from_stored(&stored.kind),
            registers: stored.registers,
            current: stored.current_state,
            target: stored.target_state,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum DifferenceKind {
    OnlyCurrent,
    OnlyInSource,
    Different,
    Insignificant,
}

impl DifferenceKind {
    fn from_stored(name: &str) -> Self {
        match name {
            "only_current" => Self::OnlyCurrent,
            "only_target" => Self::OnlyInSource,
            "differs" => Self::Different,
            _ => Self::Insignificant,
        }
    }
}
