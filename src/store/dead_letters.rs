//! Parked records: bytes, headers, reason and place of what could not be applied.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};
use crate::event::{Place, Record, Reject};

const PARK: Statement = Statement::new(
    r#"insert into {schema}.dead_letter (
         dead_letter_id, reason, field, rule, topic, partition, "offset", record_at, key, headers,
         payload, cluster, received_at)
       select x.*, $13
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int4[],
                     $7::int8[], $8::timestamptz[], $9::bytea[], $10::jsonb[], $11::bytea[],
                     $12::text[]) as x
       on conflict (dead_letter_id) do nothing"#,
);

const LIST: Statement = Statement::new(
    r#"select dead_letter_id, reason, field, rule, topic, partition, "offset", record_at, received_at,
              key, headers, payload, cluster
         from {schema}.dead_letter
        where ($1::text is null or reason = $1) and ($2::text is null or topic = $2)
          and ($3::int4 is null or partition = $3) and ($4::text is null or field = $4)
          and ($5::uuid is null or dead_letter_id > $5)
        order by dead_letter_id limit $6 offset $7"#,
);

const COUNT: Statement = Statement::new(
    "select count(*) from {schema}.dead_letter
      where ($1::text is null or reason = $1) and ($2::text is null or topic = $2)
        and ($3::int4 is null or partition = $3) and ($4::text is null or field = $4)",
);

const FIND: Statement = Statement::new(
    r#"select dead_letter_id, reason, field, rule, topic, partition, "offset", record_at, received_at,
              key, headers, payload, cluster
         from {schema}.dead_letter where dead_letter_id = $1"#,
);

const DISCARD: Statement = Statement::new(
    "delete from {schema}.dead_letter
      where ($1::text is null or reason = $1) and ($2::text is null or topic = $2)
        and ($3::int4 is null or partition = $3) and ($4::text is null or field = $4)
        and ($5::uuid is null or dead_letter_id = $5)",
);

/// From wherever it was parked: a letter of nobody may turn out to be somebody's.
const UNPARK: Statement = Statement::new(
    "with nobodys as (delete from mod_patron_blocks.dead_letter where dead_letter_id = $1)
     delete from {schema}.dead_letter where dead_letter_id = $1",
);

pub(super) const STATEMENTS: &[&Statement] = &[&PARK, &LIST, &COUNT, &FIND, &DISCARD, &UNPARK];

/// A record to park.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// Identifies its place, so that a redelivery parks nothing new.
    pub id: Uuid,
    /// The record.
    pub record: &'a Record,
    /// The cluster that its place belongs to.
    pub cluster: &'a str,
    /// Why it can't be applied.
    pub reject: &'a Reject,
}

/// Headers that carry a credential: never stored (events contract 3.2).
const SECRET: [&str; 2] = ["x-okapi-token", "authorization"];

/// Parks records and tells how many were not parked before.
pub async fn park(
    tx: &mut Tx,
    schema: &Schema,
    letters: &[DeadLetter<'_>],
    now: DateTime<Utc>,
) -> Result<u64, Error> {
    let column = |of: fn(&DeadLetter<'_>) -> Value| letters.iter().map(of).collect::<Vec<_>>();
    let done = sqlx::query(schema.sql(&PARK))
        .bind(letters.iter().map(|l| l.id).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.reject.reason.name()).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.reject.field).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.reject.rule.as_str()).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| &*l.record.place.topic).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.record.place.partition).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.record.place.offset).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.record.timestamp).collect::<Vec<_>>())
        .bind(letters.iter().map(|l| l.record.key.as_deref()).collect::<Vec<_>>())
        .bind(column(|l| headers(l.record)))
        .bind(
            letters
                .iter()
                .map(|l| l.record.payload.as_deref().unwrap_or_default())
                .collect::<Vec<_>>(),
        )
        .bind(letters.iter().map(|l| l.cluster).collect::<Vec<_>>())
        .bind(now)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("park dead letters"))?;
    Ok(done.rows_affected())
}

fn headers(record: &Record) -> Value {
    let told = record
        .headers
        .iter()
        .filter(|(name, _)| !SECRET.iter().any(|secret| name.eq_ignore_ascii_case(secret)));
    // jsonb can't hold a NUL character.
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace('\0', "\u{fffd}");
    told.map(|(name, value)| json!([text(name.as_bytes()), text(value)])).collect()
}

/// Which dead letters; what is `None` may be anything.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// [`crate::event::Reason::name`].
    pub reason: Option<String>,
    /// The topic.
    pub topic: Option<String>,
    /// The partition.
    pub partition: Option<i32>,
    /// The member or header that it is about.
    pub field: Option<String>,
}

/// A dead letter as stored.
#[derive(Debug, Clone)]
pub struct Parked {
    /// Its id.
    pub id: Uuid,
    /// Why it was parked: [`crate::event::Reason::name`].
    pub reason: String,
    /// The member or header that it is about.
    pub field: Option<String>,
    /// The rule that it breaks.
    pub rule: String,
    /// When it was parked.
    pub received_at: DateTime<Utc>,
    /// The cluster that its place belongs to.
    pub cluster: String,
    /// The record, without tokens.
    pub record: Record,
}

#[derive(sqlx::FromRow)]
struct Row {
    dead_letter_id: Uuid,
    reason: String,
    field: Option<String>,
    rule: String,
    topic: String,
    partition: i32,
    offset: i64,
    record_at: Option<DateTime<Utc>>,
    received_at: DateTime<Utc>,
    key: Option<Vec<u8>>,
    headers: sqlx::types::Json<Vec<(String, String)>>,
    payload: Vec<u8>,
    cluster: String,
}

impl From<Row> for Parked {
    fn from(row: Row) -> Self {
        let headers = row.headers.0.into_iter();
        Self {
            id: row.dead_letter_id,
            reason: row.reason,
            field: row.field,
            rule: row.rule,
            received_at: row.received_at,
            cluster: row.cluster,
            record: Record {
                place: Place {
                    topic: row.topic.into(),
                    partition: row.partition,
                    offset: row.offset,
                },
                timestamp: row.record_at,
                key: row.key,
                headers: headers.map(|(name, value)| (name, value.into_bytes())).collect(),
                payload: Some(row.payload),
            },
        }
    }
}

/// A page of dead letters, by id; those after `after`, if one is given.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    filter: &Filter,
    after: Option<Uuid>,
    limit: i64,
    offset: i64,
) -> Result<Vec<Parked>, Error> {
    let rows: Vec<Row> = sqlx::query_as(schema.sql(&LIST))
        .bind(&filter.reason)
        .bind(&filter.topic)
        .bind(filter.partition)
        .bind(&filter.field)
        .bind(after)
        .bind(limit)
        .bind(offset)
        .fetch_all(db)
        .await
        .map_err(Error::at("list dead letters"))?;
    Ok(rows.into_iter().map(Parked::from).collect())
}

/// How many dead letters there are.
pub async fn count(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    filter: &Filter,
) -> Result<i64, Error> {
    sqlx::query_scalar(schema.sql(&COUNT))
        .bind(&filter.reason)
        .bind(&filter.topic)
        .bind(filter.partition)
        .bind(&filter.field)
        .fetch_one(db)
        .await
        .map_err(Error::at("count dead letters"))
}

/// One dead letter.
pub async fn find(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
) -> Result<Option<Parked>, Error> {
    let row: Option<Row> = sqlx::query_as(schema.sql(&FIND))
        .bind(id)
        .fetch_optional(db)
        .await
        .map_err(Error::at("find a dead letter"))?;
    Ok(row.map(Parked::from))
}

/// Throws dead letters away, one or all that match, and tells how many.
pub async fn discard(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    filter: &Filter,
    id: Option<Uuid>,
) -> Result<u64, Error> {
    let done = sqlx::query(schema.sql(&DISCARD))
        .bind(&filter.reason)
        .bind(&filter.topic)
        .bind(filter.partition)
        .bind(&filter.field)
        .bind(id)
        .execute(db)
        .await
        .map_err(Error::at("discard dead letters"))?;
    Ok(done.rows_affected())
}

/// Takes a letter away that was applied after all.
pub async fn unpark(tx: &mut Tx, schema: &Schema, id: Uuid) -> Result<(), Error> {
    sqlx::query(schema.sql(&UNPARK))
        .bind(id)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("take a dead letter away"))?;
    Ok(())
}
