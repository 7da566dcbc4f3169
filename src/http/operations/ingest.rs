//! `patron-blocks-operations`: the status of ingest, and its incidents.

use actix_web::{HttpResponse, http::StatusCode, web::Path};

use crate::{
    http::{
        ApiError,
        extract::tenant::{TenantRequest, path_id},
        openapi,
    },
    services::ingest::{
        incidents::{self, Resolution},
        status,
    },
};

/// Returns position and lag of each partition, the completeness of the tenant's history, and the open
/// incidents.
#[utoipa::path(
    get,
    path = "/patron-blocks/ingest",
    operation_id = "getIngest",
    summary = "Get the positions, lags and incidents of ingest",
    responses(
        (status = 200, body = openapi::IngestStatus, description = "Found"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn ingest(context: TenantRequest) -> Result<HttpResponse, ApiError> {
    let TenantRequest { state, db, tenant, .. } = context;
    let found = status::ingest_status(&db, &state.broker, &state.environment, &tenant).await?;
    Ok(HttpResponse::Ok().json(found))
}

/// Resolves an incident: acknowledges a gap, or resumes a stopped partition.
#[utoipa::path(
    post,
    path = "/patron-blocks/incidents/{id}/resolve",
    operation_id = "resolveIncident",
    summary = "Resolve an incident; a paused partition resumes",
    params(
        ("id" = Uuid, Path, description = "The incident"),
    ),
    responses(
        (status = 204, description = "Resolved"),
        openapi::Forbidden,
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn resolve(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = path_id(&path, || ApiError::bad_request("the incident's id is not a UUID"))?;
    let by = context.acting_user.as_deref().unwrap_or("unknown");
    let now = context.state.clock.now();
    match incidents::resolve(&context.db, Some(&context.tenant.id), id, by, now).await? {
        Resolution::Resolved => Ok(HttpResponse::NoContent().finish()),
        Resolution::NotOpen => Err(ApiError::not_found(format!("No open incident {id}"))),
        Resolution::Shared => {
            let text = format!(
                "Incident {id} concerns a topic of several tenants; resolve the incident on the command \
                 line: mod-patron-blocks incidents resolve {id}"
            );
            Err(ApiError::Text(StatusCode::FORBIDDEN, text))
        }
    }
}
