//! Parked records: the dead letters of a tenant, with the bytes as they arrived.

use actix_web::HttpResponse;
use askama::Template;

use super::{response::PageError, shell::Shell, visit::Visit};
use crate::{
    clock,
    http::{
        ApiError,
        extract::{
            paging::{number, parameter, query},
            tenant::path_id,
        },
    },
    store::{
        self,
        ingest::dead_letters::{self, DeadLetterHead, StoredDeadLetter},
        settings::records,
    },
};

/// Largest number of bytes of a payload on a page.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Number of records in a list.
const PAGE_ROWS: i64 = 100;

#[derive(Template)]
#[template(path = "parked.html")]
struct ListPage {
    shell: Shell,
    query: String,
    total: i64,
    rows: Vec<Row>,
    previous: Option<i64>,
    next: Option<i64>,
}

struct Row {
    id: String,
    received_at: String,
    reason: String,
    field: String,
    rule: String,
    place: String,
}

#[derive(Template)]
#[template(path = "parked_record.html")]
struct RecordPage {
    shell: Shell,
    row: Row,
    record_at: Option<String>,
    key: String,
    headers: Vec<(String, String)>,
    payload: String,
    payload_bytes: usize,
    is_cut: bool,
}

/// Returns the list. The parameters `query` and `offset` are those of the HTTP interface.
pub(super) async fn list(visit: Visit) -> Result<HttpResponse, PageError> {
    let parameters = || {
        let request = visit.request();
        let text = parameter(request, "query")?.unwrap_or_default();
        let offset = number("offset", parameter(request, "offset")?, 0)?;
        Ok::<_, ApiError>((text, query(request)?, offset))
    };
    let (text, query, offset) = parameters().map_err(|error| visit.failed(error))?;
    let load = async {
        let schema = &visit.tenant.schema;
        let (heads, total) = store::read(&visit.db, async |db| {
            let range = (offset, PAGE_ROWS);
            let heads = dead_letters::list(&mut *db, schema, &query, None, range).await?;
            let target = &dead_letters::SEARCH_TARGET;
            Ok((heads, records::count(db, schema, target, &query.condition).await?))
        })
        .await?;
        let end = offset + PAGE_ROWS;
        Ok::<_, ApiError>(ListPage {
            shell: visit.shell("parked").await,
            query: text,
            total,
            rows: heads.into_iter().map(Row::from).collect(),
            previous: (offset > 0).then(|| (offset - PAGE_ROWS).max(0)),
            next: (end < total).then_some(end),
        })
    };
    visit.render(load).await
}

/// Returns the page of one record.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let not_a_uuid = || ApiError::bad_request("The id of a parked record is a UUID.");
    let id = path_id(visit.path_part("id"), not_a_uuid).map_err(|error| visit.failed(error))?;
    let load = async {
        let schema = &visit.tenant.schema;
        let found =
            store::read(&visit.db, async |db| dead_letters::find(db, schema, id).await).await?;
        let letter = found.ok_or_else(|| {
            ApiError::not_found("No such record is parked. It was applied or discarded.")
        })?;
        Ok(RecordPage::new(visit.shell("parked").await, &letter))
    };
    visit.render(load).await
}

impl From<DeadLetterHead> for Row {
    fn from(head: DeadLetterHead) -> Self {
        Self {
            id: head.id.to_string(),
            received_at: clock::format_instant(head.received_at),
            reason: head.reason,
            field: head.field.unwrap_or_default(),
            rule: head.rule,
            place: format!("{}, partition {}, offset {}", head.topic, head.partition, head.offset),
        }
    }
}

impl RecordPage {
    fn new(shell: Shell, letter: &StoredDeadLetter) -> Self {
        let record = &letter.record;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let payload = record.payload.as_deref().unwrap_or_default();
        let shown = &payload[..payload.len().min(PAYLOAD_BYTES_MAX)];
        let headers = record.headers.iter().map(|(name, value)| (name.clone(), text(value)));
        Self {
            shell,
            row: Row::from(letter.head()),
            record_at: record.timestamp.map(clock::format_instant),
            key: record.key.as_deref().map_or_else(|| "none".to_owned(), text),
            headers: headers.collect(),
            payload: text(shown),
            payload_bytes: payload.len(),
            is_cut: shown.len() < payload.len(),
        }
    }
}
