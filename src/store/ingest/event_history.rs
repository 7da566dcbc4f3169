//! The events of one loan or fee/fine, as the inbox stores them.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::inbox::{InboxColumns, from_columns};
use crate::{
    event::{Stamp, decode::inbox_row::InboxRow},
    store::{Error, Schema, Statement},
};

/// Selects the newest events of a subject by their order. A long payload would occupy the memory of a page.
const SELECT_BY_SUBJECT: Statement = Statement::new(
    r#"select received_at, topic, partition, "offset",
              event_key, identified_by, kind, stamp, occurred_at, timed_by,
              case when octet_length(payload) <= 65536 then payload else ''::bytea end as payload
         from {schema}.inbox where subject = $1 order by stamp desc limit $2"#,
);

const SELECT_KINDS: Statement = Statement::new(
    "select stamp, kind from {schema}.inbox where subject = any($1) order by stamp desc limit $2",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&SELECT_BY_SUBJECT, &SELECT_KINDS];

/// An event that the service applied.
#[derive(Debug, Clone)]
pub struct AppliedEvent {
    /// When the service received the event, by the clock of the database.
    pub received_at: DateTime<Utc>,
    /// The topic; `None` for an event over HTTP.
    pub topic: Option<String>,
    /// The partition.
    pub partition: Option<i32>,
    /// The offset.
    pub offset: Option<i64>,
    /// The event, without a payload of more than 64 KiB.
    pub row: InboxRow,
}

/// Returns the newest events of a loan or fee/fine, at most `limit`, in the order in which they count.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    subject: Uuid,
    limit: i64,
) -> Result<Vec<AppliedEvent>, Error> {
    #[derive(sqlx::FromRow)]
    struct Row {
        received_at: DateTime<Utc>,
        topic: Option<String>,
        partition: Option<i32>,
        offset: Option<i64>,
        event_key: Uuid,
        identified_by: String,
        kind: String,
        stamp: Vec<u8>,
        occurred_at: DateTime<Utc>,
        timed_by: String,
        payload: Vec<u8>,
    }
    let rows: Vec<Row> = sqlx::query_as(schema.sql(&SELECT_BY_SUBJECT))
        .bind(subject)
        .bind(limit)
        .fetch_all(db)
        .await
        .map_err(Error::at("read the events of a loan or fee/fine"))?;
    let event = |row: Row| {
        let Row { event_key, identified_by, kind, stamp, occurred_at, timed_by, payload, .. } = row;
        let columns: InboxColumns =
            (event_key, identified_by, kind, stamp, occurred_at, timed_by, payload);
        // The partition of an event over HTTP is negative.
        let is_record = row.partition.is_some_and(|partition| partition >= 0);
        AppliedEvent {
            received_at: row.received_at,
            topic: row.topic.filter(|_| is_record),
            partition: row.partition,
            offset: row.offset,
            row: from_columns(columns),
        }
    };
    Ok(rows.into_iter().rev().map(event).collect())
}

/// Returns stamp and kind of the newest events of these loans and fees/fines, at most `limit`.
pub async fn kinds(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    subjects: &[Uuid],
    limit: i64,
) -> Result<Vec<(Stamp, String)>, Error> {
    let rows: Vec<(Vec<u8>, String)> = sqlx::query_as(schema.sql(&SELECT_KINDS))
        .bind(subjects)
        .bind(limit)
        .fetch_all(db)
        .await
        .map_err(Error::at("read the kinds of events"))?;
    Ok(rows
        .into_iter()
        .filter_map(|(stamp, kind)| Some((Stamp::from_bytes(&stamp)?, kind)))
        .collect())
}
