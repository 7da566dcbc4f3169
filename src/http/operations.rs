//! `patron-blocks-operations`: how far ingest has come, and incidents.

use actix_web::{HttpResponse, http::StatusCode, web::Path};

use super::{
    ApiError, described,
    request::{Desk, path_id},
};
use crate::flow::{
    incidents::{self, Resolution},
    standing,
};

/// `GET /patron-blocks/ingest`
#[utoipa::path(
    get,
    path = "/patron-blocks/ingest",
    operation_id = "getIngest",
    summary = "How far ingest has come",
    responses(
        (status = 200, body = described::Standing, description = "Found"),
        described::Common,
    ),
)]
pub(super) async fn ingest(desk: Desk) -> Result<HttpResponse, ApiError> {
    let Desk { service, db, tenant, .. } = desk;
    let told = standing::standing(&db, &service.broker, &service.environment, &tenant).await?;
    Ok(HttpResponse::Ok().json(told))
}

/// `POST /patron-blocks/incidents/{id}/resolve`: a gap is known, a stopped partition goes on.
#[utoipa::path(
    post,
    path = "/patron-blocks/incidents/{id}/resolve",
    operation_id = "resolveIncident",
    summary = "Take note of a gap, or let a stopped partition go on",
    params(
        ("id" = Uuid, Path, description = "The incident"),
    ),
    responses(
        (status = 204, description = "Resolved"),
        described::Forbidden,
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn resolve(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = path_id(&path, || ApiError::bad_request("the incident's id is not a UUID"))?;
    let by = desk.acting_user.as_deref().unwrap_or("unknown");
    let now = desk.service.clock.now();
    match incidents::resolve(&desk.db, Some(&desk.tenant.id), id, by, now).await? {
        Resolution::Resolved => Ok(HttpResponse::NoContent().finish()),
        Resolution::NotOpen => Err(ApiError::not_found(format!("No open incident {id}"))),
        Resolution::Shared => {
            let text = format!(
                "Incident {id} is about a topic that tenants share; it is resolved from the command line: \
                 mod-patron-blocks incidents resolve {id}"
            );
            Err(ApiError::Text(StatusCode::FORBIDDEN, text))
        }
    }
}
