//! `patron-blocks-operations`: dead letters, shown, tried again and thrown away, one or by query.

use actix_web::{HttpRequest, HttpResponse, web::Path};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    ApiError, described,
    query::{self, PAGE_MOST, Page},
    request::{Desk, path_id},
};
use crate::{
    clock,
    cql::Condition,
    flow::redrive::Outcome,
    store::{
        self,
        dead_letters::{self, Head, Parked},
        records,
    },
};

/// `GET /patron-blocks/dead-letters`
#[utoipa::path(
    get,
    path = "/patron-blocks/dead-letters",
    operation_id = "listDeadLetters",
    summary = "Parked records",
    params(described::Paging),
    responses(
        (status = 200, body = described::DeadLetters, description = "Found"),
        described::Common,
    ),
)]
pub(super) async fn list(desk: Desk, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let Page { query, offset, limit } = Page::of(&request)?.at_most(PAGE_MOST);
    let (schema, search) = (&desk.tenant.schema, &dead_letters::SEARCH);
    let (page, total) = store::read(&desk.db, async |db| {
        let page = match limit {
            0 => Vec::new(), // only the count is asked for
            _ => dead_letters::list(&mut *db, schema, &query, None, (offset, limit)).await?,
        };
        Ok((page, records::count(db, schema, search, &query.condition).await?))
    })
    .await?;
    let page: Vec<Value> = page.iter().map(head).collect();
    Ok(HttpResponse::Ok().json(json!({ "deadLetters": page, "totalRecords": total })))
}

/// `GET /patron-blocks/dead-letters/{id}`
#[utoipa::path(
    get,
    path = "/patron-blocks/dead-letters/{id}",
    operation_id = "getDeadLetter",
    summary = "A parked record",
    params(
        ("id" = Uuid, Path, description = "The dead letter"),
    ),
    responses(
        (status = 200, body = described::DeadLetter, description = "Found"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn get(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(body(&find(&desk, &path).await?)))
}

/// `POST /patron-blocks/dead-letters/{id}/retry`: 204, or 422 with the reason why it is parked still.
#[utoipa::path(
    post,
    path = "/patron-blocks/dead-letters/{id}/retry",
    operation_id = "retryDeadLetter",
    summary = "Try a parked record again",
    params(
        ("id" = Uuid, Path, description = "The dead letter"),
    ),
    responses(
        (status = 204, description = "Applied"),
        described::NotFound,
        described::Invalid,
        described::Common,
    ),
)]
pub(super) async fn retry(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let letter = find(&desk, &path).await?;
    let id = letter.id.to_string();
    match desk.service.redrive.retry_in_time(letter).await? {
        Outcome::Applied => Ok(HttpResponse::NoContent().finish()),
        Outcome::StillParked(why) => Err(super::error::Violation::own(why, "id", id).into()),
    }
}

/// `POST /patron-blocks/dead-letters/retry?query=…`
#[utoipa::path(
    post,
    path = "/patron-blocks/dead-letters/retry",
    operation_id = "retryDeadLetters",
    summary = "Try again all parked records that a query means",
    params(
        (
            "query" = String,
            Query,
            description = "CQL; required, so that all is not meant by mistake. \
                Where time was up, go on with this query and id>CONTINUE_AFTER",
        ),
    ),
    responses(
        (status = 200, body = described::Retried, description = "What became of them"),
        described::Common,
    ),
)]
pub(super) async fn retry_all(desk: Desk, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let condition = required(&request)?;
    let report = desk.service.redrive.retry_all(&desk.tenant.schema, condition).await?;
    Ok(HttpResponse::Ok().json(report))
}

/// `DELETE /patron-blocks/dead-letters/{id}`
#[utoipa::path(
    delete,
    path = "/patron-blocks/dead-letters/{id}",
    operation_id = "discardDeadLetter",
    summary = "Throw a parked record away",
    params(
        ("id" = Uuid, Path, description = "The dead letter"),
    ),
    responses(
        (status = 204, description = "Gone"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn discard(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = id_of(&path)?;
    if desk.service.redrive.discard(&desk.tenant.schema, id, by(&desk)).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(unknown(id))
    }
}

/// `DELETE /patron-blocks/dead-letters?query=…`
#[utoipa::path(
    delete,
    path = "/patron-blocks/dead-letters",
    operation_id = "discardDeadLetters",
    summary = "Throw away all parked records that a query means",
    params(
        (
            "query" = String,
            Query,
            description = "CQL; required, so that all is not meant by mistake",
        ),
    ),
    responses(
        (status = 200, body = described::Discarded, description = "How many are gone"),
        described::Common,
    ),
)]
pub(super) async fn discard_all(
    desk: Desk,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let condition = required(&request)?;
    let redrive = &desk.service.redrive;
    let report = redrive.discard_all(&desk.tenant.schema, &condition, by(&desk)).await?;
    Ok(HttpResponse::Ok().json(report))
}

/// Which letters are meant, for what changes many at once: that must be said.
fn required(request: &HttpRequest) -> Result<Condition, ApiError> {
    if query::parameter(request, "query")?.is_none_or(|query| query.trim().is_empty()) {
        let rule = "query is required here; cql.allRecords=1 means all dead letters";
        return Err(ApiError::bad_request(rule));
    }
    Ok(query::query(request)?.condition)
}

fn by(desk: &Desk) -> &str {
    desk.acting_user.as_deref().unwrap_or("unknown")
}

fn id_of(path: &str) -> Result<Uuid, ApiError> {
    path_id(path, || ApiError::bad_request("the dead letter's id is not a UUID"))
}

fn unknown(id: Uuid) -> ApiError {
    ApiError::not_found(format!("No dead letter {id}"))
}

async fn find(desk: &Desk, id: &str) -> Result<Parked, ApiError> {
    let (id, schema) = (id_of(id)?, &desk.tenant.schema);
    let found = store::read(&desk.db, async |db| dead_letters::find(db, schema, id).await).await?;
    found.ok_or_else(|| unknown(id))
}

/// A letter in a list: without its bytes.
fn head(letter: &Head) -> Value {
    let mut head = json!({
        "id": letter.id,
        "reason": letter.reason,
        "field": letter.field,
        "rule": letter.rule,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "recordAt": letter.record_at.map(clock::written),
        "receivedAt": clock::written(letter.received_at),
        "payloadBytes": letter.payload_bytes,
    });
    leave_out_null(&mut head);
    head
}

/// Members that are null are left out of JSON (http contract 1.2).
fn leave_out_null(body: &mut Value) {
    body.as_object_mut().expect("it was made as one").retain(|_, value| !value.is_null());
}

/// All of a letter. Bytes that are no text are written in base64.
fn body(letter: &Parked) -> Value {
    let record = &letter.record;
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    };
    let headers = record
        .headers
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": String::from_utf8_lossy(value) }));
    let mut body = head(&letter.head());
    body["key"] = json!(record.key.as_deref().map(text));
    body["headers"] = headers.collect();
    body["payload"] = json!(record.payload.as_deref().map(text));
    leave_out_null(&mut body);
    body
}
