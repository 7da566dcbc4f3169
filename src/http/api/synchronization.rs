//! Synchronisation with the storage modules (docs/contract/http-api.md#8-synchronization): a rebuild from
//! these modules, under the names of the existing interface. The rebuild runs when the timer supplies a
//! token.

use actix_web::{HttpRequest, HttpResponse, web::Path};
use serde_json::{Map, Value, json};
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
    services::rebuild::RebuildRequest,
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
    request_body(content = openapi::SynchronizationRequest, content_type = "application/json"),
    responses(
        (status = 201, body = openapi::Synchronization, description = "Created; the synchronization waits for the timer"),
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
    let by = context.acting_user.as_deref().unwrap_or("unknown");
    let id =
        context.state.rebuilds.request(&context.db, &context.tenant, &rebuild_request, by).await?;
    let mut job = Map::from_iter([
        ("id".to_owned(), json!(id)),
        ("scope".to_owned(), json!(scope_name(rebuild_request.scope.patron()))),
        ("status".to_owned(), json!("open")),
        ("errors".to_owned(), json!([])),
    ]);
    job.extend(rebuild_request.scope.patron().map(|user| ("userId".to_owned(), json!(user))));
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
        (status = 200, body = openapi::Synchronization, description = "Found"),
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
    let job = found.as_ref().and_then(to_job).ok_or_else(unknown)?;
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

fn scope_name(user: Option<Uuid>) -> &'static str {
    if user.is_some() { "user" } else { "full" }
}

/// Converts a rebuild from the storage modules to a job. Returns `None` for a rebuild from another source.
fn to_job(rebuild: &Job) -> Option<Value> {
    let request = &rebuild.request;
    if request["source"] != "storage" {
        return None;
    }
    let status = match rebuild.status {
        Status::Waiting => "open",
        Status::Done => "done",
        Status::Failed | Status::Cancelled => "failed",
        _ => "in-progress",
    };
    let user = request.get("userId");
    let errors: Vec<&String> = rebuild.messages.iter().chain(&rebuild.error).collect();
    let mut job = json!({
        "id": rebuild.id,
        "scope": if user.is_some() { "user" } else { "full" },
        "status": status,
        "totalNumberOfLoans": 0,
        "totalNumberOfFeesFines": 0,
        "numberOfProcessedLoans": rebuild.loans_read,
        "numberOfProcessedFeesFines": rebuild.fees_fines_read,
        "errors": errors,
    });
    if let Some(user) = user {
        job["userId"] = user.clone();
    }
    Some(job)
}
