//! What housekeeping removes, a few blocks of a table at a time, and how large tables are.
//!
//! A walk goes through a table as it lies on disk (`ctid`): rows of one age lie together, no index is
//! needed, and a step reads a bounded number of blocks, whatever is in them.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};
use crate::event::stamp::Horizon;

const CLAIM: Statement = Statement::new(
    "update {schema}.housekeeping set started_at = now()
      where started_at is null or started_at <= now() - $1 * interval '1 second' or started_at > now()",
);

const RECORD_HORIZON: Statement =
    Statement::new("update {schema}.housekeeping set prune_horizon = greatest(prune_horizon, $1)");

/// What was pruned can't be newer than this moment: an instance whose clock was ahead has recorded that.
const CAP_HORIZON: Statement =
    Statement::new("update {schema}.housekeeping set prune_horizon = $1 where prune_horizon > $1");

const COUNT_BLOCKS: Statement = Statement::new(
    "select pg_relation_size(('{schema}.' || $1)::regclass) / current_setting('block_size')::int8",
);

/// A subject is looked up for old rows only, by its key: a join could read all loans at every step.
const DELETE_INBOX: Statement = Statement::new(
    "delete from {schema}.inbox
      where ctid >= $1::text::tid and ctid < $2::text::tid
        and received_at < $3 and occurred_at < $3
        and not coalesce((select is_open from {schema}.loan where loan_id = subject), false)
        and not coalesce((select is_open from {schema}.fee_fine where fee_fine_id = subject), false)",
);

/// What a writer holds is skipped: who waits for nobody is part of no deadlock. What was locked is
/// looked at once more, as it is then.
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

/// What a letter takes is what is stored of it, compressed as it is, and a row around that; to know it no value
/// need be read.
const SELECT_SURPLUS_DEAD_LETTER: Statement = Statement::new(
    // What waits for its tenant is retried by the service: it does not count.
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

/// Counting rows of the large tables would read them; what the planner believes is near enough.
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

pub(super) const STATEMENTS: &[&Statement] = &[
    &CLAIM,
    &RECORD_HORIZON,
    &CAP_HORIZON,
    &COUNT_BLOCKS,
    &DELETE_INBOX,
    &DELETE_LOANS,
    &DELETE_FEES_FINES,
    &DELETE_DEAD_LETTERS,
    &SELECT_SURPLUS_DEAD_LETTER,
    &SELECT_OLDEST_EVENT,
    &RECORD_OLDEST_EVENT,
    &SELECT_SIZES,
];

/// A dead letter's place in the order in which they go: when it was parked, and its id.
pub type DeadLetterKey = (DateTime<Utc>, Uuid);

/// What is to go.
#[derive(Debug, Clone, Copy)]
pub enum PruneTarget {
    /// Events that happened and came before this instant, unless what they are about is open.
    Inbox(DateTime<Utc>),
    /// Loans that are not open and of which nothing newer was said.
    Loans(Horizon),
    /// The same of fees/fines.
    FeesFines(Horizon),
    /// Dead letters parked before this instant, and those up to this one.
    DeadLetters(DateTime<Utc>, Option<DeadLetterKey>),
}

impl PruneTarget {
    fn table(&self) -> &'static str {
        match self {
            Self::Inbox(_) => "inbox",
            Self::Loans(_) => "loan",
            Self::FeesFines(_) => "fee_fine",
            Self::DeadLetters(..) => "dead_letter",
        }
    }
}

/// A range of a table's blocks, without the last.
#[derive(Debug, Clone, Copy)]
pub struct BlockRange {
    /// The first.
    pub from: i64,
    /// The one after the last.
    pub to: i64,
}

impl BlockRange {
    fn bounds(self) -> (String, String) {
        (format!("({},0)", self.from), format!("({},0)", self.to))
    }
}

/// Begins housekeeping, unless somebody began within the interval, by the database's clock. Tells whether it is
/// ours to do.
pub async fn claim(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    interval: Duration,
) -> Result<bool, Error> {
    let done = sqlx::query(schema.sql(&CLAIM))
        .bind(interval.as_secs_f64())
        .execute(db)
        .await
        .map_err(Error::at("begin housekeeping"))?;
    Ok(done.rows_affected() == 1)
}

/// Says that from now on loans and fees/fines older than `before` may be gone.
pub async fn record_horizon(tx: &mut Tx, schema: &Schema, before: Horizon) -> Result<(), Error> {
    sqlx::query(schema.sql(&RECORD_HORIZON))
        .bind(before.as_bytes())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("record how far is pruned"))?;
    Ok(())
}

/// Takes back what was recorded of times that are still to come. Tells whether there was any.
pub async fn cap_horizon(tx: &mut Tx, schema: &Schema, now: DateTime<Utc>) -> Result<bool, Error> {
    let mended = sqlx::query(schema.sql(&CAP_HORIZON)).bind(Horizon::at(now).as_bytes());
    let mended = mended.execute(&mut **tx).await.map_err(Error::at("record how far is pruned"))?;
    Ok(mended.rows_affected() > 0)
}

/// How many blocks the table has that `doomed` is about.
pub async fn count_blocks(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    doomed: &PruneTarget,
) -> Result<i64, Error> {
    sqlx::query_scalar(schema.sql(&COUNT_BLOCKS))
        .bind(doomed.table())
        .fetch_one(db)
        .await
        .map_err(Error::at("measure a table"))
}

/// Removes what is doomed in some blocks, and tells how many rows went.
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
        PruneTarget::DeadLetters(before, beyond) => in_blocks(&DELETE_DEAD_LETTERS)
            .bind(before)
            .bind(beyond.map(|parked| parked.0))
            .bind(beyond.map(|parked| parked.1)),
    };
    let done = query.execute(&mut **tx).await.map_err(Error::at("remove what is old"))?;
    Ok(done.rows_affected())
}

/// The newest dead letter that has to go: it has so many newer ones, or takes, with them, more bytes. None while
/// there are fewer, and smaller ones.
pub async fn find_surplus_dead_letter(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    most: i64,
    bytes: i64,
) -> Result<Option<DeadLetterKey>, Error> {
    sqlx::query_as(schema.sql(&SELECT_SURPLUS_DEAD_LETTER))
        .bind(most)
        .bind(bytes)
        .fetch_optional(db)
        .await
        .map_err(Error::at("look for the dead letters that are too many"))
}

/// When the oldest event came that stands in some blocks of the inbox.
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
        .map_err(Error::at("look for the oldest event"))
}

/// Keeps when the oldest event of the whole inbox came, for [`table_sizes`].
pub async fn record_oldest_event(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    oldest: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&RECORD_OLDEST_EVENT))
        .bind(oldest)
        .execute(db)
        .await
        .map_err(Error::at("keep the age of the inbox"))?;
    Ok(())
}

/// How much a tenant's tables hold, and since when.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct TableSizes {
    /// Rows of the inbox, nearly.
    pub inbox: i64,
    /// When its oldest row came, as of the last time that housekeeping went through all of it.
    pub inbox_oldest: Option<DateTime<Utc>>,
    /// Rows of loans, nearly, those that ended among them.
    pub loans: i64,
    /// Rows of fees/fines, nearly, those that are paid among them.
    pub fees_fines: i64,
    /// Dead letters.
    pub dead_letters: i64,
    /// When the oldest of them was parked.
    pub dead_letters_oldest: Option<DateTime<Utc>>,
}

/// Sizes and oldest ages, in one round trip.
pub async fn table_sizes(db: impl PgExecutor<'_>, schema: &Schema) -> Result<TableSizes, Error> {
    sqlx::query_as(schema.sql(&SELECT_SIZES))
        .fetch_one(db)
        .await
        .map_err(Error::at("measure a tenant's tables"))
}
