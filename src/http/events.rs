//! `patron-blocks-event-handlers`: the eight events over HTTP, as mod-pubsub delivers them
//! (docs/contract/http-api.md#6-handlers). 204 means that the event is durable; the sender repeats
//! whatever is answered otherwise.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode};

use super::{
    ApiError,
    body::TimedBody,
    error::Violation,
    openapi,
    record::require_json,
    tenant::{app_state, enabled_tenant, tenant_id},
};
use crate::{
    event::{Kind, Reason, Reject, http_body},
    services::callbacks::SubmitError,
};

/// `POST` of an event of this kind. Described once for all eight.
#[utoipa::path(
    post,
    path = "/automated-patron-blocks/handlers",
    summary = "An event, as mod-pubsub delivers it",
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 204, description = "The event is durable"),
        openapi::Invalid,
        openapi::BodyNotRead,
        openapi::ServiceUnavailable,
        openapi::Common,
    ),
)]
pub(super) async fn post(
    kind: Kind,
    request: HttpRequest,
    TimedBody(body): TimedBody,
) -> Result<HttpResponse, ApiError> {
    let (service, db) = app_state(&request);
    let tenant = enabled_tenant(&service, &db, &tenant_id(&request)?).await?;
    require_json(&request)?;
    let event = http_body::decode_body(kind, &body).map_err(|reject| rejection(&body, reject))?;
    match service.http_events.submit(tenant.id.clone(), event).await {
        Ok(()) => Ok(HttpResponse::NoContent().finish()),
        Err(SubmitError::TenantDisabled) => Err(ApiError::tenant_not_enabled(&tenant.id)),
        Err(SubmitError::Refused(error)) => Err(ApiError::Store(error)),
        Err(later @ SubmitError::Unavailable) => {
            Err(ApiError::Text(StatusCode::SERVICE_UNAVAILABLE, later.to_string()))
        }
    }
}

/// What breaks the schema is 422, what is no JSON of the right types 400
/// (docs/contract/http-api.md#14-errors). What nobody reads is looked at by nobody here either, so
/// that HTTP takes the bytes that the log takes.
fn rejection(body: &[u8], reject: Reject) -> ApiError {
    let Some(field) = reject.field else {
        let rule = reject.to_string().replacen("the value", "the body", 1);
        return ApiError::bad_request(rule);
    };
    match (reject.reason, http_body::raw_id(body, field)) {
        (Reason::MissingField, _) => Violation::missing(field).into(),
        (_, Some(text)) => Violation::not_a_uuid(field, &text).into(),
        _ => ApiError::bad_request(reject.to_string()),
    }
}
