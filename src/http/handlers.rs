//! `patron-blocks-event-handlers`: the eight events over HTTP, as mod-pubsub delivers them (http contract
//! 6). 204 means that the event is durable; the sender repeats whatever is answered otherwise.

use actix_web::{HttpRequest, HttpResponse, http::StatusCode};

use super::{
    ApiError,
    body::InTime,
    described,
    error::Violation,
    record::require_json,
    request::{enabled, shared, tenant_id},
};
use crate::{
    event::{Kind, Reason, Reject, callback},
    flow::callbacks::Refusal,
};

/// `POST` of an event of this kind. Described once for all eight.
#[utoipa::path(
    post,
    path = "/automated-patron-blocks/handlers",
    summary = "An event, as mod-pubsub delivers it",
    request_body(content = serde_json::Value, content_type = "application/json"),
    responses(
        (status = 204, description = "The event is durable"),
        described::Invalid,
        described::Unread,
        described::Later,
        described::Common,
    ),
)]
pub(super) async fn post(
    kind: Kind,
    request: HttpRequest,
    InTime(body): InTime,
) -> Result<HttpResponse, ApiError> {
    let (service, db) = shared(&request);
    let tenant = enabled(&service, &db, &tenant_id(&request)?).await?;
    require_json(&request)?;
    let call = callback::read(kind, &body).map_err(|reject| refused(&body, reject))?;
    match service.callbacks.take(tenant.id.clone(), call).await {
        Ok(()) => Ok(HttpResponse::NoContent().finish()),
        Err(Refusal::NotEnabled) => Err(ApiError::not_enabled(&tenant.id)),
        Err(Refusal::Never(error)) => Err(ApiError::Store(error)),
        Err(later @ Refusal::Later) => {
            Err(ApiError::Text(StatusCode::SERVICE_UNAVAILABLE, later.to_string()))
        }
    }
}

/// What breaks the schema is 422, what is no JSON of the right types 400 (http contract 1.4). What nobody reads
/// is looked at by nobody here either, so that HTTP takes the bytes that the log takes.
fn refused(body: &[u8], reject: Reject) -> ApiError {
    let Some(field) = reject.field else {
        let rule = reject.to_string().replacen("the value", "the body", 1);
        return ApiError::bad_request(rule);
    };
    match (reject.reason, callback::id_sent(body, field)) {
        (Reason::MissingField, _) => Violation::missing(field).into(),
        (_, Some(text)) => Violation::not_a_uuid(field, &text).into(),
        _ => ApiError::bad_request(reject.to_string()),
    }
}
