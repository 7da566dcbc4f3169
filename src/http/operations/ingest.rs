//! `patron-blocks-operations`: the status of ingest, and its incidents.

use actix_web::{HttpResponse, http::StatusCode, web::Path};
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    clock,
    http::{
        ApiError,
        extract::tenant::{TenantRequest, path_id},
        openapi,
    },
    services::{
        ingest::{
            incidents::{self, Resolution},
            status::{self, PartitionStatus},
        },
        operator_actions::{Act, Action},
    },
    store::{ingest::incidents::StoredIncident, state::patrons::WaitingCounts, tenants},
};

/// Returns position and lag of each partition, the completeness of the tenant's history, and the open
/// incidents.
#[utoipa::path(
    get,
    path = "/patron-blocks/ingest",
    operation_id = "getIngest",
    summary = "Get the positions, lags and incidents of ingest",
    responses(
        (status = 200, body = IngestStatus, description = "Found"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn ingest(context: TenantRequest) -> Result<HttpResponse, ApiError> {
    let TenantRequest { state, db, tenant, .. } = context;
    let found = status::ingest_status(&db, &state.broker, &state.environment, &tenant).await?;
    Ok(HttpResponse::Ok().json(IngestStatus::from(found)))
}

/// Resolves an incident: acknowledges a gap, or resumes a stopped partition.
#[utoipa::path(
    post,
    path = "/patron-blocks/incidents/{id}/resolve",
    operation_id = "resolveIncident",
    summary = "Resolve an incident; a paused partition resumes",
    params(
        ("id" = Uuid, Path, description = "The incident"),
    ),
    responses(
        (status = 204, description = "Resolved"),
        openapi::Forbidden,
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn resolve(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = path_id(&path, || ApiError::bad_request("the incident's id is not a UUID"))?;
    let (by, now) = (context.operator_name(), context.state.clock.now());
    let tenant = Some(&context.tenant.id);
    let work = async { Ok(incidents::resolve(&context.db, tenant, id, by, now).await?) };
    let act = Act::on(Action::ResolveIncident, id);
    match context.record(act, work, Resolution::act_end).await? {
        Resolution::Resolved => Ok(HttpResponse::NoContent().finish()),
        Resolution::NotOpen => Err(ApiError::not_found(format!("No open incident {id}"))),
        Resolution::Shared => {
            let text = format!(
                "Incident {id} concerns a topic of several tenants; resolve the incident on the command \
                 line: mod-patron-blocks incidents resolve {id}"
            );
            Err(ApiError::Text(StatusCode::FORBIDDEN, text))
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IngestStatus {
    knowledge: Completeness,
    /// Events before this time may be missing.
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    incomplete_before: Option<DateTime<Utc>>,
    /// The recommended action if events are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    advice: Option<String>,
    partitions: Vec<Partition>,
    lag: Option<i64>,
    /// The cause for which the log could not be read, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    log_problem: Option<String>,
    /// Loans without a known check-out, and fees/fines without a known patron; they do not count yet.
    waiting: WaitingRecords,
    dead_letters: i64,
    incidents: Vec<Incident>,
    #[schema(value_type = u64)]
    total_records: usize,
}

impl From<status::IngestStatus> for IngestStatus {
    fn from(found: status::IngestStatus) -> Self {
        let (knowledge, incomplete_before) = match found.completeness {
            tenants::Completeness::Complete => (Completeness::Complete, None),
            tenants::Completeness::Filling => (Completeness::Filling, None),
            tenants::Completeness::IncompleteBefore(before) => {
                (Completeness::Incomplete, Some(before))
            }
        };
        let advice = incomplete_before.map(|before| {
            format!(
                "the topics lack events from before {}; a synchronisation with the storage modules (POST \
                 /automated-patron-blocks/synchronization/job, scope full) adds the missing open loans and \
                 fees/fines",
                clock::format_instant(before)
            )
        });
        Self {
            knowledge,
            incomplete_before,
            advice,
            lag: found.partitions.iter().map(|partition| partition.lag).sum(),
            total_records: found.partitions.len(),
            partitions: found.partitions.into_iter().map(Partition::from).collect(),
            log_problem: found.log_problem,
            waiting: found.waiting.into(),
            dead_letters: found.dead_letters,
            incidents: found.incidents.into_iter().map(Incident::from).collect(),
        }
    }
}

/// The part of the tenant's history that the service has.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Completeness {
    Complete,
    /// The initial fill is reading events from before the enabling.
    Filling,
    /// The topics did not contain all events.
    Incomplete,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Partition {
    topic: String,
    partition: i32,
    /// The offset after the last durable record.
    position: Option<i64>,
    log_start: Option<i64>,
    log_end: Option<i64>,
    lag: Option<i64>,
    #[serde(serialize_with = "clock::serialize_option")]
    last_record_at: Option<DateTime<Utc>>,
    stopped: bool,
}

copy_members! {
    PartitionStatus => Partition {
        topic, partition, position, log_start, log_end, lag, last_record_at, stopped
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WaitingRecords {
    loans: i64,
    fees_fines: i64,
}

copy_members! { WaitingCounts => WaitingRecords { loans, fees_fines } }

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Incident {
    id: Uuid,
    kind: String,
    /// The rebuild that the incident concerns.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    rebuild_id: Option<Uuid>,
    /// Empty if the incident concerns a rebuild.
    topic: String,
    partition: i32,
    from_offset: i64,
    to_offset: i64,
    #[serde(serialize_with = "clock::serialize_option")]
    from_time: Option<DateTime<Utc>>,
    #[serde(serialize_with = "clock::serialize_option")]
    to_time: Option<DateTime<Utc>>,
    detail: String,
    #[serde(serialize_with = "clock::serialize")]
    raised_at: DateTime<Utc>,
    #[serde(serialize_with = "clock::serialize_option")]
    resolved_at: Option<DateTime<Utc>>,
    resolved_by: Option<String>,
}

copy_members! {
    StoredIncident => Incident {
        id, kind, rebuild_id, topic, partition, from_offset, to_offset, from_time, to_time, detail, raised_at,
        resolved_at, resolved_by
    }
}
