//! `patron-blocks-operations`: requests, shows, applies and cancels rebuilds.

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use serde_json::{Value, json};
use uuid::Uuid;

use super::rebuild_bodies::{self, Differences, DifferingPatron, Rebuild, Rebuilds};
use crate::{
    http::{
        ApiError,
        error::Violation,
        extract::{
            body::JsonBody,
            paging::list_range,
            record::Record,
            tenant::{TenantRequest, caller, path_id},
        },
        openapi,
    },
    services::{
        operator_actions::{Act, ActEnd, Action},
        rebuild::{RebuildRequest, Source},
    },
    store::{
        self,
        jobs::{self, Job, JobKind},
        rebuild::{differences, rebuilds},
    },
};

/// Requests a rebuild, which runs in the background. With source `storage`, the rebuild uses the token of
/// this request.
#[utoipa::path(
    post,
    path = "/patron-blocks/rebuilds",
    operation_id = "postRebuild",
    summary = "Create a rebuild of the state of patrons from a source",
    request_body(content = rebuild_bodies::RebuildRequest, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = Rebuild,
            description = "Created; the rebuild runs in the background",
            headers(("Location" = String, description = "Path of the job")),
        ),
        openapi::Invalid,
        openapi::Common,
        openapi::BodyNotRead,
    ),
)]
pub(in crate::http) async fn post(
    json_body: JsonBody,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let JsonBody { context, body } = json_body;
    let body = Value::Object(Record::read(&request, &body)?.0);
    let rebuild_request = RebuildRequest::from_json(&body).map_err(|refused| {
        let value = body.get(refused.field).map(Value::to_string).unwrap_or_default();
        ApiError::from(Violation::custom(refused.to_string(), refused.field, value))
    })?;
    let (rebuilds, by) = (&context.state.rebuilds, context.operator_name());
    let act = Act::on_tenant(Action::RequestRebuild)
        .with_detail(json!({ "request": rebuild_request.to_json() }));
    let work =
        async { Ok(rebuilds.request(&context.db, &context.tenant, &rebuild_request, by).await?) };
    let id = context.record(act, work, |id| ActEnd::done(json!({ "rebuildId": id }))).await?;
    if rebuild_request.source == Source::Storage {
        let tenant = &context.tenant.id;
        let caller = caller(&request, &context.state, tenant);
        context.state.rebuilds.add_token(tenant.clone(), Some(id), caller);
    }
    let rebuild = find(&context, id).await?;
    let location = (LOCATION, format!("/patron-blocks/rebuilds/{id}"));
    Ok(HttpResponse::Created().insert_header(location).json(Rebuild::from_job(rebuild)?))
}

/// Returns a page of rebuilds, newest first.
#[utoipa::path(
    get,
    path = "/patron-blocks/rebuilds",
    operation_id = "listRebuilds",
    summary = "List rebuilds, newest first",
    params(openapi::ListPaging),
    responses(
        (status = 200, body = Rebuilds, description = "Found"),
        openapi::Common,
    ),
)]
pub(in crate::http) async fn list(
    context: TenantRequest,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let (limit, offset) = list_range(&request)?;
    let id = &context.tenant.id;
    let found = store::read(&context.db, async |db| {
        jobs::list(db, JobKind::Rebuild, id, limit, offset).await
    });
    let (page, total_records) = found.await?;
    let rebuilds: Result<_, _> = page.into_iter().map(Rebuild::from_job).collect();
    Ok(HttpResponse::Ok().json(Rebuilds { rebuilds: rebuilds?, total_records }))
}

/// Returns one rebuild with its progress, its summary and its problems.
#[utoipa::path(
    get,
    path = "/patron-blocks/rebuilds/{id}",
    operation_id = "getRebuild",
    summary = "Get a rebuild with its progress",
    params(("id" = Uuid, Path, description = "The rebuild")),
    responses(
        (status = 200, body = Rebuild, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn get(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let found = find(&context, parse_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(Rebuild::from_job(found)?))
}

/// Returns a page of patrons with differences, ordered by number of differences.
#[utoipa::path(
    get,
    path = "/patron-blocks/rebuilds/{id}/differences",
    operation_id = "listDifferences",
    summary = "List the differences of a rebuild by patron, most differences first",
    params(("id" = Uuid, Path, description = "The rebuild"), openapi::ListPaging),
    responses(
        (status = 200, body = Differences, description = "Found"),
        openapi::NotFound,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn differences(
    context: TenantRequest,
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (limit, offset) = list_range(&request)?;
    let id = find(&context, parse_id(&path)?).await?.id;
    let schema = &context.tenant.schema;
    let (patrons, differences, total_records) = store::read(&context.db, async |db| {
        let patrons = differences::list_patrons(&mut *db, schema, id, limit, offset).await?;
        let users: Vec<Uuid> = patrons.iter().map(|patron| patron.user_id).collect();
        let differences = differences::list_of_patrons(&mut *db, schema, id, &users).await?;
        Ok((patrons, differences, differences::summarize(db, schema, id).await?.patrons))
    })
    .await?;
    let patrons = patrons.into_iter().map(|patron| DifferingPatron::new(patron, &differences));
    Ok(HttpResponse::Ok().json(Differences { patrons: patrons.collect(), total_records }))
}

/// Applies the differences of a rebuild with status `compared`. Returns 422 for any other status.
#[utoipa::path(
    post,
    path = "/patron-blocks/rebuilds/{id}/apply",
    operation_id = "applyRebuild",
    summary = "Apply the differences of a rebuild",
    params(("id" = Uuid, Path, description = "The rebuild")),
    responses(
        (status = 202, body = Rebuild, description = "Accepted; the differences are applied in the background"),
        openapi::NotFound,
        openapi::Invalid,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn apply(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = parse_id(&path)?;
    let found = find(&context, id).await?;
    let work = async {
        if rebuilds::request_apply(&context.db, &context.tenant.id, id).await? {
            return Ok(());
        }
        let rule = "only a rebuild with the status compared can be applied";
        Err(Violation::custom(rule, "status", found.status.name()).into())
    };
    let act = Act::on(Action::ApplyRebuild, id);
    context.record(act, work, |()| ActEnd::done(json!({}))).await?;
    context.state.rebuilds.wake_workers();
    Ok(HttpResponse::Accepted().json(Rebuild::from_job(find(&context, id).await?)?))
}

/// Cancels a rebuild; applied differences stay applied. Returns 422 if the rebuild has already ended.
#[utoipa::path(
    delete,
    path = "/patron-blocks/rebuilds/{id}",
    operation_id = "deleteRebuild",
    summary = "Cancel a rebuild",
    params(("id" = Uuid, Path, description = "The rebuild")),
    responses(
        (status = 204, description = "Cancelled"),
        openapi::NotFound,
        openapi::Invalid,
        openapi::Common,
    ),
)]
pub(in crate::http) async fn delete(
    context: TenantRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let id = parse_id(&path)?;
    let found = find(&context, id).await?;
    let work = async {
        if rebuilds::cancel(&context.db, &context.tenant.id, id).await? {
            return Ok(());
        }
        let rule = "a rebuild that has ended cannot be cancelled";
        Err(Violation::custom(rule, "status", found.status.name()).into())
    };
    let act = Act::on(Action::CancelRebuild, id);
    context.record(act, work, |()| ActEnd::done(json!({}))).await?;
    context.state.rebuilds.wake_workers();
    Ok(HttpResponse::NoContent().finish())
}

fn parse_id(path: &str) -> Result<Uuid, ApiError> {
    path_id(path, || ApiError::not_found(format!("No rebuild {}", path.escape_default())))
}

async fn find(context: &TenantRequest, id: Uuid) -> Result<Job, ApiError> {
    let tenant = &context.tenant.id;
    let found =
        store::read(&context.db, async |db| jobs::find(db, JobKind::Rebuild, tenant, id).await)
            .await?;
    found.ok_or_else(|| ApiError::not_found(format!("No rebuild {id}")))
}
