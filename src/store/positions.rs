//! How far each topic was read for a tenant, stored with what was read.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::{Error, Schema, Statement, Tx};

const ADVANCE: Statement = Statement::new(
    "insert into {schema}.ingest_position as t (topic, partition, next_offset, last_record_at)
     select * from unnest($1::text[], $2::int4[], $3::int8[], $4::timestamptz[])
     on conflict (topic, partition) do update set
       next_offset = greatest(t.next_offset, excluded.next_offset),
       last_record_at = greatest(t.last_record_at, excluded.last_record_at)",
);

pub(super) const STATEMENTS: &[&Statement] = &[&ADVANCE];

/// Where reading goes on, by topic and partition, in that order.
pub type Positions<'a> = BTreeMap<(&'a str, i32), Position>;

/// Where reading a partition goes on.
#[derive(Debug, Clone, Copy)]
pub struct Position {
    /// The offset after the last record that is durable.
    pub next_offset: i64,
    /// The newest timestamp of a record before it.
    pub last_record_at: Option<DateTime<Utc>>,
}

/// Moves the positions forward; never back.
pub async fn advance(tx: &mut Tx, schema: &Schema, positions: &Positions<'_>) -> Result<(), Error> {
    let (topics, partitions): (Vec<&str>, Vec<i32>) = positions.keys().copied().unzip();
    let next: Vec<i64> = positions.values().map(|position| position.next_offset).collect();
    let last: Vec<_> = positions.values().map(|position| position.last_record_at).collect();
    sqlx::query(schema.sql(&ADVANCE))
        .bind(topics)
        .bind(partitions)
        .bind(next)
        .bind(last)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("advance ingest positions"))?;
    Ok(())
}
