//! `patron-block-limits`: limits per patron group (docs/contract/http-api.md#5-limits).

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use super::collection;
use crate::{
    blocks::Measure,
    http::{
        ApiError,
        error::{NOT_A_UUID, Violation},
        extract::{
            body::JsonBody,
            record::Record,
            tenant::{TenantRequest, path_id},
        },
        openapi,
    },
    store::{
        self,
        settings::limits::{self, LimitRow},
    },
};

/// Returns a page of limits of all patron groups.
#[utoipa::path(
    get,
    path = "/patron-block-limits",
    operation_id = "listLimits",
    summary = "List the limits of all patron groups",
    params(openapi::Paging),
    responses(
        (status = 200, body = Limits, description = "Found"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn list(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let found = collection::list(&context, &request, &limits::RECORDS).await?;
    let (patron_block_limits, total_records) = found;
    Ok(HttpResponse::Ok().json(Limits { patron_block_limits, total_records }))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Limits {
    #[schema(value_type = Vec<openapi::Limit>)]
    patron_block_limits: Vec<Value>,
    total_records: i64,
}

/// Returns one limit.
#[utoipa::path(
    get, path = "/patron-block-limits/{id}", operation_id = "getLimit", summary = "Get a limit",
    params(
        ("id" = Uuid, Path, description = "The limit"),
    ),
    responses(
        (status = 200, body = openapi::Limit, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    collection::get(&context, &path, &limits::RECORDS).await
}

/// Creates a limit of a condition for a patron group.
#[utoipa::path(
    post,
    path = "/patron-block-limits",
    operation_id = "postLimit",
    summary = "Create a limit for a patron group",
    request_body(content = openapi::LimitRequest, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = openapi::Limit,
            description = "Stored",
            headers(("Location" = Uuid, description = "The limit's id")),
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
    let mut record = collection::read(&request, &body)?;
    let (id, condition) = check(&mut record)?;
    record.0.insert("id".to_owned(), id.to_string().into());
    let now = context.state.clock.now();
    let by = context.acting_user.as_deref();
    record.set_metadata(None, by, now);
    let record = record.into_value();
    let row = LimitRow { id, condition, record: &record };
    limits::insert(&context.db, &context.tenant.schema, row, by, now)
        .await
        .map_err(|error| store_rejection(error, id, condition))?;
    context.state.evaluator.policies.invalidate(&context.tenant.id);
    Ok(HttpResponse::Created().insert_header((LOCATION, id.to_string())).json(record))
}

/// Replaces a limit.
#[utoipa::path(
    put, path = "/patron-block-limits/{id}", operation_id = "putLimit", summary = "Change a limit",
    params(
        ("id" = Uuid, Path, description = "The limit; the id in the body is ignored"),
    ),
    request_body(content = openapi::LimitRequest, content_type = "application/json"),
    responses(
        (status = 204, description = "Changed"),
        openapi::NotFound,
        openapi::Invalid,
        openapi::Common,
        openapi::BodyNotRead,
    ),
)]
pub(in crate::http) async fn put(
    json_body: JsonBody,
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let JsonBody { context, body } = json_body;
    let mut record = collection::read(&request, &body)?;
    let (_, condition) = check(&mut record)?;
    let id = path_id(&path, || {
        Violation::custom(NOT_A_UUID, "patron_block_limits.id", path.as_str()).into()
    })?;
    let schema = &context.tenant.schema;
    let stored = collection::find(&context, &limits::RECORDS, id).await?;
    record.0.insert("id".to_owned(), id.to_string().into());
    let now = context.state.clock.now();
    record.set_metadata(stored.as_ref(), context.acting_user.as_deref(), now);
    let record = record.into_value();
    let replaced =
        limits::replace(&context.db, schema, LimitRow { id, condition, record: &record })
            .await
            .map_err(|error| store_rejection(error, id, condition))?;
    change_response(&context, replaced).await
}

/// Deletes a limit.
#[utoipa::path(
    delete,
    path = "/patron-block-limits/{id}",
    operation_id = "deleteLimit",
    summary = "Delete a limit",
    params(
        ("id" = Uuid, Path, description = "The limit"),
    ),
    responses(
        (status = 204, description = "Deleted"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn delete(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = path_id(&path, || ApiError::bad_request(NOT_A_UUID))?;
    let removed = limits::remove(&context.db, &context.tenant.schema, id).await?;
    change_response(&context, removed).await
}

async fn change_response(context: &TenantRequest, existed: bool) -> Result<HttpResponse, ApiError> {
    context.state.evaluator.policies.invalidate(&context.tenant.id);
    if existed {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(ApiError::not_found("Not found"))
    }
}

/// Checks the types of the members first, then the range of the value. Returns the ids of the limit and of
/// its condition.
fn check(record: &mut Record) -> Result<(Uuid, Uuid), ApiError> {
    let id = record.uuid("id")?;
    record.uuid("patronGroupId")?;
    let condition = record.uuid("conditionId")?;
    let value = record.number("value")?;
    let (in_range, message) = if condition == Measure::FeeFineBalance.condition_id() {
        let in_range = (0.0..=999_999.99).contains(&value);
        (in_range, "Must be blank or a number from 0.00 to 999999.99")
    } else {
        let in_range = (0.0..=999_999.0).contains(&value) && value.fract() == 0.0;
        (in_range, "Must be blank or an integer from 0 to 999999")
    };
    if in_range {
        Ok((id, condition))
    } else {
        Err(Violation::custom(message, "value", format!("{value:?}")).into())
    }
}

/// Converts a rejection of a limit by the database.
fn store_rejection(error: store::Error, id: Uuid, condition: Uuid) -> ApiError {
    if error.is_unique_violation() {
        let message = format!("id value already exists in table patron_block_limits: {id}");
        return Violation::custom(message, "id", id.to_string()).into();
    }
    if error.is_foreign_key_violation() {
        const KEY: &str = "patron_block_limits.conditionid";
        let message = format!(
            "Cannot set {KEY} = {condition} because it does not exist in patron_block_conditions.id."
        );
        return Violation::custom(message, KEY, condition.to_string()).into();
    }
    ApiError::from_record_error(error)
}
