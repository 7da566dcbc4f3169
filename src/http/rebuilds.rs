//! `patron-blocks-operations`: rebuilds, asked for, looked at, applied and ended.

use actix_web::{HttpRequest, HttpResponse, http::header::LOCATION, web::Path};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    ApiError,
    body::Sent,
    described,
    error::Violation,
    query::part,
    record::Record,
    request::{Desk, caller, path_id},
};
use crate::{
    flow::rebuild::{Ask, Source, told_patron, told_rebuild},
    store::{self, differences, rebuilds},
};

/// `POST /patron-blocks/rebuilds`
#[utoipa::path(
    post,
    path = "/patron-blocks/rebuilds",
    operation_id = "postRebuild",
    summary = "Rebuild what is known of patrons from a source, beside what is live",
    request_body(content = described::RebuildRequest, content_type = "application/json"),
    responses(
        (
            status = 201,
            body = described::Rebuild,
            description = "It is asked for, and will be worked on",
            headers(("Location" = String, description = "Where it is told of")),
        ),
        described::Invalid,
        described::Common,
        described::Unread,
    ),
)]
pub(super) async fn post(sent: Sent, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let Sent { desk, body } = sent;
    let body = Record::read(&request, &body)?.into_value();
    let ask = Ask::read(&body).map_err(|refused| {
        let value = body.get(refused.field).map(Value::to_string).unwrap_or_default();
        ApiError::from(Violation::own(refused.to_string(), refused.field, value))
    })?;
    let by = desk.acting_user.as_deref().unwrap_or("unknown");
    let id = desk.service.rebuilds.ask(&desk.db, &desk.tenant, &ask, by).await?;
    if ask.source == Source::Storage {
        let tenant = &desk.tenant.id;
        let caller = caller(&request, &desk.service, tenant);
        desk.service.rebuilds.bring_token(tenant.clone(), Some(id), caller);
    }
    let asked = find(&desk, id).await?;
    let location = (LOCATION, format!("/patron-blocks/rebuilds/{id}"));
    Ok(HttpResponse::Created().insert_header(location).json(told_rebuild(&asked)))
}

/// `GET /patron-blocks/rebuilds`
#[utoipa::path(
    get,
    path = "/patron-blocks/rebuilds",
    operation_id = "listRebuilds",
    summary = "Rebuilds, the newest first",
    params(described::Part),
    responses(
        (status = 200, body = described::Rebuilds, description = "Found"),
        described::Common,
    ),
)]
pub(super) async fn list(desk: Desk, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let (limit, offset) = part(&request)?;
    let id = &desk.tenant.id;
    let found = store::read(&desk.db, async |db| rebuilds::list(db, id, limit, offset).await);
    let (page, total) = found.await?;
    let page: Vec<Value> = page.iter().map(told_rebuild).collect();
    Ok(HttpResponse::Ok().json(json!({ "rebuilds": page, "totalRecords": total })))
}

/// `GET /patron-blocks/rebuilds/{id}`
#[utoipa::path(
    get,
    path = "/patron-blocks/rebuilds/{id}",
    operation_id = "getRebuild",
    summary = "How far a rebuild is",
    params(("id" = Uuid, Path, description = "The rebuild")),
    responses(
        (status = 200, body = described::Rebuild, description = "Found"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn get(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let found = find(&desk, id_of(&path)?).await?;
    Ok(HttpResponse::Ok().json(told_rebuild(&found)))
}

/// `GET /patron-blocks/rebuilds/{id}/differences`
#[utoipa::path(
    get,
    path = "/patron-blocks/rebuilds/{id}/differences",
    operation_id = "listDifferences",
    summary = "What a rebuild has found to be different, by patron, the most first",
    params(("id" = Uuid, Path, description = "The rebuild"), described::Part),
    responses(
        (status = 200, body = described::Differences, description = "Found"),
        described::NotFound,
        described::Common,
    ),
)]
pub(super) async fn differences(
    desk: Desk,
    request: HttpRequest,
    path: Path<String>,
) -> Result<HttpResponse, ApiError> {
    let (limit, offset) = part(&request)?;
    let id = find(&desk, id_of(&path)?).await?.id;
    let schema = &desk.tenant.schema;
    let (patrons, differences, total) = store::read(&desk.db, async |db| {
        let patrons = differences::patrons(&mut *db, schema, id, limit, offset).await?;
        let users: Vec<Uuid> = patrons.iter().map(|patron| patron.user_id).collect();
        let differences = differences::of_patrons(&mut *db, schema, id, &users).await?;
        Ok((patrons, differences, differences::summary(db, schema, id).await?.patrons))
    })
    .await?;
    let told: Vec<Value> = patrons.iter().map(|patron| told_patron(patron, &differences)).collect();
    Ok(HttpResponse::Ok().json(json!({ "patrons": told, "totalRecords": total })))
}

/// `POST /patron-blocks/rebuilds/{id}/apply`
#[utoipa::path(
    post,
    path = "/patron-blocks/rebuilds/{id}/apply",
    operation_id = "applyRebuild",
    summary = "Put right what a rebuild has found to be different",
    params(("id" = Uuid, Path, description = "The rebuild")),
    responses(
        (status = 202, body = described::Rebuild, description = "It will be worked on"),
        described::NotFound,
        described::Invalid,
        described::Common,
    ),
)]
pub(super) async fn apply(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = id_of(&path)?;
    let found = find(&desk, id).await?;
    if !rebuilds::apply(&desk.db, &desk.tenant.id, id).await? {
        let rule = "only a rebuild whose differences are known and not applied can be applied";
        return Err(Violation::own(rule, "status", found.status.name()).into());
    }
    desk.service.rebuilds.look();
    Ok(HttpResponse::Accepted().json(told_rebuild(&find(&desk, id).await?)))
}

/// `DELETE /patron-blocks/rebuilds/{id}`
#[utoipa::path(
    delete,
    path = "/patron-blocks/rebuilds/{id}",
    operation_id = "deleteRebuild",
    summary = "End a rebuild where it stands",
    params(("id" = Uuid, Path, description = "The rebuild")),
    responses(
        (status = 204, description = "It ends"),
        described::NotFound,
        described::Invalid,
        described::Common,
    ),
)]
pub(super) async fn delete(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let id = id_of(&path)?;
    let found = find(&desk, id).await?;
    if !rebuilds::cancel(&desk.db, &desk.tenant.id, id).await? {
        let rule = "a rebuild that has ended can't be ended";
        return Err(Violation::own(rule, "status", found.status.name()).into());
    }
    desk.service.rebuilds.look();
    Ok(HttpResponse::NoContent().finish())
}

fn id_of(path: &str) -> Result<Uuid, ApiError> {
    path_id(path, || ApiError::not_found(format!("No rebuild {}", path.escape_default())))
}

async fn find(desk: &Desk, id: Uuid) -> Result<rebuilds::Rebuild, ApiError> {
    let tenant = &desk.tenant.id;
    let found = store::read(&desk.db, async |db| rebuilds::find(db, tenant, id).await).await?;
    found.ok_or_else(|| ApiError::not_found(format!("No rebuild {id}")))
}
