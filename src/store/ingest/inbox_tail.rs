//! The tail of a rebuild: the events of the inbox that the shadow lacks.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::inbox;
use crate::{
    event::decode::inbox_row::InboxRow,
    store::{Error, Schema, Statement, Tx},
};

/// Selects the events that a shadow may lack, independent of clocks, by the offsets of the read topics.
/// The time of receipt covers events without a known offset: from new or recreated topics and from
/// retried dead letters. Events received over HTTP belong to no topic, so the tail contains all such
/// events.
const SELECT_TAIL: Statement = Statement::new(
    r#"select i.event_key as key, i.identified_by, i.kind, i.stamp, i.occurred_at, i.timed_by, i.payload
         from {live}.inbox i
        where i.subject = any($1)
          and ($3 or i.partition < 0 or i.received_at >= $2
               or exists (select from {schema}.replay_position r
                           where r.topic = i.topic and r.partition = i.partition
                             and i."offset" >= r.end_offset))"#,
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&SELECT_TAIL];

/// The part of the inbox that is the tail.
#[derive(Debug, Clone, Copy)]
pub enum Tail {
    /// The whole inbox, because the inbox is the source of the rebuild.
    All,
    /// The events beyond the read offsets, or received since this instant.
    Since(DateTime<Utc>),
}

/// Returns the events about these loans and fees/fines that the shadow may lack.
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
    let found: Vec<inbox::InboxColumns> = found
        .fetch_all(&mut **tx)
        .await
        .map_err(Error::at("read the latest events of the inbox"))?;
    Ok(found.into_iter().map(inbox::from_columns).collect())
}

/// Returns the start of the oldest open transaction. Every event that is committed later has a time of
/// receipt at or after this instant.
pub async fn oldest_transaction_start(db: impl PgExecutor<'_>) -> Result<DateTime<Utc>, Error> {
    let oldest = sqlx::query_scalar(
        "select least(clock_timestamp(), min(xact_start)) from pg_stat_activity
          where datname = current_database()",
    );
    oldest.fetch_one(db).await.map_err(Error::at("find the oldest open transaction"))
}
