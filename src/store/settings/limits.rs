//! The limits of libraries, as the JSON records that clients read and write.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::records::{Collection, METADATA};
use crate::store::{
    Db, Error, Schema, Statement, begin, commit,
    search::{Field, SearchTarget},
};

const INSERT: Statement = Statement::new(
    "insert into {schema}.patron_block_limits (id, jsonb, conditionid, creation_date, created_by)
     values ($1, $2, $3, $4 at time zone 'UTC', $5)",
);
/// Inserts a limit unless the patron group `$6` has a limit of the condition.
const INSERT_FIRST: Statement = Statement::new(
    "insert into {schema}.patron_block_limits (id, jsonb, conditionid, creation_date, created_by)
     select $1, $2, $3, $4 at time zone 'UTC', $5
      where not exists (
        select from {schema}.patron_block_limits
         where conditionid = $3 and lower(jsonb ->> 'patronGroupId') = lower($6))",
);
/// Makes the next writers of limits wait, and no reader.
const LOCK: Statement =
    Statement::new("lock table {schema}.patron_block_limits in share row exclusive mode");
const REPLACE: Statement = Statement::new(
    "update {schema}.patron_block_limits set jsonb = $2, conditionid = $3 where id = $1",
);
const REMOVE: Statement = Statement::new("delete from {schema}.patron_block_limits where id = $1");

pub(in crate::store) const STATEMENTS: &[&Statement] =
    &[&RECORDS.all, &RECORDS.find, &INSERT, &INSERT_FIRST, &LOCK, &REPLACE, &REMOVE];

/// The limits in order of creation, which is the order of blocks in an API response.
pub static RECORDS: Collection = Collection {
    all: Statement::new(
        "select jsonb_build_object('id', jsonb -> 'id', 'patronGroupId', jsonb -> 'patronGroupId',
                  'conditionId', jsonb -> 'conditionId', 'value', jsonb -> 'value',
                  'createdDate', jsonb #> '{metadata,createdDate}',
                  'updatedDate', jsonb #> '{metadata,updatedDate}')
           from {schema}.patron_block_limits order by creation_date nulls first, id",
    ),
    find: Statement::new("select jsonb from {schema}.patron_block_limits where id = $1"),
    search: SearchTarget {
        table: "{schema}.patron_block_limits",
        order: "creation_date nulls first, id",
        fields: &FIELDS,
    },
};

const FIELDS: [Field; 8] = {
    let [created, created_by, updated, updated_by] = METADATA;
    [
        Field::keyword("id", "id::text"),
        Field::keyword("patronGroupId", "jsonb ->> 'patronGroupId'"),
        Field::keyword("conditionId", "jsonb ->> 'conditionId'"),
        Field::number(
            "value",
            "jsonb ->> 'value'",
            "case jsonb_typeof(jsonb -> 'value') when 'number' then (jsonb ->> 'value')::numeric end",
        ),
        created,
        created_by,
        updated,
        updated_by,
    ]
};

/// A limit to write.
#[derive(Debug, Clone, Copy)]
pub struct LimitRow<'a> {
    /// The id of the limit.
    pub id: Uuid,
    /// The id of the condition, which must exist.
    pub condition: Uuid,
    /// The whole JSON record.
    pub record: &'a Value,
}

/// Inserts a limit. If the id exists, the error satisfies [`Error::is_unique_violation`]. If the
/// condition does not exist, the error satisfies [`Error::is_foreign_key_violation`].
pub async fn insert(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    limit: LimitRow<'_>,
    by: Option<&str>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&INSERT))
        .bind(limit.id)
        .bind(limit.record)
        .bind(limit.condition)
        .bind(now)
        .bind(by)
        .execute(db)
        .await
        .map_err(Error::at("insert a limit"))?;
    Ok(())
}

/// Inserts a limit like [`insert`], unless the patron group has a limit of the condition. Returns whether the limit is
/// inserted. Two such inserts at once wait for each other.
pub async fn insert_first(
    db: &Db,
    schema: &Schema,
    limit: LimitRow<'_>,
    group: &str,
    by: Option<&str>,
    now: DateTime<Utc>,
) -> Result<bool, Error> {
    let mut tx = begin(db).await?;
    let locked = sqlx::query(schema.sql(&LOCK)).execute(&mut *tx).await;
    locked.map_err(Error::at("lock the limits"))?;
    let done = sqlx::query(schema.sql(&INSERT_FIRST))
        .bind(limit.id)
        .bind(limit.record)
        .bind(limit.condition)
        .bind(now)
        .bind(by)
        .bind(group)
        .execute(&mut *tx)
        .await
        .map_err(Error::at("insert a limit"))?;
    commit(tx).await?;
    Ok(done.rows_affected() == 1)
}

/// Replaces a limit. Returns `false` if the limit does not exist. A missing condition causes the same
/// error as in [`insert`].
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

/// Deletes a limit. Returns `false` if the limit does not exist.
pub async fn remove(db: impl PgExecutor<'_>, schema: &Schema, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(schema.sql(&REMOVE))
        .bind(id)
        .execute(db)
        .await
        .map_err(Error::at("delete a limit"))?;
    Ok(done.rows_affected() == 1)
}
