//! `patron-blocks-insight`: how certain evaluations are.

use actix_web::{HttpRequest, HttpResponse};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    blocks::Certainty,
    clock,
    http::{
        ApiError,
        extract::{
            paging::parameter,
            tenant::{TenantRequest, caller, path_patron},
        },
        openapi,
    },
    services::evaluation::{EvaluationRequest, certainty::CertaintyReport},
    store::ingest::instance_reports::BehindPartition,
};

/// Returns how certain evaluations of the tenant are, or of one patron (docs/contract/insight.md#6-certainty).
#[utoipa::path(
    get,
    path = "/patron-blocks/certainty",
    operation_id = "getCertainty",
    summary = "Get the certainty of evaluations, of the tenant or of one patron",
    params(("userId" = Option<Uuid>, Query, description = "A patron; by default the tenant as a whole")),
    responses(
        (status = 200, body = CertaintyBody, description = "The certainty, and what it follows from"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    request: HttpRequest,
    context: TenantRequest,
) -> Result<HttpResponse, ApiError> {
    let user = match parameter(&request, "userId")? {
        Some(user) => Some(path_patron(&user)?),
        None => None,
    };
    let TenantRequest { state, db, tenant, .. } = &context;
    let report = match user {
        Some(user) => {
            let caller = caller(&request, state, &tenant.id);
            let (db, tenant) = (db.clone(), tenant.clone());
            let request = EvaluationRequest { db, tenant, user, caller };
            state.evaluator.patron_certainty(&request).await.map_err(ApiError::Store)?
        }
        None => state.evaluator.tenant_certainty(db, tenant).await?,
    };
    Ok(HttpResponse::Ok().json(CertaintyBody::from(report)))
}

/// How certain evaluations are.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = Certainty)]
struct CertaintyBody {
    #[schema(value_type = CertaintyStateName)]
    state: &'static str,
    /// Instant up to which all events are applied; absent if it is not known.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    as_of: Option<DateTime<Utc>>,
    /// `log` if the events are in topics, or `callbacks` if they arrive over HTTP only.
    #[schema(value_type = EventChannelName)]
    channel: &'static str,
    /// Number of records that are not applied.
    lag_records: i64,
    /// Partitions that are behind or stopped, the oldest first; at most 100.
    sources: Vec<Source>,
    #[schema(value_type = KnowledgeName)]
    knowledge: &'static str,
    /// Whether records of the tenant are parked; absent if that could not be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    has_dead_letters: Option<bool>,
    /// Only if the request names a patron.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    patron: Option<PatronBody>,
}

/// A partition that is behind or stopped.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = CertaintySource)]
struct Source {
    topic: String,
    partition: i32,
    lag: i64,
    /// Time of the next record, or the last instant at which all records were applied.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    as_of: Option<DateTime<Utc>>,
    /// Whether the partition waits for an operator.
    stopped: bool,
}

/// What may be missing of one patron.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = PatronCertainty)]
struct PatronBody {
    user_id: Uuid,
    /// Dead letters that name the patron or an open item of the patron, newest first; at most 100.
    dead_letters: Vec<Uuid>,
    /// Loans that wait for their check-out and name the patron.
    waiting_loans: i64,
    /// When the patron's open items were last read from the storage modules.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    snapshot_at: Option<DateTime<Utc>>,
    /// Whether the patron group is from a current source.
    group_current: bool,
}

names!(CertaintyStateName { Certain, Late, Incomplete, Doubtful, Unknown });
names!(EventChannelName { Log, Callbacks });
names!(KnowledgeName { Complete, Filling, Incomplete });

impl From<CertaintyReport> for CertaintyBody {
    fn from(report: CertaintyReport) -> Self {
        let Certainty { state, as_of } = report.certainty;
        let source = |found: BehindPartition| Source {
            topic: found.topic,
            partition: found.partition,
            lag: found.lag,
            as_of: found.as_of,
            stopped: found.is_stopped,
        };
        Self {
            state: state.name(),
            as_of,
            channel: if report.freshness.has_log { "log" } else { "callbacks" },
            lag_records: report.freshness.lag,
            sources: report.behind.into_iter().map(source).collect(),
            knowledge: report.completeness.name(),
            has_dead_letters: report.has_dead_letters,
            patron: report.patron.map(|patron| PatronBody {
                user_id: patron.user,
                dead_letters: patron.dead_letters,
                waiting_loans: patron.waiting_loans,
                snapshot_at: patron.snapshot_at,
                group_current: patron.is_group_current,
            }),
        }
    }
}
