//! Prune statements of housekeeping, a few blocks of a table at a time, and the sizes of tables.
//!
//! A walk reads a table in the order of its blocks (`ctid`). Rows of one age are stored close together,
//! no index is needed, and each step reads a bounded number of blocks.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::{
    event::stamp::Horizon,
    store::{Error, Schema, Statement, Tx},
};

const CLAIM: Statement = Statement::new(
    "update {schema}.housekeeping set started_at = now()
      where started_at is null or started_at <= now() - $1 * interval '1 second' or started_at > now()",
);

const RECORD_HORIZON: Statement =
    Statement::new("update {schema}.housekeeping set prune_horizon = greatest(prune_horizon, $1)");

/// Lowers a prune horizon in the future, which an instance with a fast clock recorded.
const CAP_HORIZON: Statement =
    Statement::new("update {schema}.housekeeping set prune_horizon = $1 where prune_horizon > $1");

const COUNT_BLOCKS: Statement = Statement::new(
    "select pg_relation_size(('{schema}.' || $1)::regclass) / current_setting('block_size')::int8",
);

/// Subqueries by key look up the subjects of old rows only; a join could read all loans in each step.
const DELETE_INBOX: Statement = Statement::new(
    "delete from {schema}.inbox
      where ctid >= $1::text::tid and ctid < $2::text::tid
        and received_at < $3 and occurred_at < $3
        and not coalesce((select is_open from {schema}.loan where loan_id = subject), false)
        and not coalesce((select is_open from {schema}.fee_fine where fee_fine_id = subject), false)",
);

/// Skips rows that a writer has locked, so the prune waits for no lock and cannot deadlock. PostgreSQL
/// checks the condition again after locking a row.
const DELETE_LOANS: Statement = Statement::new(
    "delete from {schema}.loan where ctid = any (array (
       select ctid from {schema}.loan
        where ctid >= $1::text::tid and ctid < $2::text::tid and not is_open
          and greatest(check_out_stamp, snapshot_stamp, due_stamp, lost_stamp, claimed_stamp,
                       closed_stamp) < $3
          for update skip locked))",
);

const DELETE_FEES_FINES: Statement = Statement::new(
    "delete from {schema}.fee_fine where ctid = any (array (
       select ctid from {schema}.fee_fine
        where ctid >= $1::text::tid and ctid < $2::text::tid and not is_open
          and greatest(balance_stamp, type_stamp, user_stamp) < $3
          for update skip locked))",
);

const DELETE_DEAD_LETTERS: Statement = Statement::new(
    "delete from {schema}.dead_letter where ctid = any (array (
       select ctid from {schema}.dead_letter
        where ctid >= $1::text::tid and ctid < $2::text::tid
          and (received_at < $3
               or reason <> 'tenant_unusable' and (received_at, dead_letter_id) <= ($4, $5))
          for update skip locked))",
);

const DELETE_DISCARDED: Statement = Statement::new(
    "delete from {schema}.discarded_dead_letter
      where ctid >= $1::text::tid and ctid < $2::text::tid
        and (discarded_at < $3 or (discarded_at, dead_letter_id) <= ($4, $5))",
);

/// Selects the newest surplus among the discarded dead letters, like [`SELECT_SURPLUS_DEAD_LETTER`].
const SELECT_SURPLUS_DISCARDED: Statement = Statement::new(
    "select discarded_at, dead_letter_id from (
       select discarded_at, dead_letter_id, row_number() over newest_first as number,
              sum(200 + pg_column_size(payload) + pg_column_size(headers) + coalesce(pg_column_size(key), 0))
                over newest_first as bytes
         from {schema}.discarded_dead_letter
       window newest_first as (order by discarded_at desc, dead_letter_id desc
                               rows between unbounded preceding and current row)) letters
      where number > $1 or bytes > $2
      order by discarded_at desc, dead_letter_id desc limit 1",
);

/// Selects the newest surplus dead letter. The size of a dead letter is its stored, compressed size plus
/// a constant for the row, so no value has to be decompressed.
const SELECT_SURPLUS_DEAD_LETTER: Statement = Statement::new(
    // Dead letters that wait for their tenant are excluded, because the service retries these records.
    "select received_at, dead_letter_id from (
       select received_at, dead_letter_id, row_number() over newest_first as number,
              sum(200 + pg_column_size(payload) + pg_column_size(headers) + coalesce(pg_column_size(key), 0))
                over newest_first as bytes
         from {schema}.dead_letter where reason <> 'tenant_unusable'
       window newest_first as (order by received_at desc, dead_letter_id desc
                               rows between unbounded preceding and current row)) letters
      where number > $1 or bytes > $2
      order by received_at desc, dead_letter_id desc limit 1",
);

const SELECT_OLDEST_EVENT: Statement = Statement::new(
    "select min(received_at) from {schema}.inbox
      where ctid >= $1::text::tid and ctid < $2::text::tid",
);

const RECORD_OLDEST_EVENT: Statement =
    Statement::new("update {schema}.housekeeping set inbox_oldest = $1");

/// Selects the planner's estimates for the large tables, because a count would read the whole table.
const SELECT_SIZES: Statement = Statement::new(
    "select (select greatest(reltuples, 0)::int8 from pg_class
              where oid = '{schema}.inbox'::regclass) as inbox,
            h.inbox_oldest,
            (select greatest(reltuples, 0)::int8 from pg_class
              where oid = '{schema}.loan'::regclass) as loans,
            (select greatest(reltuples, 0)::int8 from pg_class
              where oid = '{schema}.fee_fine'::regclass) as fees_fines,
            d.number as dead_letters, d.oldest as dead_letters_oldest
       from {schema}.housekeeping h
      cross join (select count(*) as number, min(received_at) as oldest
                    from {schema}.dead_letter) d",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &CLAIM,
    &RECORD_HORIZON,
    &CAP_HORIZON,
    &COUNT_BLOCKS,
    &DELETE_INBOX,
    &DELETE_LOANS,
    &DELETE_FEES_FINES,
    &DELETE_DEAD_LETTERS,
    &DELETE_DISCARDED,
    &SELECT_SURPLUS_DISCARDED,
    &SELECT_SURPLUS_DEAD_LETTER,
    &SELECT_OLDEST_EVENT,
    &RECORD_OLDEST_EVENT,
    &SELECT_SIZES,
];

/// The position of a dead letter in the prune order: the time of storage or of the discard, and the id.
pub type DeadLetterKey = (DateTime<Utc>, Uuid);

/// The rows to prune.
#[derive(Debug, Clone, Copy)]
pub enum PruneTarget {
    /// Events that occurred and were received before this instant, except events about an open subject.
    Inbox(DateTime<Utc>),
    /// Closed loans with no stamp at or after the horizon.
    Loans(Horizon),
    /// Closed fees/fines with no stamp at or after the horizon.
    FeesFines(Horizon),
    /// Dead letters stored before this instant, and dead letters up to and including this key.
    DeadLetters(DateTime<Utc>, Option<DeadLetterKey>),
    /// Dead letters discarded before this instant, and discarded dead letters up to and including this key.
    Discarded(DateTime<Utc>, Option<DeadLetterKey>),
}

impl PruneTarget {
    fn table(&self) -> &'static str {
        match self {
            Self::Inbox(_) => "inbox",
            Self::Loans(_) => "loan",
            Self::FeesFines(_) => "fee_fine",
            Self::DeadLetters(..) => "dead_letter",
            Self::Discarded(..) => "discarded_dead_letter",
        }
    }
}

/// A half-open range of a table's blocks.
#[derive(Debug, Clone, Copy)]
pub struct BlockRange {
    /// The first block.
    pub from: i64,
    /// The block after the last block.
    pub to: i64,
}

impl BlockRange {
    fn bounds(self) -> (String, String) {
        (format!("({},0)", self.from), format!("({},0)", self.to))
    }
}

/// Starts housekeeping unless an instance started housekeeping within `interval`, by the database clock.
/// Returns whether the caller has to do the work.
pub async fn claim(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    interval: Duration,
) -> Result<bool, Error> {
    let done = sqlx::query(schema.sql(&CLAIM))
        .bind(interval.as_secs_f64())
        .execute(db)
        .await
        .map_err(Error::at("claim housekeeping"))?;
    Ok(done.rows_affected() == 1)
}

/// Records that loans and fees/fines older than `before` may be pruned.
pub async fn record_horizon(tx: &mut Tx, schema: &Schema, before: Horizon) -> Result<(), Error> {
    sqlx::query(schema.sql(&RECORD_HORIZON))
        .bind(before.as_bytes())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("record the prune horizon"))?;
    Ok(())
}

/// Lowers a prune horizon in the future to `now`. Returns whether the horizon was in the future.
pub async fn cap_horizon(tx: &mut Tx, schema: &Schema, now: DateTime<Utc>) -> Result<bool, Error> {
    let mended = sqlx::query(schema.sql(&CAP_HORIZON)).bind(Horizon::at(now).as_bytes());
    let mended = mended.execute(&mut **tx).await.map_err(Error::at("record the prune horizon"))?;
    Ok(mended.rows_affected() > 0)
}

/// Returns the number of blocks of the target's table.
pub async fn count_blocks(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    doomed: &PruneTarget,
) -> Result<i64, Error> {
    sqlx::query_scalar(schema.sql(&COUNT_BLOCKS))
        .bind(doomed.table())
        .fetch_one(db)
        .await
        .map_err(Error::at("read the size of a table"))
}

/// Deletes the target's rows in some blocks. Returns the number of deleted rows.
pub async fn delete(
    tx: &mut Tx,
    schema: &Schema,
    doomed: &PruneTarget,
    blocks: BlockRange,
) -> Result<u64, Error> {
    let (from, to) = blocks.bounds();
    let in_blocks = |statement| sqlx::query(schema.sql(statement)).bind(from).bind(to);
    let query = match doomed {
        PruneTarget::Inbox(before) => in_blocks(&DELETE_INBOX).bind(before),
        PruneTarget::Loans(before) => in_blocks(&DELETE_LOANS).bind(before.as_bytes()),
        PruneTarget::FeesFines(before) => in_blocks(&DELETE_FEES_FINES).bind(before.as_bytes()),
        PruneTarget::DeadLetters(before, surplus) | PruneTarget::Discarded(before, surplus) => {
            let statement = match doomed {
                PruneTarget::Discarded(..) => &DELETE_DISCARDED,
                _ => &DELETE_DEAD_LETTERS,
            };
            let (at, id) = surplus.unzip();
            in_blocks(statement).bind(before).bind(at).bind(id)
        }
    };
    let done = query.execute(&mut **tx).await.map_err(Error::at("delete old rows"))?;
    Ok(done.rows_affected())
}

/// The dead letters among which a surplus is sought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetters {
    /// The parked ones.
    Parked,
    /// The discarded ones.
    Discarded,
}

/// Returns the newest surplus dead letter: at least `most` are newer, or the total size up to this one
/// exceeds `bytes`. Returns `None` below both limits.
pub async fn find_surplus_dead_letter(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    among: DeadLetters,
    most: i64,
    bytes: i64,
) -> Result<Option<DeadLetterKey>, Error> {
    let statement = match among {
        DeadLetters::Parked => &SELECT_SURPLUS_DEAD_LETTER,
        DeadLetters::Discarded => &SELECT_SURPLUS_DISCARDED,
    };
    sqlx::query_as(schema.sql(statement))
        .bind(most)
        .bind(bytes)
        .fetch_optional(db)
        .await
        .map_err(Error::at("find the surplus dead letters"))
}

/// Returns the time of receipt of the oldest event in some blocks of the inbox.
pub async fn find_oldest_event(
    tx: &mut Tx,
    schema: &Schema,
    blocks: BlockRange,
) -> Result<Option<DateTime<Utc>>, Error> {
    let (from, to) = blocks.bounds();
    sqlx::query_scalar(schema.sql(&SELECT_OLDEST_EVENT))
        .bind(from)
        .bind(to)
        .fetch_one(&mut **tx)
        .await
        .map_err(Error::at("find the oldest event"))
}

/// Records the time of receipt of the oldest event in the whole inbox, for [`table_sizes`].
pub async fn record_oldest_event(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    oldest: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&RECORD_OLDEST_EVENT))
        .bind(oldest)
        .execute(db)
        .await
        .map_err(Error::at("record the age of the inbox"))?;
    Ok(())
}

/// The sizes of a tenant's tables, and their oldest rows.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct TableSizes {
    /// The estimated number of rows of the inbox.
    pub inbox: i64,
    /// The time of receipt of the oldest event, as of the last complete walk of housekeeping.
    pub inbox_oldest: Option<DateTime<Utc>>,
    /// The estimated number of loans, including closed loans.
    pub loans: i64,
    /// The estimated number of fees/fines, including paid fees/fines.
    pub fees_fines: i64,
    /// The number of dead letters.
    pub dead_letters: i64,
    /// The time of storage of the oldest dead letter.
    pub dead_letters_oldest: Option<DateTime<Utc>>,
}

/// Loads the sizes and the oldest times in one round trip.
pub async fn table_sizes(db: impl PgExecutor<'_>, schema: &Schema) -> Result<TableSizes, Error> {
    sqlx::query_as(schema.sql(&SELECT_SIZES))
        .fetch_one(db)
        .await
        .map_err(Error::at("read the sizes of a tenant's tables"))
}
