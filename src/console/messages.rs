//! Messages: block events that wait to be sent, and exports of all summaries.

use actix_web::{HttpResponse, http::StatusCode};
use askama::Template;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::{
    acts::{ReasonForm, Submission},
    rebuild_words,
    response::PageError,
    shell::Shell,
    texts::Texts,
    visit::Visit,
    words,
};
use crate::{
    clock,
    http::{ApiError, extract::tenant::path_id},
    services::operator_actions::{Act, ActEnd, Action},
    store::{
        self,
        messages::{
            exports::{self, ExportRequest, SummaryExport},
            pending_patrons::{self, PendingCounts},
        },
    },
};

/// Exports on the page.
const PAGE_EXPORTS: i64 = 50;

/// Type of the events of an export that the page starts.
const EVENT_TYPE: &str = "ITERATE";

#[derive(Template)]
#[template(path = "messages.html")]
struct MessagesPage {
    shell: Shell,
    /// Sentences about block events.
    sentences: Vec<String>,
    rows: Vec<Row>,
    may_request: bool,
}

struct Row {
    id: String,
    requested_at: String,
    requested_by: String,
    topic: String,
    progress: String,
    status: &'static str,
    may_cancel: bool,
}

/// The form of a new export.
#[derive(Debug, Deserialize)]
pub(super) struct ExportForm {
    topic: String,
    reason: String,
}

/// Returns the page.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let (schema, id, now) = (&visit.tenant.schema, &visit.tenant.id, visit.state.clock.now());
        let read = async |db: &mut store::Connection| {
            let pending = pending_patrons::count_pending(&mut *db, schema, now).await?;
            Ok((pending, exports::list(db, id, PAGE_EXPORTS, 0).await?.0))
        };
        let (pending, found) = store::read(&visit.db, read).await?;
        let may_cancel = visit.may(Action::CancelExport);
        let row = |export| Row::new(visit.texts, export, may_cancel);
        Ok::<_, ApiError>(MessagesPage {
            shell: visit.shell("messages").await,
            sentences: sentences(visit.texts, &pending, visit.state.block_events.is_enabled(), now),
            rows: found.into_iter().map(row).collect(),
            may_request: visit.may(Action::RequestExport),
        })
    };
    visit.render(load).await
}

/// Requests an export of the summaries of all patrons.
pub(super) async fn request(submission: Submission<ExportForm>) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(Action::RequestExport, &form.reason)?;
    let state = visit.state.clone();
    let named = form.topic.trim();
    let resolved =
        state.environment.resolve_topic(&visit.tenant.id, state.collection.as_ref(), named);
    let invalid = |rule: String| {
        let text = visit.texts.fill("error.topic", &[("rule", &rule)]);
        visit.failed(ApiError::bad_request(text))
    };
    let topic = resolved.map_err(invalid)?;
    if state.summary_exports.topic_exists(&topic).await == Some(false) {
        return Err(visit.invalid("error.noSuchTopic"));
    }
    let event_type = EVENT_TYPE.to_owned();
    let act = Act::on(Action::RequestExport, &topic);
    let request = ExportRequest { topic, event_type, patron_group: None, changed_since: None };
    let (tenant, by) = (visit.tenant.id.clone(), operator.name.clone());
    let work = async move {
        let db = state.operators.db();
        Ok(state.summary_exports.request(&db, &tenant, &request, &by).await?)
    };
    let end_of = |export: &SummaryExport| ActEnd::done(json!({ "exportId": export.job.id }));
    let (number, _) = visit.act(operator, act, work, end_of).await?;
    Ok(visit.redirect_after("messages", number))
}

/// Cancels an export.
pub(super) async fn cancel(submission: Submission<ReasonForm>) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(Action::CancelExport, &form.reason)?;
    let not_a_uuid = || ApiError::bad_request(visit.texts.text("error.exportId"));
    let id: Uuid =
        path_id(visit.path_part("id"), not_a_uuid).map_err(|error| visit.failed(error))?;
    let (state, tenant) = (visit.state.clone(), visit.tenant.id.clone());
    let work = async move {
        let is_cancelled = exports::cancel(&state.operators.db(), &tenant, id).await?;
        let rule = Texts::english().text("error.noExportRuns").to_owned();
        is_cancelled.then_some(()).ok_or(ApiError::Text(StatusCode::CONFLICT, rule))
    };
    let act = Act::on(Action::CancelExport, id);
    let (number, ()) = visit.act(operator, act, work, |()| ActEnd::done(json!({}))).await?;
    Ok(visit.redirect_after("messages", number))
}

/// Returns sentences about the block events that wait.
fn sentences(
    texts: &'static Texts,
    pending: &PendingCounts,
    is_enabled: bool,
    now: chrono::DateTime<chrono::Utc>,
) -> Vec<String> {
    if !is_enabled {
        return vec![texts.text("messages.off").to_owned()];
    }
    let patrons = pending.pending_patrons + pending.due_patrons;
    let mut sentences = vec![
        texts.fill("messages.patronsWait", &[("count", &patrons)]),
        texts.fill("messages.messagesWait", &[("count", &pending.unsent_messages)]),
    ];
    if let Some(oldest) = pending.oldest_unsent {
        let age = words::age(texts, oldest, now);
        sentences.push(texts.fill("messages.oldest", &[("age", &age)]));
    }
    sentences
}

impl Row {
    fn new(texts: &'static Texts, export: SummaryExport, may_cancel: bool) -> Self {
        let SummaryExport { job, request, progress } = export;
        let count = progress.published;
        let published = match progress.total {
            Some(total) => {
                texts.fill("messages.publishedOf", &[("count", &count), ("total", &total)])
            }
            None => texts.fill("messages.publishedOfUnknown", &[("count", &count)]),
        };
        Self {
            id: job.id.to_string(),
            requested_at: clock::format_instant(job.requested_at),
            may_cancel: may_cancel && !job.status.has_ended(),
            status: rebuild_words::status(texts, job.status),
            requested_by: job.requested_by,
            topic: request.topic,
            progress: published,
        }
    }
}
