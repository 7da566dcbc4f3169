//! How far each topic was read, stored with what was read: in the tenant's schema, and for topics of
//! tenant collections in the module's.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{Error, Schema, Statement, Tx};

const ADVANCE: Statement = Statement::new(
    "insert into {schema}.ingest_position as t (topic, partition, next_offset, last_record_at, cluster)
     select x.* from unnest($1::text[], $2::int4[], $3::int8[], $4::timestamptz[], $5::text[]) as x
     on conflict (topic, partition) do update set
       next_offset = excluded.next_offset, last_record_at = excluded.last_record_at,
       cluster = excluded.cluster
       where t.next_offset < excluded.next_offset",
);

/// Also backwards: of a topic that was made anew the old offsets mean nothing.
const RESET: Statement = Statement::new(
    "insert into {schema}.ingest_position (topic, partition, next_offset, cluster)
     values ($1, $2, $3, $4)
     on conflict (topic, partition) do update set
       next_offset = excluded.next_offset, last_record_at = null, cluster = excluded.cluster",
);

const LIST: Statement = Statement::new(
    "select topic, partition, next_offset, last_record_at, cluster from {schema}.ingest_position
      order by topic, partition",
);

pub(super) const STATEMENTS: &[&Statement] = &[&ADVANCE, &RESET, &LIST];

/// Where reading goes on, by topic and partition, in that order.
pub type Positions<'a> = BTreeMap<(&'a str, i32), Reached<'a>>;

/// How far a batch has come in a partition.
#[derive(Debug, Clone, Copy)]
pub struct Reached<'a> {
    /// The offset after the last record that is durable.
    pub next_offset: i64,
    /// That record's timestamp.
    pub last_record_at: Option<DateTime<Utc>>,
    /// The cluster's id.
    pub cluster: &'a str,
}

/// Where reading a partition goes on, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The offset after the last record that is durable.
    pub next_offset: i64,
    /// That record's timestamp: by it a topic that was made anew is known.
    pub last_record_at: Option<DateTime<Utc>>,
    /// The cluster that the offset belongs to.
    pub cluster: String,
}

/// Moves positions on, never back.
pub async fn advance(tx: &mut Tx, schema: &Schema, positions: &Positions<'_>) -> Result<(), Error> {
    let (topics, partitions): (Vec<&str>, Vec<i32>) = positions.keys().copied().unzip();
    let column = || positions.values();
    sqlx::query(schema.sql(&ADVANCE))
        .bind(topics)
        .bind(partitions)
        .bind(column().map(|reached| reached.next_offset).collect::<Vec<_>>())
        .bind(column().map(|reached| reached.last_record_at).collect::<Vec<_>>())
        .bind(column().map(|reached| reached.cluster).collect::<Vec<_>>())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("advance ingest positions"))?;
    Ok(())
}

/// Sets a position, because the log is not the one that it was.
pub async fn reset(
    tx: &mut Tx,
    schema: &Schema,
    (topic, partition): (&str, i32),
    next_offset: i64,
    cluster: &str,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&RESET))
        .bind(topic)
        .bind(partition)
        .bind(next_offset)
        .bind(cluster)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("reset an ingest position"))?;
    Ok(())
}

type Row = (String, i32, i64, Option<DateTime<Utc>>, String);

/// All positions of a schema, by topic and partition.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
) -> Result<HashMap<(String, i32), Position>, Error> {
    let rows: Vec<Row> = sqlx::query_as(schema.sql(&LIST))
        .fetch_all(db)
        .await
        .map_err(Error::at("read ingest positions"))?;
    let read = |(topic, partition, next_offset, last_record_at, cluster): Row| {
        ((topic, partition), Position { next_offset, last_record_at, cluster })
    };
    Ok(rows.into_iter().map(read).collect())
}
