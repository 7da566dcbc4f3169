//! Collections of JSON records that clients read and write: what conditions and limits have in common.

use serde_json::Value;
use sqlx::PgExecutor;
use uuid::Uuid;

use super::{Error, Schema, Statement};

/// How a collection is read.
#[derive(Debug)]
pub struct Collection {
    /// A page, in the collection's order; takes offset and limit.
    pub(super) list: Statement,
    /// How many records there are.
    pub(super) count: Statement,
    /// One record; takes its id.
    pub(super) find: Statement,
}

/// A page of a collection.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    collection: &Collection,
    offset: i64,
    limit: i64,
) -> Result<Vec<Value>, Error> {
    sqlx::query_scalar(schema.sql(&collection.list))
        .bind(offset)
        .bind(limit)
        .fetch_all(db)
        .await
        .map_err(Error::at("list records"))
}

/// How many records a collection has.
pub async fn count(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    collection: &Collection,
) -> Result<i64, Error> {
    sqlx::query_scalar(schema.sql(&collection.count))
        .fetch_one(db)
        .await
        .map_err(Error::at("count records"))
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
