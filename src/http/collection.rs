//! Reading a collection of JSON records: a page of it, or one record (http contract 1.6).

use actix_web::{HttpRequest, HttpResponse};
use serde_json::json;

use super::{
    ApiError,
    error::NOT_A_UUID,
    paging::Page,
    request::{Desk, path_id},
};
use crate::store::{
    self,
    records::{self, Collection},
};

/// A page under `name`, with the total.
pub(super) async fn list(
    desk: &Desk,
    request: &HttpRequest,
    collection: &Collection,
    name: &str,
) -> Result<HttpResponse, ApiError> {
    let Page { offset, limit } = Page::of(request)?;
    let schema = &desk.tenant.schema;
    let (page, total) = store::read(async || {
        let page = records::list(&desk.db, schema, collection, offset, limit).await?;
        Ok::<_, store::Error>((page, records::count(&desk.db, schema, collection).await?))
    })
    .await?;
    Ok(HttpResponse::Ok().json(json!({ name: page, "totalRecords": total })))
}

/// One record.
pub(super) async fn get(
    desk: &Desk,
    id: &str,
    collection: &Collection,
) -> Result<HttpResponse, ApiError> {
    let id = path_id(id, || ApiError::not_found(NOT_A_UUID))?;
    let schema = &desk.tenant.schema;
    let found = store::read(async || records::find(&desk.db, schema, collection, id).await).await?;
    let record = found.ok_or_else(|| ApiError::not_found("Not found"))?;
    Ok(HttpResponse::Ok().json(record))
}
