//! `patron-blocks-operations`: lists, shows, retries and discards dead letters, by id or by query.

use actix_web::{HttpRequest, HttpResponse, web::Path};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    clock,
    cql::Condition,
    http::{
        ApiError,
        extract::{
            paging::{self, PAGE_RECORDS_MAX, Page},
            tenant::{TenantRequest, path_id},
        },
        openapi,
    },
    services::ingest::dead_letters::RetryOutcome,
    store::{
        self,
        ingest::dead_letters::{self, DeadLetterHead, StoredDeadLetter},
        settings::records,
    },
};

/// Returns a page of dead letters, without their bytes.
#[utoipa::path(
    get,
    path = "/patron-blocks/dead-letters",
    operation_id = "listDeadLetters",
    summary = "List dead letters",
    params(openapi::Paging),
    responses(
        (status = 200, body = openapi::DeadLetters, description = "Found"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn list(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let Page { query, offset, limit } = Page::from_request(&request)?.capped_at(PAGE_RECORDS_MAX);
    let (schema, search) = (&context.tenant.schema, &dead_letters::SEARCH_TARGET);
    let (page, total) = store::read(&context.db, async |db| {
        let page = match limit {
            0 => Vec::new(), // the client requests the count only
            _ => dead_letters::list(&mut *db, schema, &query, None, (offset, limit)).await?,
        };
        Ok((page, records::count(db, schema, search, &query.condition).await?))
    })
    .await?;
    let page: Vec<Value> = page.iter().map(list_item).collect();
    Ok(HttpResponse::Ok().json(json!({ "deadLetters": page, "totalRecords": total })))
}

/// Returns one dead letter with its key, headers and payload.
#[utoipa::path(
    get,
    path = "/patron-blocks/dead-letters/{id}",
    operation_id = "getDeadLetter",
    summary = "Get a dead letter",
    params(
        ("id" = Uuid, Path, description = "The dead letter"),
    ),
    responses(
        (status = 200, body = openapi::DeadLetter, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(dead_letter_details(&find(&context, &path).await?)))
}

/// Applies a dead letter again. Returns 204 if the record was applied, and 422 with the reason if it remains
/// a dead letter.
#[utoipa::path(
    post,
    path = "/patron-blocks/dead-letters/{id}/retry",
    operation_id = "retryDeadLetter",
    summary = "Retry a dead letter",
    params(
        ("id" = Uuid, Path, description = "The dead letter"),
    ),
    responses(
        (status = 204, description = "Applied"),
        openapi::NotFound,
        openapi::Invalid,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn retry(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let letter = find(&context, &path).await?;
    let id = letter.id.to_string();
    match context.state.redrive.retry_with_timeout(letter).await? {
        RetryOutcome::Applied => Ok(HttpResponse::NoContent().finish()),
        RetryOutcome::StillParked(why) => {
            Err(crate::http::error::Violation::custom(why, "id", id).into())
        }
    }
}

/// Applies all dead letters again that match the query. If the time limit is reached, `continueAfter` is the
/// id of the last attempt.
#[utoipa::path(
    post,
    path = "/patron-blocks/dead-letters/retry",
    operation_id = "retryDeadLetters",
    summary = "Retry all dead letters that match a query",
    params(
        (
            "query" = String,
            Query,
            description = "CQL; required, so that a request without it does not select all records. \
                After a time-out, repeat the query with `and id>CONTINUE_AFTER`",
        ),
    ),
    responses(
        (status = 200, body = openapi::RetryReport, description = "The number of records by outcome"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn retry_all(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let condition = required_condition(&request)?;
    let report = context.state.redrive.retry_all(&context.tenant.schema, condition).await?;
    Ok(HttpResponse::Ok().json(report))
}

/// Deletes a dead letter without applying it.
#[utoipa::path(
    delete,
    path = "/patron-blocks/dead-letters/{id}",
    operation_id = "discardDeadLetter",
    summary = "Discard a dead letter",
    params(
        ("id" = Uuid, Path, description = "The dead letter"),
    ),
    responses(
        (status = 204, description = "Discarded"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn discard(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = parse_id(&path)?;
    if context.state.redrive.discard(&context.tenant.schema, id, operator(&context)).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(not_found(id))
    }
}

/// Deletes all dead letters that match the query, without applying them.
#[utoipa::path(
    delete,
    path = "/patron-blocks/dead-letters",
    operation_id = "discardDeadLetters",
    summary = "Discard all dead letters that match a query",
    params(
        (
            "query" = String,
            Query,
            description = "CQL; required, so that a request without it does not select all records",
        ),
    ),
    responses(
        (status = 200, body = openapi::DiscardReport, description = "The number of discarded records"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn discard_all(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let condition = required_condition(&request)?;
    let redrive = &context.state.redrive;
    let report =
        redrive.discard_all(&context.tenant.schema, &condition, operator(&context)).await?;
    Ok(HttpResponse::Ok().json(report))
}

/// Returns the condition of the request's query. Operations on many dead letters require a query.
fn required_condition(request: &HttpRequest) -> Result<Condition, ApiError> {
    if paging::parameter(request, "query")?.is_none_or(|query| query.trim().is_empty()) {
        let rule = "query is required; cql.allRecords=1 selects all dead letters";
        return Err(ApiError::bad_request(rule));
    }
    Ok(paging::query(request)?.condition)
}

fn operator(context: &TenantRequest) -> &str {
    context.acting_user.as_deref().unwrap_or("unknown")
}

fn parse_id(path: &str) -> Result<Uuid, ApiError> {
    path_id(path, || ApiError::bad_request("the dead letter's id is not a UUID"))
}

fn not_found(id: Uuid) -> ApiError {
    ApiError::not_found(format!("No dead letter {id}"))
}

async fn find(context: &TenantRequest, id: &str) -> Result<StoredDeadLetter, ApiError> {
    let (id, schema) = (parse_id(id)?, &context.tenant.schema);
    let found =
        store::read(&context.db, async |db| dead_letters::find(db, schema, id).await).await?;
    found.ok_or_else(|| not_found(id))
}

/// Returns a dead letter without its bytes, as in a list.
fn list_item(letter: &DeadLetterHead) -> Value {
    let mut members = json!({
        "id": letter.id,
        "reason": letter.reason,
        "field": letter.field,
        "rule": letter.rule,
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "recordAt": letter.record_at.map(clock::format_instant),
        "receivedAt": clock::format_instant(letter.received_at),
        "payloadBytes": letter.payload_bytes,
    });
    remove_nulls(&mut members);
    members
}

/// Removes members that are null, as JSON bodies omit them (docs/contract/http-api.md#12-bodies).
fn remove_nulls(body: &mut Value) {
    body.as_object_mut().expect("the body is a JSON object").retain(|_, value| !value.is_null());
}

/// Returns a dead letter with its bytes; bytes that are not UTF-8 are in base64.
fn dead_letter_details(letter: &StoredDeadLetter) -> Value {
    let record = &letter.record;
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    };
    let headers = record
        .headers
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": String::from_utf8_lossy(value) }));
    let mut details = list_item(&letter.head());
    details["key"] = json!(record.key.as_deref().map(text));
    details["headers"] = headers.collect();
    details["payload"] = json!(record.payload.as_deref().map(text));
    remove_nulls(&mut details);
    details
}
