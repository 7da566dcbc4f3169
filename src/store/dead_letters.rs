//! Parked records: bytes, headers, reason and place of what could not be applied.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};
use crate::event::{Record, Reject};

const PARK: Statement = Statement::new(
    r#"insert into {schema}.dead_letter (
         dead_letter_id, reason, field, rule, topic, partition, "offset", record_at, key, headers,
         payload, received_at)
       select x.*, $12
         from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::int4[],
                     $7::int8[], $8::timestamptz[], $9::bytea[], $10::jsonb[], $11::bytea[]) as x
       on conflict (dead_letter_id) do nothing"#,
);

pub(super) const STATEMENTS: &[&Statement] = &[&PARK];

/// A record to park.
#[derive(Debug, Clone, Copy)]
pub struct DeadLetter<'a> {
    /// Identifies its place, so that a redelivery parks nothing new.
    pub id: Uuid,
    /// The record.
    pub record: &'a Record,
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
