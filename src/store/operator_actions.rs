//! The log of the acts of operators, one row per act.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;

use super::{Error, Schema, Statement};

macro_rules! columns {
    () => {
        "number, at, actor, door, action, subject, reason, request_id, detail, outcome, ended_at"
    };
}

const BEGIN: Statement = Statement::new(
    "insert into {schema}.operator_action (actor, door, action, subject, reason, request_id, detail)
     values ($1, $2, $3, $4, $5, $6, $7) returning number",
);

const END: Statement = Statement::new(
    "update {schema}.operator_action
        set outcome = $2, detail = detail || $3, ended_at = clock_timestamp() where number = $1",
);

const FIND: Statement = Statement::new(concat!(
    "select ",
    columns!(),
    " from {schema}.operator_action where number = $1"
));

const LIST: Statement = Statement::new(concat!(
    "select ",
    columns!(),
    " from {schema}.operator_action where number < $1 order by number desc limit $2"
));

const HAS_LOG: Statement =
    Statement::new("select to_regclass('{schema}.operator_action') is not null");

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&BEGIN, &END, &FIND, &LIST, &HAS_LOG];

/// An act that begins.
#[derive(Debug, Clone)]
pub struct NewAction<'a> {
    /// The staff user, or the name of the door.
    pub actor: &'a str,
    /// Where the act came from.
    pub door: &'a str,
    /// The name of the action.
    pub action: &'a str,
    /// Id or query of the records that the act concerns.
    pub subject: Option<&'a str>,
    /// The reason that the operator gave.
    pub reason: Option<&'a str>,
    /// The id of the request.
    pub request_id: Option<&'a str>,
    /// What the act is to change.
    pub detail: &'a Value,
}

/// How an act ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ActionOutcome {
    /// The act changed what it was to change.
    Done,
    /// The act failed, or was rejected.
    Failed,
    /// The connection was lost or too slow, so the act may be done.
    Unknown,
}

impl ActionOutcome {
    fn name(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }
}

/// An act as stored.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct StoredAction {
    /// The number of the act, in order of begin.
    pub number: i64,
    /// When the act began.
    pub at: DateTime<Utc>,
    /// The staff user, or the name of the door.
    pub actor: String,
    /// Where the act came from.
    pub door: String,
    /// The name of the action.
    pub action: String,
    /// Id or query of the records that the act concerns.
    pub subject: Option<String>,
    /// The reason that the operator gave.
    pub reason: Option<String>,
    /// The id of the request.
    pub request_id: Option<String>,
    /// What the act changed.
    pub detail: Value,
    /// `started`, `done`, `failed` or `unknown`.
    pub outcome: String,
    /// When the act ended; `None` while it runs, or if its instance stopped.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Returns whether a schema has a log of acts.
pub async fn has_log(db: impl PgExecutor<'_>, schema: &Schema) -> Result<bool, Error> {
    let found = sqlx::query_scalar(schema.sql(&HAS_LOG)).fetch_one(db).await;
    found.map_err(Error::at("find the log of acts"))
}

/// Adds an act that begins, and returns its number.
pub async fn begin(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    action: &NewAction<'_>,
) -> Result<i64, Error> {
    sqlx::query_scalar(schema.sql(&BEGIN))
        .bind(action.actor)
        .bind(action.door)
        .bind(action.action)
        .bind(action.subject)
        .bind(action.reason)
        .bind(action.request_id)
        .bind(action.detail)
        .fetch_one(db)
        .await
        .map_err(Error::at("add an act to the log"))
}

/// Records the end of an act, and adds `detail` to its members.
pub async fn end(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    number: i64,
    outcome: ActionOutcome,
    detail: &Value,
) -> Result<(), Error> {
    let done = sqlx::query(schema.sql(&END))
        .bind(number)
        .bind(outcome.name())
        .bind(detail)
        .execute(db)
        .await;
    done.map(|_| ()).map_err(Error::at("record the end of an act"))
}

/// Returns one act.
pub async fn find(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    number: i64,
) -> Result<Option<StoredAction>, Error> {
    let found = sqlx::query_as(schema.sql(&FIND)).bind(number).fetch_optional(db).await;
    found.map_err(Error::at("find an act"))
}

/// Returns the newest acts with a number below `before`.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    before: i64,
    limit: i64,
) -> Result<Vec<StoredAction>, Error> {
    let found = sqlx::query_as(schema.sql(&LIST)).bind(before).bind(limit).fetch_all(db).await;
    found.map_err(Error::at("list the acts"))
}
