//! Rebuilds: start one, watch it, read its differences in words, apply or cancel it.

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
};
use crate::{
    clock,
    http::{
        ApiError,
        extract::{
            paging::{number, parameter},
            tenant::path_id,
        },
    },
    services::{
        operator_actions::{Act, ActEnd, Action},
        rebuild::{RebuildRequest, Source, differences_of_patron},
    },
    store::{
        self,
        jobs::{self, Job, JobKind, Status},
        rebuild::{
            differences,
            rebuilds::{self, Progress, Summary},
        },
    },
};

/// Rebuilds on a page.
const PAGE_REBUILDS: i64 = 50;

/// Patrons with differences on a page.
const PAGE_PATRONS: i64 = 50;

#[derive(Template)]
#[template(path = "rebuilds.html")]
struct ListPage {
    shell: Shell,
    rows: Vec<Row>,
    total: i64,
    may_request: bool,
    /// Whether a rebuild can use the token of the reader.
    has_token: bool,
    user: String,
}

struct Row {
    id: String,
    requested_at: String,
    requested_by: String,
    what: String,
    status: String,
}

#[derive(Template)]
#[template(path = "rebuild.html")]
struct RebuildPage {
    shell: Shell,
    row: Row,
    progress: Option<String>,
    /// Sentences about the result.
    sentences: Vec<String>,
    problems: Vec<String>,
    patrons: Vec<PatronRow>,
    patron_count: i64,
    previous: Option<i64>,
    next: Option<i64>,
    may_apply: bool,
    may_cancel: bool,
}

struct PatronRow {
    id: Uuid,
    lines: Vec<String>,
    blocks: String,
    is_applied: bool,
}

/// The form of a new rebuild.
#[derive(Debug, Deserialize)]
pub(super) struct RequestForm {
    source: String,
    from: String,
    /// The id of a patron; empty for the whole tenant.
    user: String,
    reason: String,
}

/// Returns the list, newest rebuilds first, with the form of a new rebuild.
pub(super) async fn list(visit: Visit) -> Result<HttpResponse, PageError> {
    let user = parameter(visit.request(), "user").map_err(|error| visit.failed(error))?;
    let load = async {
        let id = &visit.tenant.id;
        let list = async |db: &mut store::Connection| {
            jobs::list(db, JobKind::Rebuild, id, PAGE_REBUILDS, 0).await
        };
        let (jobs, total) = store::read(&visit.db, list).await?;
        Ok::<_, ApiError>(ListPage {
            shell: visit.shell("rebuilds").await,
            rows: jobs.iter().map(|job| Row::new(visit.texts, job)).collect(),
            total,
            may_request: visit.may(Action::RequestRebuild),
            has_token: visit.has_gateway,
            user: user.unwrap_or_default(),
        })
    };
    visit.render(load).await
}

/// Requests a rebuild that ends with its differences. An operator applies them on its page.
pub(super) async fn request(
    submission: Submission<RequestForm>,
) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(Action::RequestRebuild, &form.reason)?;
    let request = form.to_request(visit.texts).map_err(|error| visit.failed(error))?;
    if request.source == Source::Storage && !visit.has_gateway {
        return Err(visit.invalid("error.storageToken"));
    }
    let act =
        Act::on_tenant(Action::RequestRebuild).with_detail(json!({ "request": request.to_json() }));
    let (state, tenant, by) = (visit.state.clone(), visit.tenant.clone(), operator.name.clone());
    let caller = visit.caller.clone();
    let work = async move {
        let id = state.rebuilds.request(&state.operators.db(), &tenant, &request, &by).await?;
        if request.source == Source::Storage {
            state.rebuilds.add_token(tenant.id.clone(), Some(id), caller);
        }
        Ok(id)
    };
    let end_of = |id: &Uuid| ActEnd::done(json!({ "rebuildId": id }));
    let (number, id) = visit.act(operator, act, work, end_of).await?;
    Ok(visit.redirect_after(&format!("rebuilds/{id}"), number))
}

/// Returns the page of one rebuild.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let id = rebuild_id(&visit)?;
    let offset = || number("offset", parameter(visit.request(), "offset")?, 0);
    let offset = offset().map_err(|error| visit.failed(error))?;
    let load = async {
        let (tenant, schema) = (&visit.tenant.id, &visit.tenant.schema);
        let read = async |db: &mut store::Connection| {
            let job = jobs::find(&mut *db, JobKind::Rebuild, tenant, id).await?;
            let range = (PAGE_PATRONS, offset);
            let patrons = differences::list_patrons(&mut *db, schema, id, range.0, range.1).await?;
            let users: Vec<Uuid> = patrons.iter().map(|patron| patron.user_id).collect();
            let found = differences::list_of_patrons(&mut *db, schema, id, &users).await?;
            let count = differences::summarize(db, schema, id).await?.patrons;
            Ok((job, patrons, found, count))
        };
        let (job, patrons, found, patron_count) = store::read(&visit.db, read).await?;
        let texts = visit.texts;
        let job = job.ok_or_else(|| ApiError::not_found(texts.text("error.noRebuild")))?;
        let patrons = patrons
            .iter()
            .map(|patron| PatronRow {
                id: patron.user_id,
                lines: differences_of_patron(patron, &found)
                    .iter()
                    .map(|difference| rebuild_words::difference(texts, difference))
                    .collect(),
                blocks: rebuild_words::blocks(texts, patron),
                is_applied: patron.applied_at.is_some(),
            })
            .collect();
        let summary = Summary::from_job(&job)?;
        let progress = Progress::from_job(&job)?;
        let end = offset + PAGE_PATRONS;
        Ok::<_, ApiError>(RebuildPage {
            shell: visit.shell("rebuilds").await,
            progress: rebuild_words::progress(texts, job.status, &progress),
            sentences: rebuild_words::result(texts, &job, summary.as_ref()),
            problems: job.error.iter().chain(&job.messages).cloned().collect(),
            patrons,
            patron_count,
            previous: (offset > 0).then(|| (offset - PAGE_PATRONS).max(0)),
            next: (end < patron_count).then_some(end),
            may_apply: job.status == Status::Compared && visit.may(Action::ApplyRebuild),
            may_cancel: !job.status.has_ended() && visit.may(Action::CancelRebuild),
            row: Row::new(texts, &job),
        })
    };
    visit.render(load).await
}

/// Applies the differences of a rebuild.
pub(super) async fn apply(submission: Submission<ReasonForm>) -> Result<HttpResponse, PageError> {
    change(submission, Action::ApplyRebuild).await
}

/// Cancels a rebuild.
pub(super) async fn cancel(submission: Submission<ReasonForm>) -> Result<HttpResponse, PageError> {
    change(submission, Action::CancelRebuild).await
}

async fn change(
    submission: Submission<ReasonForm>,
    action: Action,
) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(action, &form.reason)?;
    let id = rebuild_id(&visit)?;
    let (state, tenant) = (visit.state.clone(), visit.tenant.clone());
    let work = async move {
        let db = state.operators.db();
        let is_changed = match action {
            Action::ApplyRebuild => rebuilds::request_apply(&db, &tenant.id, id).await?,
            _ => rebuilds::cancel(&db, &tenant.id, id).await?,
        };
        state.rebuilds.wake_workers();
        let rule = match action {
            Action::ApplyRebuild => "error.onlyComparedApplies",
            _ => "error.endedRebuild",
        };
        is_changed.then_some(()).ok_or_else(|| {
            ApiError::Text(StatusCode::CONFLICT, Texts::english().text(rule).to_owned())
        })
    };
    let (number, ()) =
        visit.act(operator, Act::on(action, id), work, |()| ActEnd::done(json!({}))).await?;
    Ok(visit.redirect_after(&format!("rebuilds/{id}"), number))
}

fn rebuild_id(visit: &Visit) -> Result<Uuid, PageError> {
    let not_a_uuid = || ApiError::bad_request(visit.texts.text("error.rebuildId"));
    path_id(visit.path_part("id"), not_a_uuid).map_err(|error| visit.failed(error))
}

impl RequestForm {
    fn to_request(&self, texts: &'static Texts) -> Result<RebuildRequest, ApiError> {
        let mut body = json!({ "source": self.source, "dryRun": true });
        if !self.from.trim().is_empty() {
            body["from"] = json!(self.from.trim());
        }
        if !self.user.trim().is_empty() {
            (body["scope"], body["userId"]) = (json!("user"), json!(self.user.trim()));
        }
        RebuildRequest::from_json(&body).map_err(|refused| {
            ApiError::bad_request(texts.fill("error.rebuildRequest", &[("rule", &refused)]))
        })
    }
}

impl Row {
    fn new(texts: &'static Texts, job: &Job) -> Self {
        Self {
            id: job.id.to_string(),
            requested_at: clock::format_instant(job.requested_at),
            requested_by: job.requested_by.clone(),
            what: rebuild_words::request(texts, &job.request),
            status: rebuild_words::status(texts, job.status).to_owned(),
        }
    }
}
