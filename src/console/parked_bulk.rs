//! Acts on all parked records that match a filter: a preview first, then steps of a few seconds, each an act of its
//! own. A page that the operator leaves starts no further step.

use std::time::Duration;

use actix_web::{HttpResponse, http::StatusCode};
use askama::Template;
use serde::Deserialize;
use uuid::Uuid;

use super::{
    acts::Submission, response::PageError, shell::Shell, texts::Texts, visit::Visit, words,
};
use crate::{
    clock,
    cql::{self, Condition},
    http::ApiError,
    services::{
        ingest::dead_letters::{DiscardReport, RetryReport, RetryScope},
        operator_actions::{Act, Action, Operator},
        retry_preview::{NamedPatrons, PatronChange, RetryPreview, named_patrons, preview_retry},
    },
    store::{self, ingest::dead_letters, settings::records},
};

/// Time limit of one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(5);

/// Largest number of patrons on the page of a preview.
const PATRONS_SHOWN_MAX: usize = 100;

/// What to do with all matching records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BulkAct {
    Retry,
    Discard,
}

impl BulkAct {
    fn from_name(visit: &Visit, name: &str) -> Result<Self, PageError> {
        let found = [Self::Retry, Self::Discard].into_iter().find(|act| act.name() == name);
        found.ok_or_else(|| visit.invalid("error.act"))
    }

    fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Discard => "discard",
        }
    }

    fn action(self) -> Action {
        match self {
            Self::Retry => Action::RetryRecords,
            Self::Discard => Action::DiscardRecords,
        }
    }
}

#[derive(Template)]
#[template(path = "parked_preview.html")]
struct PreviewPage {
    shell: Shell,
    act: &'static str,
    query: String,
    /// Records that were parked later are not concerned.
    until: String,
    total: i64,
    may_act: bool,
    /// Sentences about what would change.
    sentences: Vec<String>,
    /// The rules that records break, with the number of records, most frequent first.
    rejected: Vec<(String, usize)>,
    patrons: Vec<PatronRow>,
    patron_count: usize,
}

struct PatronRow {
    id: Uuid,
    before: String,
    after: String,
}

#[derive(Template)]
#[template(path = "parked_step.html")]
struct StepPage {
    shell: Shell,
    act: &'static str,
    query: String,
    until: String,
    after: String,
    reason: String,
    remaining: i64,
}

/// The form of a preview.
#[derive(Debug, Deserialize)]
pub(super) struct PreviewForm {
    act: String,
    query: String,
}

/// The form of a step.
#[derive(Debug, Deserialize)]
pub(super) struct BulkForm {
    act: String,
    query: String,
    /// Records that were parked later are not concerned, because no preview has shown them.
    until: String,
    /// The number of records that the operator typed.
    count: String,
    /// The last record of the step before; empty in the first step.
    after: String,
    reason: String,
}

/// The records of an act.
struct Selection {
    query: String,
    until: String,
}

impl Selection {
    /// Returns the condition of the records, only those with ids greater than `after` if given.
    fn condition(&self, after: Option<Uuid>) -> Result<Condition, ApiError> {
        let parse = |text: &str| {
            let parsed = cql::parse(text).map(|query| query.condition);
            parsed.map_err(|error| ApiError::bad_request(format!("query: {error}")))
        };
        let mut condition =
            parse(&self.query)?.and(parse(&format!("receivedAt <= \"{}\"", self.until))?);
        if let Some(after) = after {
            condition = condition.and(parse(&format!("id > \"{after}\""))?);
        }
        Ok(condition)
    }

    async fn count(&self, visit: &Visit, after: Option<Uuid>) -> Result<i64, ApiError> {
        let (schema, target) = (&visit.tenant.schema, &dead_letters::SEARCH_TARGET);
        let condition = &self.condition(after)?;
        let counted =
            store::read(&visit.db, async |db| records::count(db, schema, target, condition).await);
        Ok(counted.await?)
    }
}

/// Shows what an act would change. It changes nothing, but it locks rows for a moment, so it is a form and no link.
pub(super) async fn preview(
    submission: Submission<PreviewForm>,
) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let act = BulkAct::from_name(&visit, &form.act)?;
    visit.require(act.action())?;
    let load = async {
        let now = store::read(&visit.db, async |db| store::now(db).await).await?;
        let selection = Selection { query: form.query, until: clock::format_instant(now) };
        let total = selection.count(&visit, None).await?;
        let condition = selection.condition(None)?;
        let shell = visit.shell("parked").await;
        let page = PreviewPage::new(shell, act, selection, total);
        Ok::<_, ApiError>(match act {
            BulkAct::Retry => page.with_retry(preview_of_retry(&visit, condition).await?),
            BulkAct::Discard => {
                let now = visit.state.clock.now();
                let named = named_patrons(&visit.db, &visit.tenant, condition, now).await?;
                page.with_discard(named)
            }
        })
    };
    visit.render(load).await
}

/// Computes a preview on a connection of the operators, because it locks the rows that it would change. One preview at a
/// time is enough: others would wait for its locks.
async fn preview_of_retry(visit: &Visit, condition: Condition) -> Result<RetryPreview, ApiError> {
    let busy = || {
        let text = visit.texts.text("error.otherPreview").to_owned();
        ApiError::Text(StatusCode::SERVICE_UNAVAILABLE, text)
    };
    let _preview = visit.preview_permit.try_acquire().map_err(|_| busy())?;
    let _permit = visit.state.operators.try_acquire().ok_or_else(ApiError::overloaded)?;
    let (db, now) = (visit.state.operators.db(), visit.state.clock.now());
    let environment = &visit.state.environment;
    Ok(preview_retry(&db, environment, &visit.tenant, condition, now).await?)
}

/// Takes one step, and returns the page that offers the next one, or the list after the last one.
pub(super) async fn step(submission: Submission<BulkForm>) -> Result<HttpResponse, PageError> {
    let Submission { visit, form } = submission;
    let BulkForm { act, query, until, count, after, reason } = form;
    let act = BulkAct::from_name(&visit, &act)?;
    let operator = visit.operator(act.action(), &reason)?;
    let count = count.trim().parse::<i64>().ok();
    let typed = count.ok_or_else(|| visit.invalid("error.count"))?;
    let after = match &*after {
        "" => None,
        // The nil UUID is before all records: the step before ended without completing one.
        text => {
            let id = Uuid::parse_str(text);
            Some(id.map_err(|_| visit.invalid("error.after"))?)
        }
    };
    let is_instant = until.parse::<chrono::DateTime<chrono::Utc>>().is_ok();
    if !is_instant {
        return Err(visit.invalid("error.until"));
    }
    let selection = Selection { query, until };
    let matching = visit.within(selection.count(&visit, after)).await?;
    if matching != typed {
        let text =
            visit.texts.fill("error.otherCount", &[("matching", &matching), ("typed", &typed)]);
        return Err(visit.failed(ApiError::Text(StatusCode::CONFLICT, text)));
    }
    let condition = selection.condition(None).map_err(|error| visit.failed(error))?;
    let (number, next) = match act {
        BulkAct::Retry => retry(&visit, operator, condition, after).await?,
        BulkAct::Discard => discard(&visit, operator, condition).await?,
    };
    let Selection { query, until } = &selection;
    // A discarded record matches no more, whatever its id.
    let after = next.filter(|_| act == BulkAct::Retry);
    let remaining = match next {
        Some(_) => visit.within(selection.count(&visit, after)).await?,
        None => 0,
    };
    if remaining == 0 {
        let query = serde_urlencoded::to_string([("query", query)]).unwrap_or_default();
        return Ok(visit.redirect_after(&format!("parked?{query}"), number));
    }
    let load = async {
        let notice = visit.notice_about(number).await;
        let shell = Shell { notice, ..visit.shell("parked").await };
        let after = after.map(|after| after.to_string()).unwrap_or_default();
        let (act, query, until) = (act.name(), query.clone(), until.clone());
        Ok::<_, ApiError>(StepPage { shell, act, query, until, after, reason, remaining })
    };
    visit.render(load).await
}

/// Returns the number of the act, and the record after which the next step continues.
async fn retry(
    visit: &Visit,
    operator: Operator,
    condition: Condition,
    after: Option<Uuid>,
) -> Result<(i64, Option<Uuid>), PageError> {
    let (state, tenant) = (visit.state.clone(), visit.tenant.clone());
    let entry = Act::on(Action::RetryRecords, &condition);
    let work = async move {
        let schema = &tenant.schema;
        let retried = (condition, RetryScope::WithPreview);
        Ok(state.redrive.retry_all(schema, retried, after, STEP_TIMEOUT).await?)
    };
    let (number, report) = visit.act(operator, entry, work, RetryReport::act_end).await?;
    Ok((number, report.continue_after))
}

/// Returns the number of the act, and the last discarded record if more are left.
async fn discard(
    visit: &Visit,
    operator: Operator,
    condition: Condition,
) -> Result<(i64, Option<Uuid>), PageError> {
    let (state, tenant) = (visit.state.clone(), visit.tenant.clone());
    let by = operator.name.clone();
    let entry = Act::on(Action::DiscardRecords, &condition);
    let work = async move {
        let schema = &tenant.schema;
        Ok(state.redrive.discard_all(schema, &condition, &by, STEP_TIMEOUT).await?)
    };
    let (number, report) = visit.act(operator, entry, work, DiscardReport::act_end).await?;
    Ok((number, report.continue_after))
}

impl PreviewPage {
    fn new(shell: Shell, act: BulkAct, selection: Selection, total: i64) -> Self {
        let Selection { query, until } = selection;
        Self {
            shell,
            act: act.name(),
            query,
            until,
            total,
            may_act: true,
            sentences: Vec::new(),
            rejected: Vec::new(),
            patrons: Vec::new(),
            patron_count: 0,
        }
    }

    fn with_retry(self, preview: RetryPreview) -> Self {
        let texts = self.shell.texts;
        let sentences = retry_sentences(texts, &preview);
        let mut rejected: Vec<(String, usize)> = preview.rejected.into_iter().collect();
        rejected.sort_by_key(|(_, records)| std::cmp::Reverse(*records));
        let patron_count = preview.patrons.len();
        let mut changes: Vec<(Uuid, PatronChange)> = preview.patrons.into_iter().collect();
        changes.sort_by_key(|(_, change)| change.before == change.after);
        changes.truncate(PATRONS_SHOWN_MAX);
        let row = |(id, change)| PatronRow::new(texts, id, change);
        let patrons = changes.into_iter().map(row).collect();
        // No preview shows what such a record changes, so it is retried on its own page only.
        let may_act = preview.deleting_all_loans == 0;
        Self { sentences, rejected, patrons, patron_count, may_act, ..self }
    }

    fn with_discard(self, (named, has_more): (NamedPatrons, bool)) -> Self {
        let patron_count = named.len();
        let blocked = named.values().filter(|blocked| !blocked.is_empty()).count();
        let texts = self.shell.texts;
        let names = texts
            .fill("preview.discardNames", &[("patrons", &patron_count), ("blocked", &blocked)]);
        let mut sentences = vec![
            texts.text("preview.discardEffect").to_owned(),
            names,
            texts.text("preview.canBeRestored").to_owned(),
        ];
        if has_more {
            sentences.push(texts.text("preview.firstPatrons").to_owned());
        }
        let mut named: Vec<_> = named.into_iter().collect();
        named.sort_by_key(|(_, blocked)| blocked.is_empty());
        named.truncate(PATRONS_SHOWN_MAX);
        let row = |(id, blocked)| {
            let words = words::actions(texts, blocked);
            PatronRow { id, before: words.clone(), after: words }
        };
        let patrons = named.into_iter().map(row).collect();
        Self { sentences, patrons, patron_count, ..self }
    }
}

/// Returns sentences about what a retry would change.
fn retry_sentences(texts: &'static Texts, preview: &RetryPreview) -> Vec<String> {
    let rejected: usize = preview.rejected.values().sum();
    let (read, applied) = (preview.read, preview.applicable);
    let (patrons, unblocked) = (preview.patrons.len(), preview.unblocked());
    let mut sentences = vec![
        texts.fill(
            "preview.retryResult",
            &[("read", &read), ("applied", &applied), ("parked", &rejected)],
        ),
        texts.fill(
            "preview.retryBlocks",
            &[
                ("patrons", &patrons),
                ("unblocked", &unblocked),
                ("blocked", &preview.newly_blocked()),
            ],
        ),
    ];
    let (count, deleting) = (preview.without_group(), preview.deleting_all_loans);
    if count > 0 {
        sentences.push(texts.fill("preview.withoutGroup", &[("count", &count)]));
    }
    if deleting > 0 {
        sentences.push(texts.fill("preview.deletesAll", &[("count", &deleting)]));
    }
    if preview.untried > 0 {
        sentences.push(texts.fill("preview.untried", &[("count", &preview.untried)]));
    }
    if preview.has_more {
        sentences.push(texts.fill("preview.firstRecords", &[("count", &read)]));
    }
    sentences
}

impl PatronRow {
    fn new(texts: &'static Texts, id: Uuid, change: PatronChange) -> Self {
        if !change.has_group {
            let unknown = || texts.text("preview.unknown").to_owned();
            return Self { id, before: unknown(), after: unknown() };
        }
        let words = |actions| words::actions(texts, actions);
        Self { id, before: words(change.before), after: words(change.after) }
    }
}
