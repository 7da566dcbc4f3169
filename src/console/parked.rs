//! Parked records: the dead letters of a tenant, with the bytes as they arrived.

use std::collections::{BTreeSet, HashMap};

use actix_web::HttpResponse;
use askama::Template;
use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::Uuid;

use super::{
    acts::{ReasonForm, Submission},
    home::{self, COUNTED_MAX},
    response::PageError,
    shell::Shell,
    texts::Texts,
    visit::Visit,
    words,
};
use crate::{
    clock,
    http::{
        ApiError,
        extract::{
            paging::{number, parameter, query},
            tenant::path_id,
        },
    },
    services::{
        evaluation::{known_blocks::known_blocks, policy::Policy},
        ingest::dead_letters::RetryOutcome,
        operator_actions::{Act, ActEnd, Action},
    },
    store::{
        self, Schema,
        ingest::dead_letters::{self, DeadLetterHead, StoredDeadLetter},
        settings::records,
        state::subjects,
    },
};

/// Largest number of bytes of a payload on a page.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// Largest number of bytes of a key or a header on a page.
const TEXT_BYTES_MAX: usize = 4 * 1024;

/// Number of records in a list.
const PAGE_ROWS: i64 = 100;

#[derive(Template)]
#[template(path = "parked.html")]
struct ListPage {
    shell: Shell,
    query: String,
    has_records: bool,
    /// The number of matching records in words.
    total: String,
    /// What the records of this page mean for patrons.
    summary: String,
    rows: Vec<Row>,
    previous: Option<i64>,
    next: Option<i64>,
    may_retry: bool,
    may_discard: bool,
}

struct Row {
    id: String,
    received_at: String,
    reason: String,
    field: String,
    rule: String,
    place: String,
    patrons: Vec<NamedPatron>,
}

/// A patron whom a parked record names.
#[derive(Clone)]
struct NamedPatron {
    id: Uuid,
    is_blocked: bool,
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
    may_retry: bool,
    may_discard: bool,
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
        let (schema, now) = (&visit.tenant.schema, visit.state.clock.now());
        let policy = visit.state.evaluator.policies.get_unshared(&visit.db, &visit.tenant).await?;
        let (mut heads, total, named) = store::read(&visit.db, async |db| {
            // One more record shows whether there is a next page.
            let range = (offset, PAGE_ROWS + 1);
            let heads = dead_letters::list_newest(&mut *db, schema, &query, range).await?;
            let (target, condition) = (&dead_letters::SEARCH_TARGET, &query.condition);
            let total =
                records::count_up_to(&mut *db, schema, target, condition, COUNTED_MAX).await?;
            let named = named_patrons(db, schema, &policy, &heads, now).await?;
            Ok((heads, total, named))
        })
        .await?;
        let has_next = heads.len() > PAGE_ROWS as usize;
        heads.truncate(PAGE_ROWS as usize);
        let mut rows: Vec<Row> =
            heads.into_iter().map(|head| Row::new(visit.texts, head, &named)).collect();
        if query.sort.is_empty() {
            // Blocked patrons first, and the records of one patron together. The sort keeps the order otherwise.
            let key = |row: &Row| row.patrons.first().map(|patron| (!patron.is_blocked, patron.id));
            rows.sort_by_key(|row| (key(row).is_none(), key(row)));
        }
        Ok::<_, ApiError>(ListPage {
            shell: visit.shell("parked").await,
            query: text,
            has_records: total > 0,
            total: home::parked_records(visit.texts, total),
            summary: summarize(visit.texts, &rows),
            rows,
            previous: (offset > 0).then(|| (offset - PAGE_ROWS).max(0)),
            next: has_next.then_some(offset + PAGE_ROWS),
            may_retry: visit.may(Action::RetryRecords),
            may_discard: visit.may(Action::DiscardRecords),
        })
    };
    visit.render(load).await
}

type NamedPatrons = HashMap<Uuid, Vec<NamedPatron>>;

/// Returns the patrons whom each record names.
async fn named_patrons(
    db: &mut store::Connection,
    schema: &Schema,
    policy: &Policy,
    heads: &[DeadLetterHead],
    now: DateTime<Utc>,
) -> Result<NamedPatrons, store::Error> {
    let ids: Vec<Uuid> = heads.iter().map(|head| head.id).collect();
    let pairs = subjects::patrons_of_dead_letters(&mut *db, schema, &ids).await?;
    let users: BTreeSet<Uuid> = pairs.iter().map(|(_, user)| *user).collect();
    let users: Vec<Uuid> = users.into_iter().collect();
    let blocks = known_blocks(db, schema, policy, &users, now).await?;
    let mut named = NamedPatrons::new();
    for (letter, id) in pairs {
        let is_blocked = blocks.get(&id).is_some_and(|blocked| !blocked.is_empty());
        named.entry(letter).or_default().push(NamedPatron { id, is_blocked });
    }
    Ok(named)
}

/// Returns a sentence about the patrons of the records on a page.
fn summarize(texts: &'static Texts, rows: &[Row]) -> String {
    let all = rows.iter().flat_map(|row| &row.patrons);
    let patrons: HashMap<Uuid, bool> = all.map(|patron| (patron.id, patron.is_blocked)).collect();
    let blocked = patrons.values().filter(|is_blocked| **is_blocked).count();
    let (records, patrons) = (rows.len(), patrons.len());
    texts.fill(
        "parked.summary",
        &[("records", &records), ("patrons", &patrons), ("blocked", &blocked)],
    )
}

/// Returns the page of one record.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let id = record_id(&visit)?;
    let load = async {
        let schema = &visit.tenant.schema;
        let found =
            store::read(&visit.db, async |db| dead_letters::find(db, schema, id).await).await?;
        let letter = found.ok_or_else(not_parked)?;
        let mut page = RecordPage::new(visit.shell("parked").await, &letter);
        page.may_retry = visit.may(Action::RetryRecord);
        page.may_discard = visit.may(Action::DiscardRecord);
        Ok(page)
    };
    visit.render(load).await
}

/// Applies one record again.
pub(super) async fn retry(submission: Submission<ReasonForm>) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(Action::RetryRecord, &form.reason)?;
    let id = record_id(&visit)?;
    let (state, tenant, db) = (visit.state.clone(), visit.tenant.clone(), visit.db.clone());
    let work = async move {
        let find =
            async |db: &mut store::Connection| dead_letters::find(db, &tenant.schema, id).await;
        let letter = store::read(&db, find).await?.ok_or_else(not_parked)?;
        Ok(state.redrive.retry_with_timeout(letter).await?)
    };
    let act = Act::on(Action::RetryRecord, id);
    let (number, outcome) = visit.act(operator, act, work, RetryOutcome::act_end).await?;
    Ok(match outcome {
        RetryOutcome::Applied => visit.redirect_after("parked", number),
        RetryOutcome::StillParked(_) => visit.redirect_after(&format!("parked/{id}"), number),
    })
}

/// Discards one record.
pub(super) async fn discard(submission: Submission<ReasonForm>) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(Action::DiscardRecord, &form.reason)?;
    let id = record_id(&visit)?;
    let (state, tenant, by) = (visit.state.clone(), visit.tenant.clone(), operator.name.clone());
    let work = async move {
        let is_discarded = state.redrive.discard(&tenant.schema, id, &by).await?;
        if is_discarded { Ok(()) } else { Err(not_parked()) }
    };
    let act = Act::on(Action::DiscardRecord, id);
    let (number, ()) = visit.act(operator, act, work, |()| ActEnd::done(json!({}))).await?;
    Ok(visit.redirect_after("discarded", number))
}

/// Returns the id of the record in the path.
pub(super) fn record_id(visit: &Visit) -> Result<Uuid, PageError> {
    let not_a_uuid = || ApiError::bad_request(visit.texts.text("error.recordId"));
    path_id(visit.path_part("id"), not_a_uuid).map_err(|error| visit.failed(error))
}

fn not_parked() -> ApiError {
    ApiError::not_found(Texts::english().text("error.notParked"))
}

impl Row {
    fn new(texts: &'static Texts, head: DeadLetterHead, named: &NamedPatrons) -> Self {
        Self {
            patrons: named.get(&head.id).cloned().unwrap_or_default(),
            id: head.id.to_string(),
            received_at: clock::format_instant(head.received_at),
            reason: head.reason,
            field: head.field.unwrap_or_default(),
            rule: head.rule,
            place: words::place(texts, &head.topic, head.partition, head.offset),
        }
    }
}

impl RecordPage {
    fn new(shell: Shell, letter: &StoredDeadLetter) -> Self {
        let (texts, record) = (shell.texts, &letter.record);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let payload = record.payload.as_deref().unwrap_or_default();
        let shown = &payload[..payload.len().min(PAYLOAD_BYTES_MAX)];
        let short = |bytes: &[u8]| text(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]);
        let headers = record.headers.iter().map(|(name, value)| (name.clone(), short(value)));
        Self {
            shell,
            row: Row::new(texts, letter.head(), &NamedPatrons::new()),
            record_at: record.timestamp.map(clock::format_instant),
            key: record.key.as_deref().map_or_else(|| texts.text("parked.noKey").to_owned(), short),
            headers: headers.collect(),
            payload: text(shown),
            payload_bytes: payload.len(),
            is_cut: shown.len() < payload.len(),
            may_retry: false,
            may_discard: false,
        }
    }
}
