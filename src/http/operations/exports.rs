//! `patron-blocks-operations`: iterations, which publish the summary of every patron to a topic.

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
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
    services::summary_export::to_json,
    store::{
        self,
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
    request_body(content = openapi::IterationRequest, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = openapi::Iteration,
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
    let requested_by = context.acting_user.as_deref().unwrap_or("unknown");
    let export = exports.request(&context.db, tenant, &export_request, requested_by).await?;
    let location = format!("/patron-blocks/user-summaries/iteration/{}", export.job.id);
    Ok(HttpResponse::Created()
        .insert_header((LOCATION, location))
        .json(export_json(&context, &export)))
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
        (status = 200, body = openapi::Iterations, description = "Found"),
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
    let (page, total) = found.await?;
    let page: Vec<Value> = page.iter().map(|iteration| export_json(&context, iteration)).collect();
    Ok(HttpResponse::Ok().json(json!({ "iterations": page, "totalRecords": total })))
}

/// Returns one iteration with its progress.
#[utoipa::path(
    get,
    path = "/patron-blocks/user-summaries/iteration/{jobId}",
    operation_id = "getIteration",
    summary = "Get an iteration with its progress",
    params(("jobId" = Uuid, Path, description = "The iteration")),
    responses(
        (status = 200, body = openapi::Iteration, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let found = find(&context, parse_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(export_json(&context, &found)))
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
    if !exports::cancel(&context.db, &context.tenant.id, id).await? {
        let rule = "an iteration that has ended cannot be cancelled";
        return Err(Violation::custom(rule, "status", found.job.status.name()).into());
    }
    Ok(HttpResponse::NoContent().finish())
}

fn export_json(context: &TenantRequest, iteration: &SummaryExport) -> Value {
    to_json(iteration, context.state.clock.now())
}

fn parse_id(path: &str) -> Result<Uuid, ApiError> {
    path_id(path, || ApiError::not_found(format!("No iteration {}", path.escape_default())))
}

async fn find(context: &TenantRequest, id: Uuid) -> Result<SummaryExport, ApiError> {
    let tenant = &context.tenant.id;
    let found = store::read(&context.db, async |db| exports::find(db, tenant, id).await).await?;
    found.ok_or_else(|| ApiError::not_found(format!("No iteration {id}")))
}
