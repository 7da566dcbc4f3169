//! `patron-block-conditions`: the six conditions (docs/contract/http-api.md#4-conditions).

use actix_web::{HttpRequest, HttpResponse, web::Path};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{collection, settings_writer::SettingsWriter};
use crate::{
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
    store::settings::conditions,
};

/// Returns a page of the six conditions.
#[utoipa::path(
    get,
    path = "/patron-block-conditions",
    operation_id = "listConditions",
    summary = "List the six conditions",
    params(openapi::Paging),
    responses(
        (status = 200, body = Conditions, description = "Found"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn list(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let found = collection::list(&context, &request, &conditions::RECORDS).await?;
    let (patron_block_conditions, total_records) = found;
    Ok(HttpResponse::Ok().json(Conditions { patron_block_conditions, total_records }))
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Conditions {
    #[schema(value_type = Vec<openapi::Condition>)]
    patron_block_conditions: Vec<Value>,
    total_records: i64,
}

/// Returns one condition.
#[utoipa::path(
    get,
    path = "/patron-block-conditions/{id}",
    operation_id = "getCondition",
    summary = "Get a condition",
    params(
        ("id" = Uuid, Path, description = "The condition"),
    ),
    responses(
        (status = 200, body = openapi::Condition, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    collection::get(&context, &path, &conditions::RECORDS).await
}

/// Changes the message of a condition and the actions that it blocks. A condition has a message if it blocks
/// an action, and no message otherwise.
#[utoipa::path(
    put,
    path = "/patron-block-conditions/{id}",
    operation_id = "putCondition",
    summary = "Change the blocked actions and the message of a condition",
    params(
        ("id" = Uuid, Path, description = "The condition; the id in the body is ignored"),
    ),
    request_body(content = openapi::ConditionRequest, content_type = "application/json"),
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
    let record = collection::read(&request, &body)?;
    check(&record)?;
    let id = path_id(&path, || {
        Violation::custom(NOT_A_UUID, "patron_block_conditions.id", path.as_str()).into()
    })?;
    let act = Act::on(Action::ChangeCondition, id)
        .with_detail(json!({ "after": summarize(&Value::Object(record.0.clone())) }));
    let work = replace(context.settings_writer(), id, record);
    let end_of = |before: &Value| ActEnd::done(json!({ "before": before }));
    context.record(act, work, end_of).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Returns the members of a stored condition that evaluations use.
fn summarize(record: &Value) -> Value {
    json!({
        "blockBorrowing": record["blockBorrowing"], "blockRenewals": record["blockRenewals"],
        "blockRequests": record["blockRequests"], "message": record["message"],
    })
}

/// Replaces a condition, and returns what it was.
async fn replace(
    writer: SettingsWriter<'_>,
    id: Uuid,
    mut record: Record,
) -> Result<Value, ApiError> {
    let now = writer.state.clock.now();
    let stored = writer.find(&conditions::RECORDS, id).await?;
    record.0.insert("id".to_owned(), id.to_string().into());
    record.set_metadata(stored.as_ref(), writer.by, now);
    let (schema, record) = (&writer.tenant.schema, record.into_value());
    let replaced = conditions::replace(writer.db, schema, id, &record, now).await;
    writer.invalidate();
    match replaced.map_err(ApiError::from_record_error)? {
        true => Ok(stored.as_ref().map(summarize).unwrap_or_default()),
        false => Err(ApiError::not_found("Not found")),
    }
}

/// Maximum length of a message in characters; every evaluation and every block event may contain the message.
const MESSAGE_CHARS_MAX: usize = 4000;

/// Checks the types of the members first, then the rule on message and blocked actions.
fn check(record: &Record) -> Result<(), ApiError> {
    const KEY: &str = "patron block condition id";
    let id = record.uuid("id")?;
    record.string("name")?;
    let mut blocks = false;
    for flag in ["blockBorrowing", "blockRenewals", "blockRequests"] {
        blocks |= record.boolean(flag)?;
    }
    let value_type = record.string("valueType")?;
    if !matches!(value_type, "Integer" | "Double") {
        return Err(ApiError::bad_request("valueType must be Integer or Double"));
    }
    let text = record.optional_string("message")?.unwrap_or_default();
    if text.chars().count() > MESSAGE_CHARS_MAX {
        let rule = format!("must not be longer than {MESSAGE_CHARS_MAX} characters");
        let excerpt: String = text.chars().take(50).collect();
        return Err(Violation::custom(rule, "message", excerpt).into());
    }
    let blank = text.trim().is_empty();
    let message = match (blocks, blank) {
        (true, true) => {
            "Message to be displayed is a required field if one or more blocked actions selected"
        }
        (false, false) => {
            "One or more blocked actions must be selected for message to be displayed to be used"
        }
        _ => return Ok(()),
    };
    Err(Violation::custom(message, KEY, id.to_string()).into())
}
