//! Lists and reads records of a collection (docs/contract/http-api.md#16-collections).

use actix_web::{HttpRequest, HttpResponse};
use serde_json::Value;

use crate::{
    http::{
        ApiError,
        error::{NOT_A_UUID, Violation},
        extract::{
            paging::Page,
            record::Record,
            tenant::{TenantRequest, path_id},
        },
    },
    store::{
        self,
        settings::records::{self, Collection},
    },
};

/// Maximum size of a record in bytes; the limit matters because unknown members are stored too.
const RECORD_BYTES_MAX: usize = 64 * 1024;

/// Parses a record, and checks that the database can store it.
pub(in crate::http) fn read(request: &HttpRequest, body: &[u8]) -> Result<Record, ApiError> {
    let record = Record::read(request, body)?;
    record.require_storable()?;
    if body.len() <= RECORD_BYTES_MAX {
        return Ok(record);
    }
    let rule = format!("must not be longer than {RECORD_BYTES_MAX} bytes");
    Err(Violation::custom(rule, "the body", body.len().to_string()).into())
}

/// Returns a page of records, and the number of all matching records.
pub(in crate::http) async fn list(
    context: &TenantRequest,
    request: &HttpRequest,
    collection: &Collection,
) -> Result<(Vec<Value>, i64), ApiError> {
    let Page { query, offset, limit } = Page::from_request(request)?;
    let (schema, search) = (&context.tenant.schema, &collection.search);
    let found = store::read(&context.db, async |db| {
        let page = match limit {
            0 => Vec::new(), // the client requests the count only
            _ => records::list(&mut *db, schema, collection, &query, (offset, limit)).await?,
        };
        Ok((page, records::count(db, schema, search, &query.condition).await?))
    });
    Ok(found.await?)
}

/// Returns one record, or 404.
pub(in crate::http) async fn get(
    context: &TenantRequest,
    id: &str,
    collection: &Collection,
) -> Result<HttpResponse, ApiError> {
    let id = path_id(id, || ApiError::not_found(NOT_A_UUID))?;
    let record = context
        .settings_writer()
        .find(collection, id)
        .await?
        .ok_or_else(|| ApiError::not_found("Not found"))?;
    Ok(HttpResponse::Ok().json(record))
}
