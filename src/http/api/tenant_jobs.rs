//! `_tenant` 2.0: install, upgrade, disable and purge (docs/contract/http-api.md#7-tenants).

use std::{collections::HashMap, time::Duration};

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use serde::Serialize;
use serde_json::Value;
use tokio::time::timeout;
use tracing::warn;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    event::TenantId,
    http::{
        ApiError, AppState,
        extract::{
            body::TimedBody,
            paging::{number, parameter},
            record::Record,
            tenant::{app_state, caller, path_id, tenant_id},
        },
        openapi,
    },
    logging::ErrorChain,
    services::tenant_lifecycle::jobs::module_to,
    store::{
        self,
        jobs::{self, Job, JobKind},
    },
};

/// Wait for the end of a new job: a client receives a short job as complete, without a second request.
const COMPLETION_WAIT: Duration = Duration::from_secs(2);

/// Maximum wait of one request for the end of a job.
const CLIENT_WAIT_MAX: Duration = Duration::from_secs(60);

/// With `module_to`, enables or upgrades the tenant. Without `module_to`, disables the tenant, and deletes
/// its data if `purge` is true. If `complete` is false in the response, the job continues in the background.
#[utoipa::path(
    post,
    path = "/_/tenant",
    operation_id = "postTenant",
    summary = "Install, upgrade, disable or purge a tenant",
    request_body(content = TenantAttributes, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = Body,
            description = "Installed or upgraded; if complete is false, the job still runs",
            headers(("Location" = String, description = "Path of the job")),
        ),
        (status = 204, description = "Disabled or purged"),
        (
            status = 400,
            body = String,
            content_type = "text/plain",
            description = "An invalid tenant id, an invalid body, or a failed job",
        ),
        openapi::BodyNotRead,
    ),
)]
pub(in crate::http) async fn post(
    request: HttpRequest,
    TimedBody(body): TimedBody,
) -> Result<HttpResponse, ApiError> {
    let tenant = tenant_id(&request)?;
    let attributes = Record::read(&request, &body)?;
    attributes.require_storable()?;
    attributes.optional_string("module_to")?;
    let module_from = attributes.optional_string("module_from")?.unwrap_or_default().to_owned();
    let purge = attributes.optional_boolean("purge")?.unwrap_or_default();
    attributes.optional_objects("parameters")?;
    let attributes = attributes.into_value();
    let (service, _) = app_state(&request);
    let permit = service.operators.try_acquire().ok_or_else(ApiError::overloaded)?;
    let failed = |error: &store::Error| ApiError::bad_request(ErrorChain(error).to_string());
    if module_to(&attributes).is_empty() {
        let (tenants, id) = (service.tenants.clone(), tenant.clone());
        // The work continues if the client disconnects.
        let work = tokio::spawn(async move {
            let _permit = permit;
            if purge { tenants.purge(&id).await } else { tenants.disable(&id, &module_from).await }
        });
        let done = work.await.map_err(|error| ApiError::bad_request(error.to_string()))?;
        service.evaluator.policies.invalidate(&tenant);
        done.map_err(|error| failed(&error))?;
        return Ok(HttpResponse::NoContent().finish());
    }
    let tenant_jobs = &service.tenant_jobs;
    let caller = caller(&request, &service, &tenant);
    let started = tenant_jobs.start(&tenant, &attributes, caller).await;
    let id = started.map_err(|error| match error.verdict() {
        store::Verdict::Refused => ApiError::from_record_error(error),
        _ => failed(&error),
    })?;
    let db = service.operators.db();
    let find = tenant_jobs.find(&db, &tenant, id, COMPLETION_WAIT);
    let found = match timeout(COMPLETION_WAIT, find).await {
        Ok(Ok(job)) => Some(job.ok_or_else(|| job_not_found(id))?),
        Ok(Err(error)) => {
            warn!(%tenant, tenant.job = %id, error = %ErrorChain(&error), "tenant job: could not read its status for the response; the job continues");
            None
        }
        Err(_) => None,
    };
    service.evaluator.policies.invalidate(&tenant);
    // The job runs even if its status is unknown, so the client needs its location.
    let body = found.map(Body::from_job).unwrap_or_else(|| Body {
        id,
        tenant: tenant.to_string(),
        tenant_attributes: attributes,
        complete: false,
        error: None,
        messages: Vec::new(),
    });
    Ok(HttpResponse::Created().insert_header((LOCATION, format!("/_/tenant/{id}"))).json(body))
}

/// Enable or upgrade to `module_to`, or disable `module_from`. Additional members are stored with the job.
#[derive(ToSchema)]
#[expect(dead_code, reason = "the job stores and returns the request unchanged")]
struct TenantAttributes {
    module_to: Option<String>,
    module_from: Option<String>,
    purge: Option<bool>,
    parameters: Option<Vec<HashMap<String, Value>>>,
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schema(as = TenantJob)]
struct Body {
    id: Uuid,
    tenant: String,
    #[schema(value_type = TenantAttributes)]
    tenant_attributes: Value,
    complete: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    error: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    messages: Vec<String>,
}

impl Body {
    fn from_job(job: Job) -> Self {
        Self {
            id: job.id,
            tenant: job.tenant.to_string(),
            tenant_attributes: job.request,
            complete: job.status.has_ended(),
            error: job.error,
            messages: job.messages,
        }
    }
}

/// Returns a job, at once or when the job has ended, but after `wait` milliseconds at the latest.
#[utoipa::path(
    get, path = "/_/tenant/{id}", operation_id = "getTenantJob", summary = "Get a job",
    params(
        ("id" = Uuid, Path, description = "The job"),
        (
            "wait" = inline(Option<u32>),
            Query,
            description = "Maximum time to wait for the end of the job, in milliseconds",
        ),
    ),
    responses(
        (status = 200, body = Body, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (tenant, id) = tenant_and_job_id(&request, &path)?;
    let (service, _) = app_state(&request);
    let _pass = service.operators.try_acquire().ok_or_else(ApiError::overloaded)?;
    let wait = number("wait", parameter(&request, "wait")?, 0)?;
    let wait = Duration::from_millis(wait.unsigned_abs()).min(CLIENT_WAIT_MAX);
    match service.tenant_jobs.find(&service.operators.db(), &tenant, id, wait).await? {
        Some(job) => Ok(HttpResponse::Ok().json(Body::from_job(job))),
        None => Err(job_or_tenant_not_found(&service, &tenant, id).await?),
    }
}

/// Deletes the record of a job.
#[utoipa::path(
    delete, path = "/_/tenant/{id}", operation_id = "deleteTenantJob", summary = "Delete a job",
    params(
        ("id" = Uuid, Path, description = "The job"),
    ),
    responses(
        (status = 204, description = "Deleted"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn delete(
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (tenant, id) = tenant_and_job_id(&request, &path)?;
    let (service, _) = app_state(&request);
    let _pass = service.operators.try_acquire().ok_or_else(ApiError::overloaded)?;
    if jobs::delete(&service.operators.db(), JobKind::Tenant, &tenant, id).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(job_or_tenant_not_found(&service, &tenant, id).await?)
    }
}

/// Returns the tenant and the job that a request names.
fn tenant_and_job_id(request: &HttpRequest, path: &str) -> Result<(TenantId, Uuid), ApiError> {
    let id = path_id(path, || ApiError::bad_request("the job's id is not a UUID"))?;
    Ok((tenant_id(request)?, id))
}

/// Returns the error for a missing job, or for an unknown tenant.
async fn job_or_tenant_not_found(
    service: &AppState,
    tenant: &TenantId,
    id: Uuid,
) -> Result<ApiError, ApiError> {
    let tenant_entry = service.tenants.find_for_request(&service.operators.db(), tenant).await?;
    Ok(match tenant_entry {
        Some(_) => job_not_found(id),
        None => ApiError::not_found(format!("Tenant not found {tenant}")),
    })
}

fn job_not_found(id: Uuid) -> ApiError {
    ApiError::not_found(format!("Job not found {id}"))
}
