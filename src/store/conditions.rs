//! The six conditions, as the JSON records that clients read and write.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Error, Schema, Statement};

const SEED: Statement = Statement::new(
    "insert into {schema}.patron_block_conditions (id, jsonb) values ($1, $2)
     on conflict (id) do nothing",
);
const LIST: Statement = Statement::new(
    "select jsonb from {schema}.patron_block_conditions
      order by lower(jsonb ->> 'name'), id offset $1 limit $2",
);
const COUNT: Statement = Statement::new("select count(*) from {schema}.patron_block_conditions");
const FIND: Statement =
    Statement::new("select jsonb from {schema}.patron_block_conditions where id = $1");
const REPLACE: Statement = Statement::new(
    "update {schema}.patron_block_conditions
        set jsonb = $2, creation_date = coalesce(creation_date, $3 at time zone 'UTC')
      where id = $1",
);

pub(super) const STATEMENTS: &[&Statement] = &[&SEED, &LIST, &COUNT, &FIND, &REPLACE];

/// Puts a condition in its place, unless one is there already.
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
        .map_err(Error::at("seed a condition"))?;
    Ok(())
}

/// A page of conditions, by name.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    offset: i64,
    limit: i64,
) -> Result<Vec<Value>, Error> {
    sqlx::query_scalar(schema.sql(&LIST))
        .bind(offset)
        .bind(limit)
        .fetch_all(db)
        .await
        .map_err(Error::at("list conditions"))
}

/// How many conditions there are.
pub async fn count(db: impl PgExecutor<'_>, schema: &Schema) -> Result<i64, Error> {
    sqlx::query_scalar(schema.sql(&COUNT))
        .fetch_one(db)
        .await
        .map_err(Error::at("count conditions"))
}

/// One condition.
pub async fn find(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
) -> Result<Option<Value>, Error> {
    sqlx::query_scalar(schema.sql(&FIND))
        .bind(id)
        .fetch_optional(db)
        .await
        .map_err(Error::at("find a condition"))
}

/// Replaces a condition; tells whether there is one.
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
