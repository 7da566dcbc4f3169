//! `automated-patron-blocks`: the evaluation of one patron.

use std::{
    borrow::Cow,
    cell::RefCell,
    pin::pin,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse,
    http::{
        StatusCode,
        header::{HeaderName, HeaderValue},
    },
    web::Path,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;
use tracing::error;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    blocks::{
        Actions, Certainty, CertaintyState, Finding, Limit, Measure, Measures, decimal_to_json,
    },
    clock,
    config::DatabaseFailureMode,
    http::{
        ApiError, AppState,
        extract::{
            paging::parameter,
            tenant::{app_state, caller, enabled_tenant, load_limit, path_patron, tenant_id},
        },
        openapi,
    },
    services::{
        evaluation::{AnswerSource, Evaluation, EvaluationRequest},
        metrics::metrics,
    },
    store::{Verdict, tenants::Completeness},
};

/// Maximum time of an evaluation; mod-circulation times out after 20 s.
const EVALUATION_TIMEOUT: Duration = Duration::from_secs(8);

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
    /// Id of the limit, so that each block has an id of its own; absent if the certainty policy blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    id: Option<Uuid>,
    /// Absent if the certainty policy blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    patron_block_condition_id: Option<Uuid>,
    block_borrowing: bool,
    block_renewals: bool,
    block_requests: bool,
    /// The message of the condition with the numbers of the patron.
    message: Cow<'a, str>,
    /// Dates of the limit, by which screens sort blocks; absent if the limit has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    metadata: Option<BlockMetadata<'a>>,
    /// Only on request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    explanation: Option<BlockNumbers>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BlockMetadata<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    created_date: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    updated_date: Option<&'a str>,
}

/// The numbers of one block.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BlockNumbers {
    #[schema(value_type = f64)]
    measured: Value,
    limit: f64,
    /// Loans to return so that the limit blocks no action; absent for a balance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    to_return: Option<i64>,
    /// Amount to pay so that the limit blocks no action; only for a balance.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = Option<f64>)]
    to_settle: Option<Value>,
}

impl<'a> Block<'a> {
    /// Converts a finding to a block, or returns `None` if the finding blocks no action.
    fn new(finding: &'a Finding<'_>, measures: &Measures, is_explained: bool) -> Option<Self> {
        let Actions { borrowing, renewals, requests } = finding.blocked;
        (!finding.blocked.is_empty()).then(|| Self {
            id: Some(finding.limit.id),
            patron_block_condition_id: Some(finding.condition.id),
            block_borrowing: borrowing,
            block_renewals: renewals,
            block_requests: requests,
            message: finding.message(measures),
            metadata: BlockMetadata::of(finding.limit),
            explanation: is_explained.then(|| BlockNumbers::new(finding, measures)).flatten(),
        })
    }
}

impl<'a> Block<'a> {
    /// Creates the block of the certainty policy; `None` if the policy blocks no action.
    fn of_policy(blocked: Actions, message: &'a str) -> Option<Self> {
        let Actions { borrowing, renewals, requests } = blocked;
        (!blocked.is_empty()).then_some(Self {
            id: None,
            patron_block_condition_id: None,
            block_borrowing: borrowing,
            block_renewals: renewals,
            block_requests: requests,
            message: Cow::Borrowed(message),
            metadata: None,
            explanation: None,
        })
    }
}

impl<'a> BlockMetadata<'a> {
    fn of(limit: &'a Limit) -> Option<Self> {
        let (created, updated) = (&limit.created_date, &limit.updated_date);
        (created.is_some() || updated.is_some())
            .then_some(Self { created_date: created.as_deref(), updated_date: updated.as_deref() })
    }
}

impl BlockNumbers {
    fn new(finding: &Finding<'_>, measures: &Measures) -> Option<Self> {
        let is_balance = finding.measure() == Some(Measure::FeeFineBalance);
        Some(Self {
            measured: finding.measured?.to_json(),
            limit: finding.limit.value?,
            to_return: (!is_balance).then(|| finding.loans_to_return(measures)),
            to_settle: is_balance.then(|| decimal_to_json(finding.amount_to_pay(measures))),
        })
    }
}

/// Header with the origin of the patron group, or with the cause of a missing evaluation.
const BASIS_HEADER: &str = "X-Patron-Blocks-Basis";

/// Header with the completeness of the tenant's history; absent if the history is complete.
const COMPLETENESS_HEADER: &str = "x-patron-blocks-completeness";

/// Headers with the certainty of the evaluation, the instant that the evaluation reflects, and what the certainty
/// policy did (docs/contract/insight.md#6-certainty).
const CERTAINTY_HEADER: HeaderName = HeaderName::from_static("x-patron-blocks-certainty");
const AS_OF_HEADER: HeaderName = HeaderName::from_static("x-patron-blocks-as-of");
const POLICY_HEADER: HeaderName = HeaderName::from_static("x-patron-blocks-policy");

/// Evaluates a patron, and returns the conditions that block an action at this moment
/// (docs/contract/http-api.md#2-blocks).
#[utoipa::path(
    get,
    path = "/automated-patron-blocks/{userId}",
    operation_id = "getAutomatedPatronBlocks",
    summary = "Get the automated blocks of a patron",
    params(
        ("userId" = Uuid, Path, description = "The patron"),
        (
            "include" = Option<String>, Query,
            description = "`explanation` adds the numbers to each block; other values have no effect",
        ),
    ),
    responses(
        (
            status = 200,
            body = Body,
            description = "Found",
            headers(
                ("X-Patron-Blocks-Basis" = String,
                    description = "Origin of the patron group, or cause of a missing evaluation"),
                ("X-Patron-Blocks-Completeness" = String,
                    description = "`filling` or `incomplete` if events of the tenant may be missing"),
                ("X-Patron-Blocks-Certainty" = String,
                    description = "`certain`, `late`, `incomplete`, `doubtful` or `unknown`"),
                ("X-Patron-Blocks-As-Of" = String,
                    description = "Instant up to which all events are applied, if it is known"),
                ("X-Patron-Blocks-Policy" = String,
                    description = "What the certainty policy did; absent if it did nothing"),
            ),
        ),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let began = Instant::now();
    let id = tenant_id(&request)?;
    let user = path_patron(&path)?;
    let (service, db) = app_state(&request);
    let Some(_permit) = load_limit(&request).try_acquire() else {
        return not_evaluated_response(&service, AnswerSource::Overloaded, ApiError::overloaded());
    };
    let caller = caller(&request, &service, &id);
    let is_explained = includes_explanation(&request);
    // Pinned here, because a move of the future copies some kilobytes for every answer.
    let evaluate = pin!(async {
        let tenant = enabled_tenant(&service, &db, &id).await?;
        let completeness = tenant.completeness();
        let evaluation_request = EvaluationRequest { db: db.clone(), tenant, user, caller };
        match service.evaluator.evaluate(&evaluation_request, is_explained).await {
            Ok(answer) => Ok((answer, completeness)),
            Err(error) => {
                if error.verdict() == Verdict::Unusable {
                    service.tenants.recheck(&db, &id).await?;
                }
                Err(ApiError::Store(error))
            }
        }
    });
    let failure = match timeout(EVALUATION_TIMEOUT, evaluate).await {
        Ok(Ok((answer, completeness))) => {
            service.evaluator.counts.record(&id, answer.certainty().state, service.clock.now());
            let response = answer_response(&answer, completeness, is_explained);
            record_time(&service, began);
            return Ok(response);
        }
        Ok(Err(failure @ ApiError::Store(_))) => failure,
        Ok(Err(error)) => return Err(error),
        Err(_) => {
            let text = "could not evaluate within the deadline".to_owned();
            ApiError::Text(StatusCode::INTERNAL_SERVER_ERROR, text)
        }
    };
    record_time(&service, began);
    error!(tenant = %id, user.id = %user, error = failure.cause(), "evaluation: failed for a patron");
    not_evaluated_response(&service, AnswerSource::NotEvaluated, failure)
}

/// Records the time of an evaluation, also of a failed one.
fn record_time(service: &AppState, began: Instant) {
    let took = began.elapsed();
    metrics().record_evaluation_time(took);
    service.evaluator.latencies.record(took, service.clock.now());
}

/// Returns whether the request asks for numbers. An unknown parameter fails no check-out.
fn includes_explanation(request: &HttpRequest) -> bool {
    let query = request.query_string();
    !query.is_empty()
        && parameter(request, "include").is_ok_and(|value| value.as_deref() == Some("explanation"))
}

fn answer_response(
    answer: &Evaluation,
    completeness: Completeness,
    is_explained: bool,
) -> HttpResponse {
    let mut findings = answer.findings();
    let added = answer.reactions.apply(&mut findings);
    let blocks = findings
        .iter()
        .filter_map(|finding| Block::new(finding, &answer.measures, is_explained))
        .chain(Block::of_policy(added, &answer.settings.policy.message))
        .collect();
    let mut response = blocks_response(answer.source, answer.certainty(), blocks);
    let headers = response.headers_mut();
    if completeness != Completeness::Complete {
        let name = HeaderName::from_static(COMPLETENESS_HEADER);
        headers.insert(name, HeaderValue::from_static(completeness.name()));
    }
    if let Some(policy) = answer.policy_outcome()
        && let Ok(value) = HeaderValue::try_from(policy)
    {
        headers.insert(POLICY_HEADER, value);
    }
    response
}

/// Formats the instant of an evaluation. It changes once a second, so each thread formats it once a second.
fn as_of_value(as_of: DateTime<Utc>) -> HeaderValue {
    thread_local! {
        static LAST: RefCell<Option<(DateTime<Utc>, HeaderValue)>> = const { RefCell::new(None) };
    }
    LAST.with_borrow_mut(|last| match last {
        Some((at, value)) if *at == as_of => value.clone(),
        _ => {
            let value = HeaderValue::try_from(clock::format_instant(as_of))
                .expect("a formatted instant has printable ASCII characters only");
            *last = Some((as_of, value.clone()));
            value
        }
    })
}

fn blocks_response(
    basis: AnswerSource,
    certainty: Certainty,
    automated_patron_blocks: Vec<Block<'_>>,
) -> HttpResponse {
    metrics().record_evaluation(basis, certainty.state);
    let mut response = HttpResponse::Ok();
    response.insert_header((BASIS_HEADER, basis.name()));
    response.insert_header((CERTAINTY_HEADER, certainty.state.name()));
    if let Some(as_of) = certainty.as_of {
        response.insert_header((AS_OF_HEADER, as_of_value(as_of)));
    }
    response.json(Body { automated_patron_blocks })
}

/// Returns no blocks or the failure, as `on_database_failure` configures; the metrics count either response.
fn not_evaluated_response(
    service: &AppState,
    basis: AnswerSource,
    failure: ApiError,
) -> Result<HttpResponse, ApiError> {
    match service.on_database_failure {
        DatabaseFailureMode::Open => Ok(blocks_response(basis, Certainty::UNKNOWN, Vec::new())),
        DatabaseFailureMode::Error => {
            metrics().record_evaluation(basis, CertaintyState::Unknown);
            Err(failure)
        }
    }
}
