//! The outbox of block events. The transaction of a change inserts the messages, and the publish worker
//! sends the messages afterwards.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use crate::store::{Error, Schema, Statement, Tx};

/// Returns sequences above every earlier sequence, even after the tenant was purged or the database was
/// restored. The sequence is at least the database clock in microseconds.
const NEXT_SEQUENCES: Statement = Statement::new(
    "with least as (
       select setval('{schema}.message_sequence', greatest(last_value,
                (extract(epoch from clock_timestamp()) * 1000000)::bigint)) as number
         from {schema}.message_sequence)
     select nextval('{schema}.message_sequence') from least, generate_series(1, $1)",
);

const INSERT: Statement = Statement::new(
    "insert into {schema}.message_outbox (sequence, id, kafka_topic, key, headers, payload)
     select * from unnest($1::int8[], $2::uuid[], $3::text[], $4::text[], $5::jsonb[], $6::text[])",
);

const SELECT_UNSENT: Statement = Statement::new(
    "select sequence, id, kafka_topic, key, headers, payload from {schema}.message_outbox
      where status = 'NEW' order by sequence limit $1",
);

const SET_SENT: Statement = Statement::new(
    "update {schema}.message_outbox set status = 'SENT', sent_at = now() where sequence = any($1)",
);

/// Marks the newest message of each pair of topic and key for resend, if that message was sent.
const MARK_FOR_RESEND: Statement = Statement::new(
    "update {schema}.message_outbox set status = 'NEW' where status = 'SENT' and sequence in (
       select max(m.sequence) from {schema}.message_outbox m
         join unnest($1::text[], $2::text[]) as of (kafka_topic, key)
           on of.kafka_topic = m.kafka_topic and of.key = m.key
        group by m.kafka_topic, m.key)",
);

/// Deletes only sent messages. Unsent messages remain, regardless of their age.
const PRUNE: Statement = Statement::new(
    "delete from {schema}.message_outbox where status = 'SENT' and sent_at < $1 and sequence in (
       select sequence from {schema}.message_outbox order by sequence limit $2)",
);

pub(in crate::store) const STATEMENTS: &[&Statement] =
    &[&NEXT_SEQUENCES, &INSERT, &SELECT_UNSENT, &SET_SENT, &MARK_FOR_RESEND, &PRUNE];

/// A message as stored.
#[derive(Debug, Clone, PartialEq, sqlx::FromRow)]
pub struct Message {
    /// The number that orders the messages.
    pub sequence: i64,
    /// The id by which consumers identify the message.
    pub id: Uuid,
    /// The name of the Kafka topic.
    pub kafka_topic: String,
    /// The Kafka key.
    pub key: String,
    /// The Kafka headers, as a JSON object of strings.
    pub headers: Value,
    /// The Kafka value.
    pub payload: String,
}

/// Returns the next `count` sequences in ascending order. The caller has to lock the detect worker, so
/// that calls never overlap.
pub async fn next_sequences(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    count: usize,
) -> Result<Vec<i64>, Error> {
    let many = i32::try_from(count).unwrap_or(i32::MAX);
    let mut numbers: Vec<i64> = sqlx::query_scalar(schema.sql(&NEXT_SEQUENCES))
        .bind(many)
        .fetch_all(db)
        .await
        .map_err(Error::at("reserve sequences of messages"))?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// Inserts messages.
pub async fn insert(tx: &mut Tx, schema: &Schema, messages: &[Message]) -> Result<(), Error> {
    fn column<T>(of: &[Message], value: impl Fn(&Message) -> T) -> Vec<T> {
        of.iter().map(value).collect()
    }
    sqlx::query(schema.sql(&INSERT))
        .bind(column(messages, |message| message.sequence))
        .bind(column(messages, |message| message.id))
        .bind(column(messages, |message| message.kafka_topic.clone()))
        .bind(column(messages, |message| message.key.clone()))
        .bind(column(messages, |message| message.headers.clone()))
        .bind(column(messages, |message| message.payload.clone()))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("insert messages"))?;
    Ok(())
}

/// Returns the next unsent messages in order, at most `most`.
pub async fn load_unsent(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    most: i64,
) -> Result<Vec<Message>, Error> {
    let found = sqlx::query_as(schema.sql(&SELECT_UNSENT)).bind(most).fetch_all(db).await;
    found.map_err(Error::at("read unsent messages"))
}

/// Marks messages as sent after the acknowledgement of the broker.
pub async fn set_sent(tx: &mut Tx, schema: &Schema, sequences: &[i64]) -> Result<(), Error> {
    let set = sqlx::query(schema.sql(&SET_SENT)).bind(sequences).execute(&mut **tx).await;
    set.map(|_| ()).map_err(Error::at("mark messages as sent"))
}

/// Marks the newest message of each pair of topic and key for resend, because the log may contain an
/// older message behind it.
pub async fn mark_for_resend(
    tx: &mut Tx,
    schema: &Schema,
    of: &[(String, String)],
) -> Result<(), Error> {
    let (topics, keys): (Vec<&str>, Vec<&str>) =
        of.iter().map(|(topic, key)| (&**topic, &**key)).unzip();
    let set = sqlx::query(schema.sql(&MARK_FOR_RESEND)).bind(topics).bind(keys);
    let set = set.execute(&mut **tx).await;
    set.map(|_| ()).map_err(Error::at("mark messages for resend"))
}

/// Deletes sent messages older than `before` among the oldest `most` messages. Returns the number of
/// deleted messages.
pub async fn prune(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    before: DateTime<Utc>,
    most: i64,
) -> Result<u64, Error> {
    let gone = sqlx::query(schema.sql(&PRUNE)).bind(before).bind(most).execute(db).await;
    Ok(gone.map_err(Error::at("delete old messages"))?.rows_affected())
}
