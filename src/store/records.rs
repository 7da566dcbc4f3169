//! Collections of JSON records that clients read and write: what conditions and limits have in common.

use serde_json::Value;
use sqlx::{PgExecutor, Row};
use uuid::Uuid;

use super::{
    Error, Schema, Statement,
    search::{Field, Search, Searchable},
};
use crate::cql::{Condition, Query};

/// How a collection is read.
#[derive(Debug)]
pub struct Collection {
    /// All records, in the collection's order.
    pub(super) all: Statement,
    /// One record; takes its id.
    pub(super) find: Statement,
    /// What may be asked about it.
    pub search: Searchable,
}

/// When and by whom a record was made and changed.
pub(super) const METADATA: [Field; 4] = [
    Field::name("metadata.createdDate", "jsonb #>> '{metadata,createdDate}'"),
    Field::name("metadata.createdByUserId", "jsonb #>> '{metadata,createdByUserId}'"),
    Field::name("metadata.updatedDate", "jsonb #>> '{metadata,updatedDate}'"),
    Field::name("metadata.updatedByUserId", "jsonb #>> '{metadata,updatedByUserId}'"),
];

/// All records of a collection.
pub async fn all(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    collection: &Collection,
) -> Result<Vec<Value>, Error> {
    sqlx::query_scalar(schema.sql(&collection.all))
        .fetch_all(db)
        .await
        .map_err(Error::at("read all records"))
}

/// A page of what a query means.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    collection: &Collection,
    query: &Query,
    (offset, limit): (i64, i64),
) -> Result<Vec<Value>, Error> {
    let of = &collection.search;
    let mut search = Search::default();
    search.push("select jsonb from ").push(of.table).push(" where ");
    search.condition(of, &query.condition).order(of, &query.sort);
    search.push(" offset ").bind(offset).push(" limit ").bind(limit);
    sqlx::query_scalar_with(schema.composed(&search.text), search.values)
        .persistent(false)
        .fetch_all(db)
        .await
        .map_err(Error::at("list records"))
}

/// How many records a condition means.
pub async fn count(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    of: &Searchable,
    condition: &Condition,
) -> Result<i64, Error> {
    let mut search = Search::default();
    search.push("select count(*) from ").push(of.table).push(" where ").condition(of, condition);
    let row = sqlx::query_with(schema.composed(&search.text), search.values)
        .persistent(false)
        .fetch_one(db)
        .await;
    row.and_then(|row| row.try_get(0)).map_err(Error::at("count records"))
}

/// One record.
pub async fn find(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    collection: &Collection,
    id: Uuid,
) -> Result<Option<Value>, Error> {
    sqlx::query_scalar(schema.sql(&collection.find))
        .bind(id)
        .fetch_optional(db)
        .await
        .map_err(Error::at("find a record"))
}
