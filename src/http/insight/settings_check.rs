//! `patron-blocks-insight`: the check of the settings.

use actix_web::{HttpRequest, HttpResponse};

use super::settings_check_bodies::SettingsCheck;
use crate::http::{
    ApiError,
    extract::tenant::{TenantRequest, caller},
    openapi,
};

/// Returns settings that cannot be right, each with its effect. If mod-users does not provide the patron groups,
/// the response has all findings that need no patron groups.
#[utoipa::path(
    get,
    path = "/patron-blocks/settings-check",
    operation_id = "getSettingsCheck",
    summary = "Find limits, conditions and messages that cannot be right",
    responses(
        (status = 200, body = SettingsCheck, description = "The findings, possibly none"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    request: HttpRequest,
    context: TenantRequest,
) -> Result<HttpResponse, ApiError> {
    let TenantRequest { state, db, tenant, .. } = &context;
    let caller = caller(&request, state, &tenant.id);
    let checked = state.settings_checker.check(db, tenant, Some(&caller)).await?;
    Ok(HttpResponse::Ok().json(SettingsCheck::new(&checked)))
}
