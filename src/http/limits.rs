//! `patron-block-limits`: limits per patron group (http contract 5).

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use uuid::Uuid;

use super::{
    ApiError,
    body::Sent,
    collection, described,
    error::{NOT_A_UUID, Violation},
    record::Record,
    request::{Desk, path_id},
};
use crate::{
    blocks::Measure,
    store::{
        self,
        limits::{self, LimitRow},
    },
};

/// `GET /patron-block-limits`
#[utoipa::path(
    get,
    path = "/patron-block-limits",
    operation_id = "listLimits",
    summary = "The limits of all patron groups",
    params(described::Paging),
    responses(
        (status = 200, body = described::Limits, description = "Found"),
        described::Common,
    ),
)]
pub(super) async fn list(desk: Desk, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    collection::list(&desk, &request, &limits::RECORDS, "patronBlockLimits").await
}

/// `GET /patron-block-limits/{id}`
#[utoipa::path(
    get, path = "/patron-block-limits/{id}", operation_id = "getLimit", summary = "A limit",
    params(
        ("id" = Uuid, Path, description = "The limit"),
    ),
    responses(
        (status = 200, body = described::Limit, description = "Found"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn get(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    collection::get(&desk, &path, &limits::RECORDS).await
}

/// `POST /patron-block-limits`
#[utoipa::path(
    post,
    path = "/patron-block-limits",
    operation_id = "postLimit",
    summary = "Set a limit for a patron group",
    request_body(content = described::SentLimit, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = described::Limit,
            description = "Stored",
            headers(("Location" = Uuid, description = "The limit's id")),
        ),
        described::Invalid,
        described::Common,
        described::Unread,
    ),
)]
pub(super) async fn post(sent: Sent, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let Sent { desk, body } = sent;
    let mut record = collection::read(&request, &body)?;
    let (id, condition) = check(&mut record)?;
    record.0.insert("id".to_owned(), id.to_string().into());
    let now = desk.service.clock.now();
    let by = desk.acting_user.as_deref();
    record.set_metadata(None, by, now);
    let record = record.into_value();
    let row = LimitRow { id, condition, record: &record };
    limits::add(&desk.db, &desk.tenant.schema, row, by, now)
        .await
        .map_err(|error| refused(error, id, condition))?;
    desk.service.answers.policies.forget(&desk.tenant.id);
    Ok(HttpResponse::Created().insert_header((LOCATION, id.to_string())).json(record))
}

/// `PUT /patron-block-limits/{id}`
#[utoipa::path(
    put, path = "/patron-block-limits/{id}", operation_id = "putLimit", summary = "Change a limit",
    params(
        ("id" = Uuid, Path, description = "The limit; it wins over the id in the body"),
    ),
    request_body(content = described::SentLimit, content_type = "application/json"),
    responses(
        (status = 204, description = "Changed"),
        described::NotFound,
        described::Invalid,
        described::Common,
        described::Unread,
    ),
)]
pub(super) async fn put(
    sent: Sent,
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let Sent { desk, body } = sent;
    let mut record = collection::read(&request, &body)?;
    let (_, condition) = check(&mut record)?;
    let id = path_id(&path, || {
        Violation::own(NOT_A_UUID, "patron_block_limits.id", path.as_str()).into()
    })?;
    let schema = &desk.tenant.schema;
    let before = collection::find(&desk, &limits::RECORDS, id).await?;
    record.0.insert("id".to_owned(), id.to_string().into());
    let now = desk.service.clock.now();
    record.set_metadata(before.as_ref(), desk.acting_user.as_deref(), now);
    let record = record.into_value();
    let replaced = limits::replace(&desk.db, schema, LimitRow { id, condition, record: &record })
        .await
        .map_err(|error| refused(error, id, condition))?;
    done(&desk, replaced).await
}

/// `DELETE /patron-block-limits/{id}`
#[utoipa::path(
    delete,
    path = "/patron-block-limits/{id}",
    operation_id = "deleteLimit",
    summary = "Remove a limit",
    params(
        ("id" = Uuid, Path, description = "The limit"),
    ),
    responses(
        (status = 204, description = "Removed"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn delete(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = path_id(&path, || ApiError::bad_request(NOT_A_UUID))?;
    let removed = limits::remove(&desk.db, &desk.tenant.schema, id).await?;
    done(&desk, removed).await
}

async fn done(desk: &Desk, was_there: bool) -> Result<HttpResponse, ApiError> {
    desk.service.answers.policies.forget(&desk.tenant.id);
    if was_there {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(ApiError::not_found("Not found"))
    }
}

/// The schema first, then the range. Returns the limit's id and its condition's.
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
        Err(Violation::own(message, "value", format!("{value:?}")).into())
    }
}

/// What the database says of a limit that it does not take.
fn refused(error: store::Error, id: Uuid, condition: Uuid) -> ApiError {
    if error.is_duplicate() {
        let message = format!("id value already exists in table patron_block_limits: {id}");
        return Violation::own(message, "id", id.to_string()).into();
    }
    if error.is_dangling() {
        const KEY: &str = "patron_block_limits.conditionid";
        let message = format!(
            "Cannot set {KEY} = {condition} because it does not exist in patron_block_conditions.id."
        );
        return Violation::own(message, KEY, condition.to_string()).into();
    }
    ApiError::of_record(error)
}
