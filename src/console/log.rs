//! The log of acts: who did what, when and why, through any door.

use actix_web::HttpResponse;
use askama::Template;
use serde_json::Value;

use super::{act_words, response::PageError, shell::Shell, texts::Texts, visit::Visit};
use crate::{
    clock,
    http::{
        ApiError,
        extract::paging::{number, parameter},
    },
    store::{self, operator_actions, operator_actions::StoredAction},
};

/// Number of acts on a page.
const PAGE_ROWS: usize = 100;

#[derive(Template)]
#[template(path = "log.html")]
struct LogPage {
    shell: Shell,
    rows: Vec<Row>,
    /// The number before which the next page continues.
    next: Option<i64>,
}

struct Row {
    number: i64,
    at: String,
    action: String,
    subject: String,
    reason: String,
    actor: String,
    door: String,
    /// A word about an end that is not good.
    tag: Option<&'static str>,
    outcome: String,
    detail: String,
}

/// Returns the page, newest acts first.
pub(super) async fn page(visit: Visit) -> Result<HttpResponse, PageError> {
    let before = || number("before", parameter(visit.request(), "before")?, i64::from(i32::MAX));
    let before = before().map_err(|error| visit.failed(error))?;
    let load = async {
        let schema = &visit.tenant.schema;
        let limit = i64::try_from(PAGE_ROWS).unwrap_or(i64::MAX);
        let list = async |db: &mut store::Connection| {
            operator_actions::list(db, schema, before, limit).await
        };
        let acts = store::read(&visit.db, list).await?;
        let last = acts.last().map(|act| act.number);
        let next = if acts.len() == PAGE_ROWS { last } else { None };
        let rows = acts.into_iter().map(|act| Row::new(visit.texts, act)).collect();
        Ok::<_, ApiError>(LogPage { shell: visit.shell("log").await, rows, next })
    };
    visit.render(load).await
}

impl Row {
    fn new(texts: &'static Texts, act: StoredAction) -> Self {
        let (is_good, outcome) = act_words::end(texts, &act);
        let detail = match &act.detail {
            Value::Object(members) if members.is_empty() => String::new(),
            detail => detail.to_string(),
        };
        Self {
            number: act.number,
            at: clock::format_instant(act.at),
            action: act_words::action(texts, &act.action).to_owned(),
            subject: act.subject.unwrap_or_default(),
            reason: act.reason.unwrap_or_else(|| texts.text("log.noReason").to_owned()),
            actor: act.actor,
            door: act.door,
            tag: match &*act.outcome {
                _ if is_good => None,
                "failed" => Some(texts.text("log.notDone")),
                _ => Some(texts.text("log.endUnknown")),
            },
            outcome,
            detail,
        }
    }
}
