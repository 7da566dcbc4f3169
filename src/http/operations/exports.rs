//! `patron-blocks-operations`: iterations, which publish the summary of every patron to a topic.

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    clock,
    event::in_calendar,
    http::{
        ApiError,
        error::Violation,
        extract::{
            body::JsonBody,
            paging::list_range,
            record::Record,
            tenant::{TenantRequest, path_id},
        },
        openapi,
    },
    services::operator_actions::{Act, ActEnd, Action},
    store::{
        self,
        jobs::Status,
        messages::exports::{self, ExportRequest, SummaryExport},
    },
};

/// Type of the published events if the request names no type.
const EVENT_TYPE_DEFAULT: &str = "ITERATE";

/// Requests an iteration: a job that publishes the summary of every patron, or of the selected patrons, to a
/// topic.
#[utoipa::path(
    post,
    path = "/patron-blocks/user-summaries/iteration",
    operation_id = "postIteration",
    summary = "Create an iteration, which publishes the summary of every patron to a topic",
    request_body(content = IterationRequest, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = Iteration,
            description = "Created; the iteration runs in the background",
            headers(("Location" = String, description = "Path of the job")),
        ),
        openapi::Invalid,
        openapi::Common,
        openapi::BodyNotRead,
    ),
)]
pub(in crate::http) async fn post(
    json_body: JsonBody,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let JsonBody { context, body } = json_body;
    let record = Record::read(&request, &body)?;
    let members = ["topicName", "eventType", "patronGroupId", "changedSince"];
    if let Some(unknown) = record.0.keys().find(|name| !members.contains(&name.as_str())) {
        let rule = format!("must be one of {}", members.join(", "));
        return Err(Violation::custom(rule, "the body", unknown).into());
    }
    let topic = topic(&context, &record)?;
    let event_type = record.optional_string("eventType")?.unwrap_or(EVENT_TYPE_DEFAULT);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if event_type.is_empty() || event_type.len() > 100 || !event_type.chars().all(is_name) {
        let rule = "must have 1 to 100 letters, digits, dots, underscores and hyphens";
        return Err(Violation::custom(rule, "eventType", event_type).into());
    }
    let patron_group = match record.get("patronGroupId") {
        Some(_) => Some(record.uuid("patronGroupId")?.to_string()),
        None => None,
    };
    let changed_since = match record.optional_string("changedSince")? {
        Some(text) => {
            let time = text.parse::<DateTime<Utc>>().ok().filter(in_calendar);
            let rule = "must be a date-time such as 2026-09-14T21:59:59Z";
            Some(time.ok_or_else(|| Violation::custom(rule, "changedSince", text))?)
        }
        None => None,
    };
    if context.state.summary_exports.topic_exists(&topic).await == Some(false) {
        return Err(
            Violation::custom("must be the name of an existing topic", "topicName", topic).into()
        );
    }
    let event_type = event_type.to_owned();
    let export_request = ExportRequest { topic, event_type, patron_group, changed_since };
    let (tenant, exports) = (&context.tenant.id, &context.state.summary_exports);
    let act = Act::on(Action::RequestExport, &export_request.topic);
    let by = context.operator_name();
    let work = async { Ok(exports.request(&context.db, tenant, &export_request, by).await?) };
    let end_of = |export: &SummaryExport| ActEnd::done(json!({ "exportId": export.job.id }));
    let export = context.record(act, work, end_of).await?;
    let location = format!("/patron-blocks/user-summaries/iteration/{}", export.job.id);
    let body = Iteration::new(export, context.state.clock.now());
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(body))
}

/// Returns the full name of the requested topic.
fn topic(context: &TenantRequest, record: &Record) -> Result<String, ApiError> {
    let named = record.string("topicName")?;
    let environment = &context.state.environment;
    let full =
        environment.resolve_topic(&context.tenant.id, context.state.collection.as_ref(), named);
    full.map_err(|rule| Violation::custom(rule, "topicName", named).into())
}

/// Returns a page of iterations, newest first.
#[utoipa::path(
    get,
    path = "/patron-blocks/user-summaries/iteration",
    operation_id = "listIterations",
    summary = "List iterations, newest first",
    params(openapi::ListPaging),
    responses(
        (status = 200, body = Iterations, description = "Found"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn list(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (limit, offset) = list_range(&request)?;
    let id = &context.tenant.id;
    let found = store::read(&context.db, async |db| exports::list(db, id, limit, offset).await);
    let ((page, total_records), now) = (found.await?, context.state.clock.now());
    let iterations = page.into_iter().map(|export| Iteration::new(export, now)).collect();
    Ok(HttpResponse::Ok().json(Iterations { iterations, total_records }))
}

/// Returns one iteration with its progress.
#[utoipa::path(
    get,
    path = "/patron-blocks/user-summaries/iteration/{jobId}",
    operation_id = "getIteration",
    summary = "Get an iteration with its progress",
    params(("jobId" = Uuid, Path, description = "The iteration")),
    responses(
        (status = 200, body = Iteration, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let found = find(&context, parse_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(Iteration::new(found, context.state.clock.now())))
}

/// Cancels an iteration. Returns 422 if the iteration has already ended.
#[utoipa::path(
    delete,
    path = "/patron-blocks/user-summaries/iteration/{jobId}",
    operation_id = "deleteIteration",
    summary = "Cancel an iteration",
    params(("jobId" = Uuid, Path, description = "The iteration")),
    responses(
        (status = 204, description = "Cancelled"),
        openapi::NotFound,
        openapi::Invalid,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn delete(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = parse_id(&path)?;
    let found = find(&context, id).await?;
    let work = async {
        if exports::cancel(&context.db, &context.tenant.id, id).await? {
            return Ok(());
        }
        let rule = "an iteration that has ended cannot be cancelled";
        Err(Violation::custom(rule, "status", found.job.status.name()).into())
    };
    let act = Act::on(Action::CancelExport, id);
    context.record(act, work, |()| ActEnd::done(json!({}))).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn parse_id(path: &str) -> Result<Uuid, ApiError> {
    path_id(path, || ApiError::not_found(format!("No iteration {}", path.escape_default())))
}

async fn find(context: &TenantRequest, id: Uuid) -> Result<SummaryExport, ApiError> {
    let tenant = &context.tenant.id;
    let found = store::read(&context.db, async |db| exports::find(db, tenant, id).await).await?;
    found.ok_or_else(|| ApiError::not_found(format!("No iteration {id}")))
}

/// Topic, event type and selected patrons of an iteration.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "`post` checks each member, because each violation has its own response"
)]
struct IterationRequest {
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

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Iterations {
    iterations: Vec<Iteration>,
    total_records: i64,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Iteration {
    id: Uuid,
    job_params: JobParams,
    #[schema(value_type = IterationStatus)]
    status: Status,
    /// The staff user, or the name of another requester.
    requested_by: String,
    #[serde(serialize_with = "clock::serialize")]
    submitted_date: DateTime<Utc>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    started_date: Option<DateTime<Utc>>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    ended_date: Option<DateTime<Utc>>,
    /// Summaries that the broker has acknowledged.
    number_of_records_published: i64,
    /// Number of summaries to publish, once known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total_records: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    records_per_second: Option<f64>,
    /// The cause of the failure.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
}

impl Iteration {
    fn new(export: SummaryExport, now: DateTime<Utc>) -> Self {
        let SummaryExport { job, request, progress } = export;
        let rate = |started: DateTime<Utc>| {
            let seconds = (job.ended_at.unwrap_or(now) - started).as_seconds_f64();
            (seconds > 0.0).then(|| (progress.published as f64 / seconds).round())
        };
        Self {
            id: job.id,
            job_params: JobParams {
                topic_name: request.topic,
                event_type: request.event_type,
                patron_group_id: request.patron_group,
                changed_since: request.changed_since,
            },
            status: job.status,
            requested_by: job.requested_by,
            submitted_date: job.requested_at,
            started_date: job.started_at,
            ended_date: job.ended_at,
            number_of_records_published: progress.published,
            total_records: progress.total,
            records_per_second: job.started_at.and_then(rate),
            error: job.error,
        }
    }
}

#[derive(ToSchema)]
#[serde(rename_all = "lowercase")]
#[expect(dead_code, reason = "schema of the statuses of a summary export")]
enum IterationStatus {
    Waiting,
    Publishing,
    Done,
    Failed,
    Cancelled,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct JobParams {
    /// Full name of the topic.
    topic_name: String,
    event_type: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Uuid)]
    patron_group_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    changed_since: Option<DateTime<Utc>>,
}
