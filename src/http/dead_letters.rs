//! `patron-blocks-operations`: dead letters, shown, tried again and thrown away, one or by query.

use actix_web::{HttpRequest, HttpResponse, web::Path};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, json};

use super::{
    ApiError,
    paging::Page,
    query,
    request::{Desk, path_id},
};
use crate::{
    flow::redrive::Outcome,
    store::{
        self,
        dead_letters::{self, Filter, Parked},
    },
};

/// `GET /patron-blocks/dead-letters`
pub(super) async fn list(desk: Desk, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let Page { offset, limit } = Page::of(&request)?;
    let (filter, schema) = (filter(&request)?, &desk.tenant.schema);
    let (page, total) = store::read(&desk.db, async |db| {
        let page = dead_letters::list(&mut *db, schema, &filter, None, limit, offset).await?;
        Ok((page, dead_letters::count(db, schema, &filter).await?))
    })
    .await?;
    let page: Vec<Value> = page.iter().map(body).collect();
    Ok(HttpResponse::Ok().json(json!({ "deadLetters": page, "totalRecords": total })))
}

/// `GET /patron-blocks/dead-letters/{id}`
pub(super) async fn get(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    Ok(HttpResponse::Ok().json(body(&find(&desk, &path).await?)))
}

/// `POST /patron-blocks/dead-letters/{id}/retry`: 204, or 422 with the reason why it is parked still.
pub(super) async fn retry(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let letter = find(&desk, &path).await?;
    let id = letter.id.to_string();
    match desk.service.redrive.retry(letter).await? {
        Outcome::Applied => Ok(HttpResponse::NoContent().finish()),
        Outcome::StillParked(why) => Err(super::error::Violation::own(why, "id", id).into()),
    }
}

/// `POST /patron-blocks/dead-letters/retry?query=…`
pub(super) async fn retry_all(desk: Desk, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let filter = required(&request)?;
    let report = desk.service.redrive.retry_all(&desk.tenant.schema, &filter).await?;
    Ok(HttpResponse::Ok().json(report))
}

/// `DELETE /patron-blocks/dead-letters/{id}`
pub(super) async fn discard(desk: Desk, path: Path<String>) -> Result<HttpResponse, ApiError> {
    let letter = find(&desk, &path).await?;
    throw_away(&desk, &Filter::default(), Some(letter.id)).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /patron-blocks/dead-letters?query=…`
pub(super) async fn discard_all(
    desk: Desk,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let filter = required(&request)?;
    let discarded = throw_away(&desk, &filter, None).await?;
    Ok(HttpResponse::Ok().json(json!({ "discarded": discarded })))
}

/// Which letters the query means; all of them where there is none.
fn filter(request: &HttpRequest) -> Result<Filter, ApiError> {
    let members = query::equalities(request, &["reason", "topic", "partition", "field"])?;
    let mut filter = Filter::default();
    for (member, value) in members.unwrap_or_default() {
        match member {
            "reason" => filter.reason = Some(value),
            "topic" => filter.topic = Some(value),
            "field" => filter.field = Some(value),
            _ => {
                let number = value.parse();
                let rule = "partition must be a number";
                filter.partition = Some(number.map_err(|_| ApiError::bad_request(rule))?);
            }
        }
    }
    Ok(filter)
}

/// As [`filter`], for what changes many letters at once: that must be meant.
fn required(request: &HttpRequest) -> Result<Filter, ApiError> {
    if super::paging::parameter(request, "query")?.is_none_or(|query| query.trim().is_empty()) {
        let rule = "query is required here; cql.allRecords=1 means all dead letters";
        return Err(ApiError::bad_request(rule));
    }
    filter(request)
}

async fn throw_away(
    desk: &Desk,
    filter: &Filter,
    id: Option<uuid::Uuid>,
) -> Result<u64, store::Error> {
    let by = desk.acting_user.as_deref().unwrap_or("unknown");
    desk.service.redrive.discard(&desk.tenant.schema, filter, id, by).await
}

async fn find(desk: &Desk, id: &str) -> Result<Parked, ApiError> {
    let id = path_id(id, || ApiError::bad_request("the dead letter's id is not a UUID"))?;
    let schema = &desk.tenant.schema;
    let found = store::read(&desk.db, async |db| dead_letters::find(db, schema, id).await).await?;
    found.ok_or_else(|| ApiError::not_found(format!("No dead letter {id}")))
}

/// The bytes are told as text where they are text, else in base64.
fn body(letter: &Parked) -> Value {
    let record = &letter.record;
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => json!({ "text": text }),
        Err(_) => json!({ "base64": BASE64_STANDARD.encode(bytes) }),
    };
    let headers = record
        .headers
        .iter()
        .map(|(name, value)| json!({ "name": name, "value": String::from_utf8_lossy(value) }));
    json!({
        "id": letter.id,
        "reason": letter.reason,
        "field": letter.field,
        "rule": letter.rule,
        "topic": &*record.place.topic,
        "partition": record.place.partition,
        "offset": record.place.offset,
        "recordAt": record.timestamp,
        "receivedAt": letter.received_at,
        "key": record.key.as_deref().map(text),
        "headers": headers.collect::<Vec<_>>(),
        "payload": record.payload.as_deref().map(text),
    })
}
