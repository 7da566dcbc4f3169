//! `patron-blocks-operations`: iterations, which publish every patron's summary to a topic.

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    ApiError,
    body::Sent,
    described,
    error::Violation,
    query::part,
    record::Record,
    request::{Desk, path_id},
};
use crate::{
    event::in_calendar,
    flow::iteration::told,
    store::{
        self,
        iterations::{self, Iteration, Request},
    },
};

/// The type of events where none is asked for.
const EVENT_TYPE: &str = "ITERATE";

/// `POST /patron-blocks/user-summaries/iteration`
#[utoipa::path(
    post,
    path = "/patron-blocks/user-summaries/iteration",
    operation_id = "postIteration",
    summary = "Have every patron's summary published to a topic",
    request_body(content = described::IterationRequest, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = described::Iteration,
            description = "It is asked for, and will be worked on",
            headers(("Location" = String, description = "Where it is told of")),
        ),
        described::Invalid,
        described::Common,
        described::Unread,
    ),
)]
pub(super) async fn post(sent: Sent, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let Sent { desk, body } = sent;
    let record = Record::read(&request, &body)?;
    let known = ["topicName", "eventType", "patronGroupId", "changedSince"];
    if let Some(unknown) = record.0.keys().find(|name| !known.contains(&name.as_str())) {
        let rule = format!("is none of {}", known.join(", "));
        return Err(Violation::own(rule, "the body", unknown).into());
    }
    let topic = topic(&desk, &record)?;
    let event_type = record.optional_string("eventType")?.unwrap_or(EVENT_TYPE);
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if event_type.is_empty() || event_type.len() > 100 || !event_type.chars().all(is_name) {
        let rule = "must have 1 to 100 letters, digits, dots, underscores and hyphens";
        return Err(Violation::own(rule, "eventType", event_type).into());
    }
    let patron_group = match record.get("patronGroupId") {
        Some(_) => Some(record.uuid("patronGroupId")?.to_string()),
        None => None,
    };
    let changed_since = match record.optional_string("changedSince")? {
        Some(text) => {
            let time = text.parse::<DateTime<Utc>>().ok().filter(in_calendar);
            let rule = "must be a date-time such as 2026-09-14T21:59:59Z";
            Some(time.ok_or_else(|| Violation::own(rule, "changedSince", text))?)
        }
        None => None,
    };
    if desk.service.iterations.has_topic(&topic).await == Some(false) {
        return Err(Violation::own("is no topic that there is", "topicName", topic).into());
    }
    let asked = Request {
        tenant: &desk.tenant.id,
        topic: &topic,
        event_type,
        patron_group: patron_group.as_deref(),
        changed_since,
        by: desk.acting_user.as_deref().unwrap_or("unknown"),
    };
    let entered = desk.service.iterations.ask(&desk.db, asked).await?;
    let location = format!("/patron-blocks/user-summaries/iteration/{}", entered.id);
    Ok(HttpResponse::Created().insert_header((LOCATION, location)).json(answer(&desk, &entered)))
}

/// The full name of the topic that is asked for.
fn topic(desk: &Desk, record: &Record) -> Result<String, ApiError> {
    let named = record.string("topicName")?;
    let environment = &desk.service.environment;
    let full = environment.named_by(&desk.tenant.id, desk.service.collection.as_ref(), named);
    full.map_err(|rule| Violation::own(rule, "topicName", named).into())
}

/// `GET /patron-blocks/user-summaries/iteration`
#[utoipa::path(
    get,
    path = "/patron-blocks/user-summaries/iteration",
    operation_id = "listIterations",
    summary = "Iterations, the newest first",
    params(described::Part),
    responses(
        (status = 200, body = described::Iterations, description = "Found"),
        described::Common,
    ),
)]
pub(super) async fn list(desk: Desk, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let (limit, offset) = part(&request)?;
    let id = &desk.tenant.id;
    let found = store::read(&desk.db, async |db| iterations::list(db, id, limit, offset).await);
    let (page, total) = found.await?;
    let page: Vec<Value> = page.iter().map(|iteration| answer(&desk, iteration)).collect();
    Ok(HttpResponse::Ok().json(json!({ "iterations": page, "totalRecords": total })))
}

/// `GET /patron-blocks/user-summaries/iteration/{jobId}`
#[utoipa::path(
    get,
    path = "/patron-blocks/user-summaries/iteration/{jobId}",
    operation_id = "getIteration",
    summary = "How far an iteration is",
    params(("jobId" = Uuid, Path, description = "The iteration")),
    responses(
        (status = 200, body = described::Iteration, description = "Found"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn get(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let found = find(&desk, id_of(&path)?).await?;
    Ok(HttpResponse::Ok().json(answer(&desk, &found)))
}

/// `DELETE /patron-blocks/user-summaries/iteration/{jobId}`
#[utoipa::path(
    delete,
    path = "/patron-blocks/user-summaries/iteration/{jobId}",
    operation_id = "deleteIteration",
    summary = "End an iteration where it stands",
    params(("jobId" = Uuid, Path, description = "The iteration")),
    responses(
        (status = 204, description = "It ends"),
        described::NotFound,
        described::Invalid,
        described::Common,
    ),
)]
pub(super) async fn delete(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = id_of(&path)?;
    let found = find(&desk, id).await?;
    if !iterations::cancel(&desk.db, &desk.tenant.id, id).await? {
        let rule = "an iteration that has ended can't be ended";
        return Err(Violation::own(rule, "status", found.status).into());
    }
    Ok(HttpResponse::NoContent().finish())
}

fn answer(desk: &Desk, iteration: &Iteration) -> Value {
    told(iteration, desk.service.clock.now())
}

fn id_of(path: &str) -> Result<Uuid, ApiError> {
    path_id(path, || ApiError::not_found(format!("No iteration {}", path.escape_default())))
}

async fn find(desk: &Desk, id: Uuid) -> Result<Iteration, ApiError> {
    let tenant = &desk.tenant.id;
    let found = store::read(&desk.db, async |db| iterations::find(db, tenant, id).await).await?;
    found.ok_or_else(|| ApiError::not_found(format!("No iteration {id}")))
}
