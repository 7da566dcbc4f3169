//! The tail of a rebuild: what the inbox has beyond what was read into the shadow.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx, rows};
use crate::event::inbox_row::InboxRow;

/// Which records a shadow has, its offsets say, whatever clocks say. The time of receipt counts for what they can't
/// tell of: topics that are new or made anew, and dead letters that were tried again. What came over HTTP is in no
/// topic.
const SELECT_TAIL: Statement = Statement::new(
    r#"select i.event_key as key, i.identified_by, i.kind, i.stamp, i.occurred_at, i.timed_by, i.payload
         from {live}.inbox i
        where i.subject = any($1)
          and ($3 or i.partition < 0 or i.received_at >= $2
               or exists (select from {schema}.replay_position r
                           where r.topic = i.topic and r.partition = i.partition
                             and i."offset" >= r.end_offset))"#,
);

pub(super) const STATEMENTS: &[&Statement] = &[&SELECT_TAIL];

/// What of the inbox is the tail.
#[derive(Debug, Clone, Copy)]
pub enum Tail {
    /// All of it: it is the source itself.
    All,
    /// What lies beyond the offsets that were read, or came since this instant.
    Since(DateTime<Utc>),
}

/// Events about these loans and fees/fines that the shadow may lack.
pub async fn events(
    tx: &mut Tx,
    shadow: &Schema,
    subjects: &[Uuid],
    tail: Tail,
) -> Result<Vec<InboxRow>, Error> {
    let since = match tail {
        Tail::All => None,
        Tail::Since(since) => Some(since),
    };
    let found =
        sqlx::query_as(shadow.sql(&SELECT_TAIL)).bind(subjects).bind(since).bind(since.is_none());
    let found: Vec<rows::InboxColumns> =
        found.fetch_all(&mut **tx).await.map_err(Error::at("read events of the inbox"))?;
    Ok(found.into_iter().map(rows::from_columns).collect())
}

/// An instant that no event can bear as its time of receipt that is committed after this: when the oldest
/// transaction began that is still open.
pub async fn oldest_transaction_start(db: impl PgExecutor<'_>) -> Result<DateTime<Utc>, Error> {
    let oldest = sqlx::query_scalar(
        "select least(clock_timestamp(), min(xact_start)) from pg_stat_activity
          where datname = current_database()",
    );
    oldest.fetch_one(db).await.map_err(Error::at("look for open transactions"))
}
