//! The limits that libraries have set, as the JSON records that clients read and write.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Error, Schema, Statement};

/// In the order in which limits were made, which is the order of blocks in an answer.
const LIST: Statement = Statement::new(
    "select jsonb from {schema}.patron_block_limits
      order by creation_date nulls first, id offset $1 limit $2",
);
const COUNT: Statement = Statement::new("select count(*) from {schema}.patron_block_limits");
const FIND: Statement =
    Statement::new("select jsonb from {schema}.patron_block_limits where id = $1");
const ADD: Statement = Statement::new(
    "insert into {schema}.patron_block_limits (id, jsonb, conditionid, creation_date, created_by)
     values ($1, $2, $3, $4 at time zone 'UTC', $5)",
);
const REPLACE: Statement = Statement::new(
    "update {schema}.patron_block_limits set jsonb = $2, conditionid = $3 where id = $1",
);
const REMOVE: Statement = Statement::new("delete from {schema}.patron_block_limits where id = $1");

pub(super) const STATEMENTS: &[&Statement] = &[&LIST, &COUNT, &FIND, &ADD, &REPLACE, &REMOVE];

/// A page of limits.
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
        .map_err(Error::at("list limits"))
}

/// How many limits there are.
pub async fn count(db: impl PgExecutor<'_>, schema: &Schema) -> Result<i64, Error> {
    sqlx::query_scalar(schema.sql(&COUNT)).fetch_one(db).await.map_err(Error::at("count limits"))
}

/// One limit.
pub async fn find(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
) -> Result<Option<Value>, Error> {
    sqlx::query_scalar(schema.sql(&FIND))
        .bind(id)
        .fetch_optional(db)
        .await
        .map_err(Error::at("find a limit"))
}

/// A limit to write.
#[derive(Debug, Clone, Copy)]
pub struct LimitRow<'a> {
    /// Its id.
    pub id: Uuid,
    /// Its condition, which must exist.
    pub condition: Uuid,
    /// The whole record.
    pub record: &'a Value,
}

/// Adds a limit. [`Error::is_duplicate`] where its id is taken, [`Error::is_dangling`] where its
/// condition does not exist.
pub async fn add(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    limit: LimitRow<'_>,
    by: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&ADD))
        .bind(limit.id)
        .bind(limit.record)
        .bind(limit.condition)
        .bind(now)
        .bind(by)
        .execute(db)
        .await
        .map_err(Error::at("add a limit"))?;
    Ok(())
}

/// Replaces a limit; tells whether there is one. [`Error::is_dangling`] as in [`add`].
pub async fn replace(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    limit: LimitRow<'_>,
) -> Result<bool, Error> {
    let done = sqlx::query(schema.sql(&REPLACE))
        .bind(limit.id)
        .bind(limit.record)
        .bind(limit.condition)
        .execute(db)
        .await
        .map_err(Error::at("replace a limit"))?;
    Ok(done.rows_affected() == 1)
}

/// Removes a limit; tells whether there was one.
pub async fn remove(db: impl PgExecutor<'_>, schema: &Schema, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(schema.sql(&REMOVE))
        .bind(id)
        .execute(db)
        .await
        .map_err(Error::at("remove a limit"))?;
    Ok(done.rows_affected() == 1)
}
