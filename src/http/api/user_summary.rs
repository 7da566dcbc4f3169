//! `user-summary`: a patron's open loans and fees/fines.

use actix_web::{HttpResponse, http::header::ContentType, web::Path};

use crate::{
    http::{
        ApiError,
        extract::tenant::{TenantRequest, path_id},
        openapi,
    },
    store::{self, state::patrons},
};

/// Returns a patron's open loans and fees/fines (docs/contract/http-api.md#3-summary).
#[utoipa::path(
    get,
    path = "/user-summary/{userId}",
    operation_id = "getUserSummary",
    summary = "Get the open loans and fees/fines of a patron",
    params(
        ("userId" = Uuid, Path, description = "The patron"),
    ),
    responses(
        (status = 200, body = openapi::UserSummary, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = path_id(&path, || {
        ApiError::bad_request(format!("Invalid user ID: \"{}\"", path.escape_default()))
    })?;
    let schema = &context.tenant.schema;
    let summary =
        store::read(&context.db, async |db| patrons::load_summary(db, schema, user).await).await?;
    match summary {
        Some(json) => Ok(HttpResponse::Ok().content_type(ContentType::json()).body(json)),
        None => Err(ApiError::not_found(format!("User summary for user ID {user} not found"))),
    }
}
