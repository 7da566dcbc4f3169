//! `patron-blocks-event-handlers`: the eight events over HTTP, as mod-pubsub delivers them
//! (docs/contract/http-api.md#6-handlers). Status 204 means that the event is durable; after any other status
//! the sender repeats the event.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode};

use crate::{
    event::{Kind, Reason, Reject, decode::http_body},
    http::{
        ApiError,
        error::Violation,
        extract::{
            body::TimedBody,
            record::require_json,
            tenant::{app_state, enabled_tenant, tenant_id},
        },
        openapi,
    },
    services::ingest::http_events::SubmitError,
};

/// Stores an event; each of the eight kinds has its own path. After any status except 204, the sender has to
/// repeat the event.
#[utoipa::path(
    post,
    path = "/automated-patron-blocks/handlers",
    summary = "Apply an event that mod-pubsub delivers",
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 204, description = "The event is durable"),
        openapi::Invalid,
        openapi::BodyNotRead,
        openapi::ServiceUnavailable,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn post(
    kind: Kind,
    request: HttpRequest,
    TimedBody(body): TimedBody,
) -> Result<HttpResponse, ApiError> {
    let (service, db) = app_state(&request);
    let tenant = enabled_tenant(&service, &db, &tenant_id(&request)?).await?;
    require_json(&request)?;
    let event = http_body::decode_body(kind, &body).map_err(|reject| rejection(&body, reject))?;
    match service.http_events.submit(tenant.id.clone(), event).await {
        Ok(()) => {
            service.evaluator.freshness.record_callback(&tenant.id);
            Ok(HttpResponse::NoContent().finish())
        }
        Err(SubmitError::TenantDisabled) => Err(ApiError::tenant_not_enabled(&tenant.id)),
        Err(SubmitError::Refused(error)) => Err(ApiError::Store(error)),
        Err(later @ SubmitError::Unavailable) => {
            Err(ApiError::Text(StatusCode::SERVICE_UNAVAILABLE, later.to_string()))
        }
    }
}

/// Converts a rejected event: 422 for a violation of the schema, 400 for JSON of the wrong types
/// (docs/contract/http-api.md#14-errors). Unused members are not validated, so HTTP accepts the same bytes as
/// the log.
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
