//! The six conditions, as the JSON records that clients read and write.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::records::{Collection, METADATA};
use crate::store::{
    Error, Schema, Statement,
    search::{Field, SearchTarget},
};

const SEED: Statement = Statement::new(
    "insert into {schema}.patron_block_conditions (id, jsonb) values ($1, $2)
     on conflict (id) do nothing",
);
const REPLACE: Statement = Statement::new(
    "update {schema}.patron_block_conditions
        set jsonb = $2, creation_date = coalesce(creation_date, $3 at time zone 'UTC')
      where id = $1",
);

pub(in crate::store) const STATEMENTS: &[&Statement] =
    &[&SEED, &RECORDS.all, &RECORDS.find, &REPLACE];

/// The conditions, ordered by name.
pub static RECORDS: Collection = Collection {
    all: Statement::new(
        "select jsonb_build_object('id', jsonb -> 'id', 'blockBorrowing', jsonb -> 'blockBorrowing',
                  'blockRenewals', jsonb -> 'blockRenewals', 'blockRequests', jsonb -> 'blockRequests',
                  'message', jsonb -> 'message')
           from {schema}.patron_block_conditions order by lower(jsonb ->> 'name'), id",
    ),
    find: Statement::new("select jsonb from {schema}.patron_block_conditions where id = $1"),
    search: SearchTarget {
        table: "{schema}.patron_block_conditions",
        order: "lower(jsonb ->> 'name'), id",
        fields: &FIELDS,
    },
};

const FIELDS: [Field; 11] = {
    let [created, created_by, updated, updated_by] = METADATA;
    [
        Field::keyword("id", "id::text"),
        Field::full_text("name", "jsonb ->> 'name'"),
        Field::full_text("message", "jsonb ->> 'message'"),
        Field::keyword("valueType", "jsonb ->> 'valueType'"),
        Field::keyword("blockBorrowing", "jsonb ->> 'blockBorrowing'"),
        Field::keyword("blockRenewals", "jsonb ->> 'blockRenewals'"),
        Field::keyword("blockRequests", "jsonb ->> 'blockRequests'"),
        created,
        created_by,
        updated,
        updated_by,
    ]
};

/// Inserts a condition unless the condition exists.
pub async fn seed(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    record: &Value,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&SEED))
        .bind(id)
        .bind(record)
        .execute(db)
        .await
        .map_err(Error::at("insert a default condition"))?;
    Ok(())
}

/// Replaces a condition. Returns `false` if the condition does not exist.
pub async fn replace(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
    record: &Value,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let done = sqlx::query(schema.sql(&REPLACE))
        .bind(id)
        .bind(record)
        .bind(now)
        .execute(db)
        .await
        .map_err(Error::at("replace a condition"))?;
    Ok(done.rows_affected() == 1)
}
