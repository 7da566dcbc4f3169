//! `_tenant` 2.0: install, upgrade, disable and purge (http contract 7).

use std::sync::Arc;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::LOCATION,
    web::{Bytes, Path},
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{
    ApiError, described,
    record::Record,
    request::{path_id, shared, tenant_id},
};
use crate::{
    event::TenantId,
    flow::tenants::Tenant,
    store::{self, Db, tenant_jobs},
    telemetry::Chain,
};

/// `POST /_/tenant`. The work goes on when the client goes away.
#[utoipa::path(
    post,
    path = "/_/tenant",
    operation_id = "postTenant",
    summary = "Install, upgrade, disable or purge",
    request_body(content = described::TenantAttributes, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = described::TenantJob,
            description = "Installed or upgraded",
            headers(("Location" = String, description = "Where the job is")),
        ),
        (status = 204, description = "Disabled or purged"),
        (
            status = 400,
            body = String,
            content_type = "text/plain",
            description = "A tenant id that is none, a body that can't be read, or work that failed",
        ),
        described::TooLong,
    ),
)]
pub(super) async fn post(request: HttpRequest, body: Bytes) -> Result<HttpResponse, ApiError> {
    let tenant = tenant_id(&request)?;
    let attributes = Record::read(&request, &body)?;
    let text = |name| attributes.optional_string(name).map(|text| text.unwrap_or("").to_owned());
    let (module_to, module_from) = (text("module_to")?, text("module_from")?);
    let purge = attributes.get("purge").is_some_and(|purge| purge == true);
    let attributes = attributes.into_value();

    let (service, _) = shared(&request);
    let work = tokio::spawn({
        let (tenants, tenant, attributes) =
            (service.tenants.clone(), tenant.clone(), attributes.clone());
        async move {
            if !module_to.is_empty() {
                tenants.enable(&tenant, &module_to, &attributes).await.map(Some)
            } else if purge {
                tenants.purge(&tenant).await.map(|()| None)
            } else {
                tenants.disable(&tenant, &module_from).await.map(|()| None)
            }
        }
    });
    let failed = |text: String| ApiError::bad_request(text);
    let job = work.await.map_err(|error| failed(error.to_string()))?;
    let job = job.map_err(|error| failed(Chain(&error).to_string()))?;
    service.answers.policies.forget(&tenant).await;
    Ok(match job {
        Some(id) => HttpResponse::Created()
            .insert_header((LOCATION, format!("/_/tenant/{id}")))
            .json(job_body(id, &tenant, attributes, true)),
        None => HttpResponse::NoContent().finish(),
    })
}

fn job_body(id: Uuid, tenant: &TenantId, attributes: Value, complete: bool) -> Map<String, Value> {
    let mut body = Map::new();
    body.insert("id".to_owned(), json!(id));
    body.insert("tenant".to_owned(), json!(tenant.as_str()));
    body.insert("tenantAttributes".to_owned(), attributes);
    body.insert("complete".to_owned(), json!(complete));
    body
}

/// `GET /_/tenant/{id}`. A job has ended before its id is known, so there is nothing to `wait` for.
#[utoipa::path(
    get, path = "/_/tenant/{id}", operation_id = "getTenantJob", summary = "A job",
    params(
        ("id" = Uuid, Path, description = "The job"),
        (
            "wait" = inline(Option<u32>),
            Query,
            description = "Milliseconds to wait for its end, which has come already",
        ),
    ),
    responses(
        (status = 200, body = described::TenantJob, description = "Found"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn get(
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (db, tenant, id) = named(&request, &path).await?;
    let schema = &tenant.schema;
    let job = store::read(&db, async |db| tenant_jobs::find(db, schema, id).await).await?;
    let job = job.ok_or_else(|| unknown_job(id))?;
    let mut body = job_body(id, &tenant.id, job.tenant_attributes, job.complete);
    body.extend(job.error.map(|error| ("error".to_owned(), json!(error))));
    if job.messages.as_array().is_some_and(|messages| !messages.is_empty()) {
        body.insert("messages".to_owned(), job.messages);
    }
    Ok(HttpResponse::Ok().json(body))
}

/// `DELETE /_/tenant/{id}`
#[utoipa::path(
    delete, path = "/_/tenant/{id}", operation_id = "deleteTenantJob", summary = "Forget a job",
    params(
        ("id" = Uuid, Path, description = "The job"),
    ),
    responses(
        (status = 204, description = "Forgotten"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn delete(
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (db, tenant, id) = named(&request, &path).await?;
    if tenant_jobs::remove(&db, &tenant.schema, id).await? {
        Ok(HttpResponse::NoContent().finish())
    } else {
        Err(unknown_job(id))
    }
}

/// The tenant and the job that a request is about.
async fn named(request: &HttpRequest, path: &str) -> Result<(Db, Arc<Tenant>, Uuid), ApiError> {
    let id = path_id(path, || ApiError::bad_request("the job's id is not a UUID"))?;
    let tenant = tenant_id(request)?;
    let (service, db) = shared(request);
    let known = service.tenants.find(&tenant).await?;
    Ok((db, known.ok_or_else(|| unknown_tenant(&tenant))?, id))
}

fn unknown_tenant(tenant: &TenantId) -> ApiError {
    ApiError::not_found(format!("Tenant not found {tenant}"))
}

fn unknown_job(id: Uuid) -> ApiError {
    ApiError::not_found(format!("Job not found {id}"))
}
