//! `patron-block-limits`: limits per patron group (docs/contract/http-api.md#5-limits).

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{collection, settings_writer::SettingsWriter};
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
    services::operator_actions::{Act, ActEnd, Action},
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
    let limit = CheckedLimit::new(collection::read(&request, &body)?)?;
    let (id, act) = (limit.id, Act::on(Action::CreateLimit, limit.id).with_detail(limit.summary()));
    let work = create(context.settings_writer(), limit);
    let record = context.record(act, work, |_| ActEnd::done(json!({}))).await?;
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
    let limit = CheckedLimit::new(collection::read(&request, &body)?)?;
    let id = path_id(&path, || {
        Violation::custom(NOT_A_UUID, "patron_block_limits.id", path.as_str()).into()
    })?;
    let act = Act::on(Action::ChangeLimit, id).with_detail(limit.summary());
    let work = replace(context.settings_writer(), id, limit);
    let end_of = |before: &Value| ActEnd::done(json!({ "before": before }));
    context.record(act, work, end_of).await?;
    Ok(HttpResponse::NoContent().finish())
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
    let work = remove(context.settings_writer(), id);
    let end_of = |before: &Value| ActEnd::done(json!({ "before": before }));
    context.record(Act::on(Action::DeleteLimit, id), work, end_of).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// A limit that follows the rules.
pub(crate) struct CheckedLimit {
    /// The id of a new limit.
    pub(crate) id: Uuid,
    condition: Uuid,
    record: Record,
}

impl CheckedLimit {
    /// Checks a limit.
    pub(crate) fn new(mut record: Record) -> Result<Self, ApiError> {
        let (id, condition) = check(&mut record)?;
        Ok(Self { id, condition, record })
    }

    /// Returns the record of a new limit.
    fn into_new_record(mut self, by: Option<&str>, now: DateTime<Utc>) -> Value {
        self.record.0.insert("id".to_owned(), self.id.to_string().into());
        self.record.set_metadata(None, by, now);
        self.record.into_value()
    }

    /// Returns the members that evaluations use, for the log of acts.
    pub(crate) fn summary(&self) -> Value {
        json!({ "after": summarize(&Value::Object(self.record.0.clone())) })
    }
}

/// Returns the members of a stored limit that evaluations use.
fn summarize(record: &Value) -> Value {
    json!({
        "patronGroupId": record["patronGroupId"], "conditionId": record["conditionId"],
        "value": record["value"],
    })
}

/// Stores a new limit, and returns its record.
async fn create(writer: SettingsWriter<'_>, limit: CheckedLimit) -> Result<Value, ApiError> {
    let (id, condition, now) = (limit.id, limit.condition, writer.state.clock.now());
    let record = limit.into_new_record(writer.by, now);
    let row = LimitRow { id, condition, record: &record };
    let inserted = limits::insert(writer.db, &writer.tenant.schema, row, writer.by, now).await;
    writer.invalidate();
    inserted.map_err(|error| store_rejection(error, id, condition))?;
    Ok(record)
}

/// Stores a new limit unless the patron group has a limit of the condition. Returns whether the limit is stored.
pub(crate) async fn create_first(
    writer: SettingsWriter<'_>,
    limit: CheckedLimit,
    group: &str,
) -> Result<bool, ApiError> {
    let (id, condition, now) = (limit.id, limit.condition, writer.state.clock.now());
    let record = limit.into_new_record(writer.by, now);
    let row = LimitRow { id, condition, record: &record };
    let schema = &writer.tenant.schema;
    let inserted = limits::insert_first(writer.db, schema, row, group, writer.by, now).await;
    writer.invalidate();
    inserted.map_err(|error| store_rejection(error, id, condition))
}

/// Replaces a limit, and returns what it was.
pub(crate) async fn replace(
    writer: SettingsWriter<'_>,
    id: Uuid,
    limit: CheckedLimit,
) -> Result<Value, ApiError> {
    let CheckedLimit { condition, mut record, .. } = limit;
    let schema = &writer.tenant.schema;
    let stored = writer.find(&limits::RECORDS, id).await?;
    record.0.insert("id".to_owned(), id.to_string().into());
    record.set_metadata(stored.as_ref(), writer.by, writer.state.clock.now());
    let record = record.into_value();
    let row = LimitRow { id, condition, record: &record };
    let replaced = limits::replace(writer.db, schema, row).await;
    writer.invalidate();
    match replaced.map_err(|error| store_rejection(error, id, condition))? {
        true => Ok(stored.as_ref().map(summarize).unwrap_or_default()),
        false => Err(ApiError::not_found("Not found")),
    }
}

/// Deletes a limit, and returns what it was.
pub(crate) async fn remove(writer: SettingsWriter<'_>, id: Uuid) -> Result<Value, ApiError> {
    let stored = writer.find(&limits::RECORDS, id).await?;
    let removed = limits::remove(writer.db, &writer.tenant.schema, id).await;
    writer.invalidate();
    match removed? {
        true => Ok(stored.as_ref().map(summarize).unwrap_or_default()),
        false => Err(ApiError::not_found("Not found")),
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
