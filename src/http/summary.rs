//! `user-summary`: a patron's open loans and fees/fines.

use actix_web::{HttpResponse, http::header::ContentType, web::Path};

use super::{
    ApiError, described,
    request::{Desk, path_id},
};
use crate::store::{self, patrons};

/// `GET /user-summary/{userId}` (http contract 3).
#[utoipa::path(
    get,
    path = "/user-summary/{userId}",
    operation_id = "getUserSummary",
    summary = "A patron's open loans and fees/fines",
    params(
        ("userId" = Uuid, Path, description = "The patron"),
    ),
    responses(
        (status = 200, body = described::UserSummary, description = "Found"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn get(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let user = path_id(&path, || {
        ApiError::bad_request(format!("Invalid user ID: \"{}\"", path.escape_default()))
    })?;
    let schema = &desk.tenant.schema;
    let summary =
        store::read(&desk.db, async |db| patrons::summary(db, schema, user).await).await?;
    match summary {
        Some(json) => Ok(HttpResponse::Ok().content_type(ContentType::json()).body(json)),
        None => Err(ApiError::not_found(format!("User summary for user ID {user} not found"))),
    }
}
