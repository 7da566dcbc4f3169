//! `patron-blocks-operations`: lists, shows, retries and discards dead letters, by id or by query.

use actix_web::{HttpRequest, HttpResponse, web::Path};
use base64::{Engine, prelude::BASE64_STANDARD};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
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
    services::{
        ingest::dead_letters::{self as service, RetryOutcome, RetryScope},
        operator_actions::{Act, ActEnd, Action},
    },
    store::{
        self,
        ingest::dead_letters::{self, StoredDeadLetter},
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
        (status = 200, body = DeadLetters, description = "Found"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn list(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let Page { query, offset, limit } = Page::from_request(&request)?.capped_at(PAGE_RECORDS_MAX);
    let (schema, search) = (&context.tenant.schema, &dead_letters::SEARCH_TARGET);
    let (page, total_records) = store::read(&context.db, async |db| {
        let page = match limit {
            0 => Vec::new(), // the client requests the count only
            _ => dead_letters::list(&mut *db, schema, &query, None, (offset, limit)).await?,
        };
        Ok((page, records::count(db, schema, search, &query.condition).await?))
    })
    .await?;
    let dead_letters = page.into_iter().map(DeadLetterHead::from).collect();
    Ok(HttpResponse::Ok().json(DeadLetters { dead_letters, total_records }))
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
        (status = 200, body = DeadLetter, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(DeadLetter::from(find(&context, &path).await?)))
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
    let work = async { Ok(context.state.redrive.retry_with_timeout(letter).await?) };
    let outcome =
        context.record(Act::on(Action::RetryRecord, &id), work, RetryOutcome::act_end).await?;
    match outcome {
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
        (status = 200, body = RetryReport, description = "The number of records by outcome"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn retry_all(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let condition = required_condition(&request)?;
    let act = Act::on(Action::RetryRecords, &condition);
    let (redrive, schema) = (&context.state.redrive, &context.tenant.schema);
    let retried = (condition, RetryScope::All);
    let work =
        async { Ok(redrive.retry_all(schema, retried, None, service::REQUEST_TIMEOUT).await?) };
    let report = context.record(act, work, service::RetryReport::act_end).await?;
    Ok(HttpResponse::Ok().json(RetryReport::from(report)))
}

/// Discards a dead letter without applying it. The console and the command line can restore it for some days.
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
    let (redrive, schema) = (&context.state.redrive, &context.tenant.schema);
    let work = async {
        let is_discarded = redrive.discard(schema, id, context.operator_name()).await?;
        if is_discarded { Ok(()) } else { Err(not_found(id)) }
    };
    let act = Act::on(Action::DiscardRecord, id);
    context.record(act, work, |()| ActEnd::done(json!({}))).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Discards all dead letters that match the query, without applying them. The console and the command line can
/// restore them for some days.
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
        (status = 200, body = DiscardReport, description = "The number of discarded records"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn discard_all(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let condition = required_condition(&request)?;
    let act = Act::on(Action::DiscardRecords, &condition);
    let (redrive, schema) = (&context.state.redrive, &context.tenant.schema);
    let (by, time_limit) = (context.operator_name(), service::REQUEST_TIMEOUT);
    let work = async { Ok(redrive.discard_all(schema, &condition, by, time_limit).await?) };
    let report = context.record(act, work, service::DiscardReport::act_end).await?;
    Ok(HttpResponse::Ok().json(DiscardReport::from(report)))
}

/// Returns the condition of the request's query. Operations on many dead letters require a query.
fn required_condition(request: &HttpRequest) -> Result<Condition, ApiError> {
    if paging::parameter(request, "query")?.is_none_or(|query| query.trim().is_empty()) {
        let rule = "query is required; cql.allRecords=1 selects all dead letters";
        return Err(ApiError::bad_request(rule));
    }
    Ok(paging::query(request)?.condition)
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

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadLetters {
    dead_letters: Vec<DeadLetterHead>,
    total_records: i64,
}

/// A dead letter without its bytes; a request for one dead letter returns them.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadLetterHead {
    id: Uuid,
    reason: String,
    /// The member or header that violates the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// The violated rule.
    rule: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    record_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "clock::serialize")]
    received_at: DateTime<Utc>,
    /// Length of the payload, in bytes.
    payload_bytes: i64,
}

copy_members! {
    dead_letters::DeadLetterHead => DeadLetterHead {
        id, reason, field, rule, topic, partition, offset, record_at, received_at, payload_bytes
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DeadLetter {
    id: Uuid,
    reason: String,
    /// The member or header that violates the rule.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<String>,
    /// The violated rule.
    rule: String,
    topic: String,
    partition: i32,
    offset: i64,
    #[serde(skip_serializing_if = "Option::is_none", serialize_with = "clock::serialize_option")]
    #[schema(nullable = false)]
    record_at: Option<DateTime<Utc>>,
    #[serde(serialize_with = "clock::serialize")]
    received_at: DateTime<Utc>,
    /// Length of the payload, in bytes.
    payload_bytes: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key: Option<Bytes>,
    headers: Vec<Header>,
    payload: Bytes,
}

impl From<StoredDeadLetter> for DeadLetter {
    fn from(letter: StoredDeadLetter) -> Self {
        let head = letter.head();
        let StoredDeadLetter { id, reason, field, rule, received_at, record, .. } = letter;
        Self {
            id,
            reason,
            field,
            rule,
            topic: head.topic,
            partition: head.partition,
            offset: head.offset,
            record_at: head.record_at,
            received_at,
            payload_bytes: head.payload_bytes,
            key: record.key.map(Bytes::from),
            headers: record.headers.into_iter().map(Header::from).collect(),
            payload: record.payload.unwrap_or_default().into(),
        }
    }
}

/// Text if the bytes are UTF-8, otherwise base64.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
enum Bytes {
    Text(String),
    Base64(String),
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes)
            .map_or_else(|error| Self::Base64(BASE64_STANDARD.encode(error.as_bytes())), Self::Text)
    }
}

#[derive(Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct Header {
    name: String,
    value: String,
}

impl From<(String, Vec<u8>)> for Header {
    fn from((name, value): (String, Vec<u8>)) -> Self {
        Self { name, value: String::from_utf8_lossy(&value).into_owned() }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RetryReport {
    applied: u64,
    still_parked: u64,
    /// The last attempt before the time limit; dead letters with greater ids remain. To continue, use
    /// `(query) and id>continueAfter`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    continue_after: Option<Uuid>,
}

copy_members! { service::RetryReport => RetryReport { applied, still_parked, continue_after } }

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct DiscardReport {
    discarded: u64,
    /// The last dead letter before the time limit. To continue with greater ids, repeat the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    continue_after: Option<Uuid>,
}

copy_members! { service::DiscardReport => DiscardReport { discarded, continue_after } }
