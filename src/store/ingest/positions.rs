//! The position of each partition, stored in the transaction that made the records durable. The tenant's
//! schema stores the positions of the tenant's own topics; the module's schema stores the positions of
//! tenant collection topics.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use crate::store::{Error, Schema, Statement, Tx};

/// Returns the number of advanced positions. A position that was reset below `read_from` does not
/// advance.
const ADVANCE: Statement = Statement::new(
    "with reached as (
       select * from unnest($1::text[], $2::int4[], $3::int8[], $4::timestamptz[], $5::text[], $6::int8[])
         as x (topic, partition, next_offset, last_record_at, cluster, read_from)),
     moved as (
       insert into {schema}.ingest_position as t
         (topic, partition, next_offset, last_record_at, cluster)
       select topic, partition, next_offset, last_record_at, cluster from reached
       on conflict (topic, partition) do update set
         next_offset = excluded.next_offset, last_record_at = excluded.last_record_at,
         cluster = excluded.cluster
         where t.next_offset < excluded.next_offset
           and t.next_offset >= (
             select read_from from reached as r
              where r.topic = excluded.topic and r.partition = excluded.partition)
       returning 1)
     select count(*) from moved",
);

/// Returns whether any position was reset below `read_from`.
const IS_REWOUND: Statement = Statement::new(
    "select exists (
       select from {schema}.ingest_position as t
         join unnest($1::text[], $2::int4[], $3::int8[]) as x (topic, partition, read_from)
        using (topic, partition)
        where t.next_offset < x.read_from)",
);

/// Moves a position forwards or backwards, because the old offsets of a recreated topic are meaningless.
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

/// Resets the other partitions of a recreated topic, because their stored positions belong to the
/// previous log.
const RESET_OTHER_PARTITIONS: Statement = Statement::new(
    "update {schema}.ingest_position set next_offset = 0, last_record_at = null, cluster = $3
      where topic = $1 and partition <> $2",
);

pub(in crate::store) const STATEMENTS: &[&Statement] =
    &[&ADVANCE, &IS_REWOUND, &RESET, &RESET_OTHER_PARTITIONS, &LIST];

/// The offset at which reading of each partition resumes, by topic and partition, in that order.
pub type Positions<'a> = BTreeMap<(&'a str, i32), PositionUpdate<'a>>;

/// The progress of one batch in one partition.
#[derive(Debug, Clone, Copy)]
pub struct PositionUpdate<'a> {
    /// The offset after the last record that is durable.
    pub next_offset: i64,
    /// The timestamp of the last durable record.
    pub last_record_at: Option<DateTime<Utc>>,
    /// The id of the Kafka cluster.
    pub cluster: &'a str,
    /// The position at which the first of these records was read. A lower stored position means that the
    /// position was reset since then. `i64::MIN` if other writers advance the position too.
    pub read_from_offset: i64,
}

/// The stored offset at which reading of a partition resumes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Position {
    /// The offset after the last record that is durable.
    pub next_offset: i64,
    /// The timestamp of the last durable record. A recreated topic is recognised by this timestamp.
    pub last_record_at: Option<DateTime<Utc>>,
    /// The id of the Kafka cluster that `next_offset` belongs to.
    pub cluster: String,
}

/// Advances positions, and never moves a position back.
///
/// Returns `false` if any position was reset since these records were read, because the topic was
/// recreated. The caller then has to read the records below these records first.
pub async fn advance(
    tx: &mut Tx,
    schema: &Schema,
    positions: &Positions<'_>,
) -> Result<bool, Error> {
    let (topics, partitions): (Vec<&str>, Vec<i32>) = positions.keys().copied().unzip();
    let column = || positions.values();
    let read_from: Vec<i64> = column().map(|reached| reached.read_from_offset).collect();
    let moved: i64 = sqlx::query_scalar(schema.sql(&ADVANCE))
        .bind(&topics)
        .bind(&partitions)
        .bind(column().map(|reached| reached.next_offset).collect::<Vec<_>>())
        .bind(column().map(|reached| reached.last_record_at).collect::<Vec<_>>())
        .bind(column().map(|reached| reached.cluster).collect::<Vec<_>>())
        .bind(&read_from)
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::at("advance ingest positions"))?;
    if usize::try_from(moved).is_ok_and(|moved| moved == positions.len()) {
        return Ok(true);
    }
    // A position that did not advance is already higher, or was reset.
    let is_rewound: bool = sqlx::query_scalar(schema.sql(&IS_REWOUND))
        .bind(&topics)
        .bind(&partitions)
        .bind(&read_from)
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::at("find reset ingest positions"))?;
    Ok(!is_rewound)
}

/// Sets a position for a log that replaced the previous log.
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

/// Sets the positions of a topic's other partitions to 0, because a topic is recreated with all its
/// partitions. An instance that reads one of these partitions detects the reset at its next commit and
/// restarts at the beginning.
pub async fn reset_other_partitions(
    tx: &mut Tx,
    schema: &Schema,
    (topic, partition): (&str, i32),
    cluster: &str,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&RESET_OTHER_PARTITIONS))
        .bind(topic)
        .bind(partition)
        .bind(cluster)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("reset the ingest positions of a topic"))?;
    Ok(())
}

type Row = (String, i32, i64, Option<DateTime<Utc>>, String);

/// Returns all positions of a schema, by topic and partition.
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
