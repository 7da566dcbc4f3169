//! Discarded records: the dead letters that can be restored.

use std::time::Duration;

use actix_web::{HttpResponse, http::StatusCode};
use askama::Template;
use serde::Deserialize;
use serde_json::json;

use super::{
    acts::{ReasonForm, Submission},
    parked::record_id,
    response::PageError,
    shell::Shell,
    texts::Texts,
    visit::Visit,
    words,
};
use crate::{
    clock,
    http::ApiError,
    services::operator_actions::{Act, ActEnd, Action},
    store::{self, ingest::discarded_dead_letters},
};

/// Time limit of the act on all records.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest number of records on the page.
const ROWS_MAX: i64 = 200;

#[derive(Template)]
#[template(path = "discarded.html")]
struct DiscardedPage {
    shell: Shell,
    rows: Vec<Row>,
    total: i64,
    may_restore: bool,
    may_restore_all: bool,
}

/// The form that restores all records.
#[derive(Debug, Deserialize)]
pub(super) struct RestoreForm {
    /// The number of records that the operator typed.
    count: String,
    reason: String,
}

struct Row {
    id: String,
    discarded_at: String,
    reason: String,
    rule: String,
    place: String,
}

/// Returns the page.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let load = async {
        let schema = &visit.tenant.schema;
        let list = async |db: &mut store::Connection| {
            let rows = discarded_dead_letters::list(&mut *db, schema, ROWS_MAX).await?;
            Ok((rows, discarded_dead_letters::count(db, schema).await?))
        };
        let (rows, total) = store::read(&visit.db, list).await?;
        let rows = rows.into_iter().map(|head| Row {
            id: head.id.to_string(),
            discarded_at: clock::format_instant(head.discarded_at),
            reason: head.reason,
            rule: head.rule,
            place: words::place(visit.texts, &head.topic, head.partition, head.offset),
        });
        let (rows, may_restore) = (rows.collect(), visit.may(Action::RestoreRecord));
        let may_restore_all = visit.may(Action::RestoreRecords);
        let shell = visit.shell("parked").await;
        Ok::<_, ApiError>(DiscardedPage { shell, rows, total, may_restore, may_restore_all })
    };
    visit.render(load).await
}

/// Parks all discarded records again, in a step of some seconds.
pub(super) async fn restore_all(
    submission: Submission<RestoreForm>,
) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(Action::RestoreRecords, &form.reason)?;
    let count = form.count.trim().parse::<i64>().ok();
    let typed = count.ok_or_else(|| visit.invalid("error.count"))?;
    let schema = &visit.tenant.schema;
    let read = async |db: &mut store::Connection| discarded_dead_letters::count(db, schema).await;
    let total = visit.within(async { Ok(store::read(&visit.db, read).await?) }).await?;
    if total != typed {
        let text = visit.texts.fill("error.discardedNow", &[("count", &total)]);
        return Err(visit.failed(ApiError::Text(StatusCode::CONFLICT, text)));
    }
    let (state, tenant, by) = (visit.state.clone(), visit.tenant.clone(), operator.name.clone());
    let work =
        async move { Ok(state.redrive.restore_all(&tenant.schema, &by, STEP_TIMEOUT).await?) };
    let end_of = |(restored, _): &(usize, bool)| ActEnd::done(json!({ "restored": restored }));
    let act = Act::on_tenant(Action::RestoreRecords);
    let (number, (_, has_more)) = visit.act(operator, act, work, end_of).await?;
    Ok(visit.redirect_after(if has_more { "discarded" } else { "parked" }, number))
}

/// Parks one record again.
pub(super) async fn restore(submission: Submission<ReasonForm>) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let operator = visit.operator(Action::RestoreRecord, &form.reason)?;
    let id = record_id(&visit)?;
    let (state, tenant, by) = (visit.state.clone(), visit.tenant.clone(), operator.name.clone());
    let work = async move {
        let is_restored = state.redrive.restore(&tenant.schema, id, &by).await?;
        let unknown = || ApiError::not_found(Texts::english().text("error.notDiscarded"));
        is_restored.then_some(()).ok_or_else(unknown)
    };
    let act = Act::on(Action::RestoreRecord, id);
    let (number, ()) = visit.act(operator, act, work, |()| ActEnd::done(json!({}))).await?;
    Ok(visit.redirect_after(&format!("parked/{id}"), number))
}
