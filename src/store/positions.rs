//! How far each topic was read, stored with what was read: in the tenant's schema, and for topics of
//! tenant collections in the module's.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;

use super::{Error, Schema, Statement, Tx};

/// Tells how many have moved. One that was set back below where reading began does not.
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

/// Whether a position was set back below where reading began.
const IS_REWOUND: Statement = Statement::new(
    "select exists (
       select from {schema}.ingest_position as t
         join unnest($1::text[], $2::int4[], $3::int8[]) as x (topic, partition, read_from)
        using (topic, partition)
        where t.next_offset < x.read_from)",
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

/// The other partitions of a topic that was made anew: what is stored of them is of the log before.
const RESET_OTHER_PARTITIONS: Statement = Statement::new(
    "update {schema}.ingest_position set next_offset = 0, last_record_at = null, cluster = $3
      where topic = $1 and partition <> $2",
);

pub(super) const STATEMENTS: &[&Statement] =
    &[&ADVANCE, &IS_REWOUND, &RESET, &RESET_OTHER_PARTITIONS, &LIST];

/// Where reading goes on, by topic and partition, in that order.
pub type Positions<'a> = BTreeMap<(&'a str, i32), PositionUpdate<'a>>;

/// How far a batch has come in a partition.
#[derive(Debug, Clone, Copy)]
pub struct PositionUpdate<'a> {
    /// The offset after the last record that is durable.
    pub next_offset: i64,
    /// That record's timestamp.
    pub last_record_at: Option<DateTime<Utc>>,
    /// The cluster's id.
    pub cluster: &'a str,
    /// The position when the first of these records was read: where a lower one is stored, somebody has set
    /// it back since. `i64::MIN` where others move it too.
    pub read_from_offset: i64,
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

/// Moves positions on, never back. Tells whether all of them fit: not where one was set back since these
/// records were read, because its topic was made anew. What stands below them is to be read first then.
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
    // What did not move is further already, or was set back.
    let is_rewound: bool = sqlx::query_scalar(schema.sql(&IS_REWOUND))
        .bind(&topics)
        .bind(&partitions)
        .bind(&read_from)
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::at("look for positions that were set back"))?;
    Ok(!is_rewound)
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

/// Sets the positions of a topic's other partitions to the beginning: a topic is made anew as a whole.
/// An instance that reads one of them finds it at its next commit, and reads from the beginning.
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
        .map_err(Error::at("reset a topic's ingest positions"))?;
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
