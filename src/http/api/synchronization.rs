//! Synchronisation with the storage modules (docs/contract/http-api.md#8-synchronization): a rebuild from
//! these modules, under the names of the existing interface. The rebuild runs when the timer supplies a
//! token.

use actix_web::{HttpRequest, HttpResponse, web::Path};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    event::parse_uuid,
    http::{
        ApiError,
        error::Violation,
        extract::{
            body::JsonBody,
            record::Record,
            tenant::{TenantRequest, app_state, caller, path_id, tenant_id},
        },
        openapi,
    },
    patron::Scope,
    services::{
        operator_actions::{Act, ActEnd, Action},
        rebuild::RebuildRequest,
    },
    store::{
        self,
        jobs::{self, Job, JobKind, Status},
    },
};

/// Members of a job. The server sets every member except scope and user, and ignores the values of clients.
const JOB_MEMBERS: [&str; 10] = [
    "id",
    "scope",
    "userId",
    "status",
    "totalNumberOfLoans",
    "totalNumberOfFeesFines",
    "numberOfProcessedLoans",
    "numberOfProcessedFeesFines",
    "errors",
    "metadata",
];

/// Requests a comparison of patrons with the storage modules, and the correction of differences. The job
/// waits for the next call of the timer.
#[utoipa::path(
    post,
    path = "/automated-patron-blocks/synchronization/job",
    operation_id = "postSynchronizationJob",
    summary = "Create a synchronization with the storage modules",
    request_body(content = SynchronizationRequest, content_type = "application/json"),
    responses(
        (status = 201, body = Synchronization, description = "Created; the synchronization waits for the timer"),
        openapi::InvalidOrText,
        openapi::Common,
        openapi::BodyNotRead,
    ),
)]
pub(in crate::http) async fn post(
    json_body: JsonBody,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let JsonBody { context, body } = json_body;
    let record = Record::read(&request, &body)?;
    let rebuild_request = check(&record)?;
    let (rebuilds, by) = (&context.state.rebuilds, context.operator_name());
    let act = Act::on_tenant(Action::RequestSynchronization)
        .with_detail(json!({ "request": rebuild_request.to_json() }));
    let work =
        async { Ok(rebuilds.request(&context.db, &context.tenant, &rebuild_request, by).await?) };
    let id = context.record(act, work, |id| ActEnd::done(json!({ "rebuildId": id }))).await?;
    let job = Synchronization {
        id,
        scope: SynchronizationScope::new(rebuild_request.scope.patron()),
        user_id: rebuild_request.scope.patron(),
        status: SynchronizationStatus::Open,
        total_number_of_loans: None,
        total_number_of_fees_fines: None,
        number_of_processed_loans: None,
        number_of_processed_fees_fines: None,
        errors: Vec::new(),
    };
    Ok(HttpResponse::Created().json(job))
}

/// Returns one synchronisation with its progress.
#[utoipa::path(
    get,
    path = "/automated-patron-blocks/synchronization/job/{syncJobId}",
    operation_id = "getSynchronizationJob",
    summary = "Get a synchronization with its progress",
    params(("syncJobId" = Uuid, Path, description = "The job")),
    responses(
        (status = 200, body = Synchronization, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let unknown = || ApiError::not_found("This synchronization request does not exist");
    let (id, tenant) = (path_id(&path, unknown)?, &context.tenant.id);
    let found =
        store::read(&context.db, async |db| jobs::find(db, JobKind::Rebuild, tenant, id).await)
            .await?;
    let job = found.and_then(Synchronization::from_job).ok_or_else(unknown)?;
    Ok(HttpResponse::Ok().json(job))
}

/// Starts the tenant's longest waiting synchronisation, if there is one, with the token of this request. The
/// timer calls this path. The response is immediate, and the job runs in the background.
#[utoipa::path(
    post,
    path = "/automated-patron-blocks/synchronization/start",
    operation_id = "startSynchronization",
    summary = "Start the longest waiting synchronization; called by the timer",
    responses((status = 202, description = "Accepted for any tenant"), openapi::TenantMissing),
)]
pub(in crate::http) async fn start(request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let (service, _) = app_state(&request);
    let tenant = tenant_id(&request)?;
    // Only enabled tenants have rebuilds that wait for a token. A newly started instance may have to load the
    // tenant.
    let found = service.tenants.find_for_request(&service.operators.db(), &tenant).await;
    if matches!(found, Ok(Some(_))) {
        let caller = caller(&request, &service, &tenant);
        service.rebuilds.add_token(tenant, None, caller);
    }
    Ok(HttpResponse::Accepted().finish())
}

/// Checks the schema first, then the rule on the user.
fn check(record: &Record) -> Result<RebuildRequest, ApiError> {
    let unknown = record.0.keys().find(|member| !JOB_MEMBERS.contains(&member.as_str()));
    if let Some(member) = unknown {
        let rule = format!("{member} is not a member of a synchronization job");
        return Err(Violation::custom(rule, member, member_text(record, member)).into());
    }
    let text = |member: &str| record.get(member).map(|_| member_text(record, member));
    let user = match record.get("userId").and_then(Value::as_str) {
        Some(user) => Some(parse_uuid(user).ok_or_else(|| Violation::not_a_uuid("userId", user))?),
        None => match text("userId") {
            Some(sent) => return Err(Violation::not_a_uuid("userId", &sent).into()),
            None => None,
        },
    };
    match record.get("scope").map(Value::as_str) {
        None => Err(Violation::missing("scope").into()),
        Some(Some("full")) => Ok(RebuildRequest::synchronization(Scope::Tenant)),
        Some(Some("user")) => match user {
            Some(user) => Ok(RebuildRequest::synchronization(Scope::Patron(user))),
            None => Err(ApiError::Text(
                actix_web::http::StatusCode::UNPROCESSABLE_ENTITY,
                "UserId is required for synchronization job with scope: USER".to_owned(),
            )),
        },
        Some(_) => {
            let sent = member_text(record, "scope");
            Err(Violation::custom("scope must be user or full", "scope", sent).into())
        }
    }
}

fn member_text(record: &Record, member: &str) -> String {
    match record.0.get(member) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "null".to_owned(),
    }
}

/// Scope of a synchronisation.
#[derive(ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[expect(
    dead_code,
    reason = "`check` reads each member, because each violation has its own response"
)]
struct SynchronizationRequest {
    scope: SynchronizationScope,
    /// Required for scope `user`.
    user_id: Option<Uuid>,
    /// Ignored, like all following members: the server sets them.
    id: Option<Value>,
    status: Option<Value>,
    total_number_of_loans: Option<Value>,
    total_number_of_fees_fines: Option<Value>,
    number_of_processed_loans: Option<Value>,
    number_of_processed_fees_fines: Option<Value>,
    errors: Option<Value>,
    metadata: Option<Value>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum SynchronizationScope {
    User,
    Full,
}

impl SynchronizationScope {
    fn new(user: Option<Uuid>) -> Self {
        if user.is_some() { Self::User } else { Self::Full }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
enum SynchronizationStatus {
    Open,
    InProgress,
    Done,
    Failed,
}

impl From<Status> for SynchronizationStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Waiting => Self::Open,
            Status::Done => Self::Done,
            Status::Failed | Status::Cancelled => Self::Failed,
            _ => Self::InProgress,
        }
    }
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Synchronization {
    id: Uuid,
    scope: SynchronizationScope,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    user_id: Option<Uuid>,
    status: SynchronizationStatus,
    /// Always 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total_number_of_loans: Option<i32>,
    /// Always 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    total_number_of_fees_fines: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    number_of_processed_loans: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    number_of_processed_fees_fines: Option<i32>,
    /// Skipped records, rejected tokens, and the cause of a failure.
    errors: Vec<String>,
}

impl Synchronization {
    /// Converts a rebuild from the storage modules. Returns `None` for a rebuild from another source.
    fn from_job(rebuild: Job) -> Option<Self> {
        if rebuild.request["source"] != "storage" {
            return None;
        }
        let user_id = rebuild.request["userId"].as_str().and_then(|user| user.parse().ok());
        Some(Self {
            id: rebuild.id,
            scope: SynchronizationScope::new(user_id),
            user_id,
            status: rebuild.status.into(),
            total_number_of_loans: Some(0),
            total_number_of_fees_fines: Some(0),
            number_of_processed_loans: Some(rebuild.loans_read),
            number_of_processed_fees_fines: Some(rebuild.fees_fines_read),
            errors: rebuild.messages.into_iter().chain(rebuild.error).collect(),
        })
    }
}
