//! `patron-blocks-insight`: the explanation of a patron's blocks.

use actix_web::{HttpRequest, HttpResponse, web::Path};

use super::explanation_bodies::Explanation;
use crate::{
    http::{
        ApiError,
        extract::{
            paging::{number, parameter},
            tenant::{TenantRequest, caller, path_patron},
        },
        openapi,
    },
    services::evaluation::{EvaluationRequest, explanations::ExplanationMode},
};

/// Number of listed loans if the request has no `loanLimit`.
const LOAN_LIMIT_DEFAULT: i64 = 200;

/// Explains the blocks of a patron: every limit of the patron group, what counts for it, and the way out
/// (docs/contract/insight.md#2-explanations).
#[utoipa::path(
    get,
    path = "/patron-blocks/explanations/{userId}",
    operation_id = "getExplanation",
    summary = "Explain the automated blocks of a patron",
    params(
        ("userId" = Uuid, Path, description = "The patron"),
        (
            "loanLimit" = Option<i64>, Query, minimum = 0, maximum = 2_147_483_647,
            description = "Maximum number of listed loans, by default 200; a response lists at most 2,000",
        ),
    ),
    responses(
        (status = 200, body = Explanation, description = "The explanation, also if nothing is blocked"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    request: HttpRequest,
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let user = path_patron(&path)?;
    let loan_limit = number("loanLimit", parameter(&request, "loanLimit")?, LOAN_LIMIT_DEFAULT)?;
    let caller = caller(&request, &context.state, &context.tenant.id);
    let TenantRequest { db, tenant, .. } = &context;
    let evaluation_request =
        EvaluationRequest { db: db.clone(), tenant: tenant.clone(), user, caller };
    let explained =
        context.state.evaluator.explain(&evaluation_request, ExplanationMode::FULL).await;
    let explained = explained.map_err(ApiError::Store)?;
    Ok(HttpResponse::Ok().json(Explanation::new(&explained, loan_limit as usize)))
}
