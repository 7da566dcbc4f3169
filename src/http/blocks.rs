//! `automated-patron-blocks`: what a patron may not do at this moment.

use std::time::Duration;

use actix_web::{HttpRequest, HttpResponse, web::Path};
use serde::Serialize;
use tokio::time::timeout;
use tracing::error;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    ApiError, described,
    request::{caller, enabled, path_id, shared, tenant_id},
};
use crate::{blocks::Finding, config::OnDatabaseFailure, flow::answer::Question, telemetry::Chain};

/// The whole answer takes no longer: mod-circulation gives up after 20 s.
const DEADLINE: Duration = Duration::from_secs(8);

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AutomatedPatronBlocks)]
struct Body<'a> {
    automated_patron_blocks: Vec<Block<'a>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = AutomatedPatronBlock)]
struct Block<'a> {
    patron_block_condition_id: Uuid,
    block_borrowing: bool,
    block_renewals: bool,
    block_requests: bool,
    message: &'a str,
}

impl<'a> Block<'a> {
    /// What the desk sees of a finding: nothing, unless it blocks something.
    fn of(finding: &Finding<'a>) -> Option<Self> {
        (!finding.blocked.is_empty()).then_some(Self {
            patron_block_condition_id: finding.condition.id,
            block_borrowing: finding.blocked.borrowing,
            block_renewals: finding.blocked.renewals,
            block_requests: finding.blocked.requests,
            message: &finding.condition.message,
        })
    }
}

/// `GET /automated-patron-blocks/{userId}` (http contract 2).
#[utoipa::path(
    get,
    path = "/automated-patron-blocks/{userId}",
    operation_id = "getAutomatedPatronBlocks",
    summary = "What a patron may not do at this moment",
    params(
        ("userId" = Uuid, Path, description = "The patron"),
    ),
    responses(
        (status = 200, body = Body, description = "Found"),
        described::Common,
    ),
)]
pub(super) async fn get(
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = tenant_id(&request)?;
    let user = path_id(&path, || {
        ApiError::bad_request(format!("Invalid user UUID: \"{}\"", path.escape_default()))
    })?;
    let (service, db) = shared(&request);
    let caller = caller(&request, &service, &id);
    let evaluate = async {
        let tenant = enabled(&service, &id).await?;
        let question = Question { db, tenant, user, caller };
        service.answers.blocks(&question).await.map_err(ApiError::Store)
    };
    let failure = match timeout(DEADLINE, evaluate).await {
        Ok(Ok(answer)) => {
            let findings = answer.findings();
            let automated_patron_blocks = findings.iter().filter_map(Block::of).collect();
            return Ok(HttpResponse::Ok().json(Body { automated_patron_blocks }));
        }
        Ok(Err(ApiError::Store(failure))) => Some(failure),
        Ok(Err(error)) => return Err(error),
        Err(_) => None,
    };
    // Which of the two a library wants is its choice; both are said aloud.
    let cause = failure.as_deref().map_or_else(
        || "no answer within the deadline".to_owned(),
        |failure| Chain(failure).to_string(),
    );
    error!(tenant = %id, user.id = %user, error = cause, "blocks can't be evaluated");
    match service.on_database_failure {
        OnDatabaseFailure::Open => {
            Ok(HttpResponse::Ok().json(Body { automated_patron_blocks: Vec::new() }))
        }
        OnDatabaseFailure::Error => Err(failure.map_or_else(timed_out, ApiError::Store)),
    }
}

fn timed_out() -> ApiError {
    let status = actix_web::http::StatusCode::INTERNAL_SERVER_ERROR;
    ApiError::Text(status, "could not evaluate within the deadline".to_owned())
}
