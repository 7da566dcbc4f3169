//! `automated-patron-blocks`: what a patron may not do at this moment.

use std::time::Duration;

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue},
    },
    web::Path,
};
use serde::Serialize;
use tokio::time::timeout;
use tracing::error;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    ApiError, Service, described,
    request::{caller, enabled, gate, path_id, shared, tenant_id},
};
use crate::{
    blocks::Finding,
    config::OnDatabaseFailure,
    figures::figures,
    flow::answer::{Basis, Question},
    store::{Verdict, tenants::Knowledge},
};

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

/// What the answer rests on, for the curious.
const BASIS: &str = "X-Patron-Blocks-Basis";

/// Whether all is known that has happened to the tenant's patrons; left out where it is.
const KNOWLEDGE: &str = "x-patron-blocks-knowledge";

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
        (
            status = 200,
            body = Body,
            description = "Found",
            headers(
                ("X-Patron-Blocks-Basis" = String, description = "What the answer rests on"),
                ("X-Patron-Blocks-Knowledge" = String,
                    description = "filling or incomplete, where not all is known that has happened"),
            ),
        ),
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
    let Some(_pass) = gate(&request).pass() else {
        return not_evaluated(&service, Basis::TooMany, ApiError::too_many());
    };
    let caller = caller(&request, &service, &id);
    let evaluate = async {
        let tenant = enabled(&service, &db, &id).await?;
        let knowledge = tenant.knowledge();
        let question = Question { db: db.clone(), tenant, user, caller };
        match service.answers.blocks(&question).await {
            Ok(answer) => Ok((answer, knowledge)),
            Err(error) => {
                if error.verdict() == Verdict::Unusable {
                    service.tenants.recheck(&db, &id).await?;
                }
                Err(ApiError::Store(error))
            }
        }
    };
    let failure = match timeout(DEADLINE, evaluate).await {
        Ok(Ok((answer, knowledge))) => {
            let findings = answer.findings();
            let blocks = findings.iter().filter_map(Block::of).collect();
            let mut response = answered(answer.basis, blocks);
            if knowledge != Knowledge::Complete {
                let value = HeaderValue::from_static(knowledge.name());
                response.headers_mut().insert(HeaderName::from_static(KNOWLEDGE), value);
            }
            return Ok(response);
        }
        Ok(Err(failure @ ApiError::Store(_))) => failure,
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            let text = "could not evaluate within the deadline".to_owned();
            ApiError::Text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    };
    error!(tenant = %id, user.id = %user, error = failure.cause(), "evaluation: failed for a patron");
    not_evaluated(&service, Basis::NotEvaluated, failure)
}

fn answered(basis: Basis, automated_patron_blocks: Vec<Block<'_>>) -> HttpResponse {
    figures().answer(basis);
    HttpResponse::Ok().insert_header((BASIS, basis.name())).json(Body { automated_patron_blocks })
}

/// Which of the two a library wants is its choice; both are counted.
fn not_evaluated(
    service: &Service,
    basis: Basis,
    failure: ApiError,
) -> Result<HttpResponse, ApiError> {
    match service.on_database_failure {
        OnDatabaseFailure::Open => Ok(answered(basis, Vec::new())),
        OnDatabaseFailure::Error => {
            figures().answer(basis);
            Err(failure)
        }
    }
}
