//! Collections of JSON records that clients read and write, common to conditions and limits.

use futures_util::{Stream, TryStreamExt};
use serde_json::Value;
use sqlx::{PgExecutor, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{
    cql::{Condition, Query},
    store::{
        Error, Schema, Statement,
        search::{Field, SearchBuilder, SearchTarget},
    },
};

/// The statements and the search of a collection.
#[derive(Debug)]
pub struct Collection {
    /// The statement for all records in the order of the collection, with only the members that an
    /// evaluation needs. An evaluation waits for this statement, and clients may add other members of any
    /// length. A missing member is null.
    pub(super) all: Statement,
    /// The statement for one record; `$1` is the id.
    pub(super) find: Statement,
    /// The searchable fields.
    pub search: SearchTarget,
}

/// The fields for the time and user of creation and of the last update.
pub(super) const METADATA: [Field; 4] = [
    Field::keyword("metadata.createdDate", "jsonb #>> '{metadata,createdDate}'"),
    Field::keyword("metadata.createdByUserId", "jsonb #>> '{metadata,createdByUserId}'"),
    Field::keyword("metadata.updatedDate", "jsonb #>> '{metadata,updatedDate}'"),
    Field::keyword("metadata.updatedByUserId", "jsonb #>> '{metadata,updatedByUserId}'"),
];

/// Returns all records of a collection, with only the members that an evaluation needs.
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

/// The size in bytes at which a page ends, regardless of the requested number of records. Clients may add
/// any members to a record. About 4000 ordinary records are smaller.
const PAGE_BYTES: usize = 2 * 1024 * 1024;

/// Returns a page of the records that match a query, at least one record if any matches.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    collection: &Collection,
    query: &Query,
    (offset, limit): (i64, i64),
) -> Result<Vec<Value>, Error> {
    let target = &collection.search;
    let mut search = SearchBuilder::default();
    search.push("select jsonb from ").push(target.table).push(" where ");
    search.condition(target, &query.condition).order(target, &query.sort);
    search.push(" offset ").bind(offset).push(" limit ").bind(limit);
    let rows = sqlx::query_with(schema.composed(&search.text), search.values);
    page(rows.persistent(false).fetch(db)).await.map_err(Error::at("list records"))
}

async fn page(
    mut rows: impl Stream<Item = Result<PgRow, sqlx::Error>> + Unpin,
) -> Result<Vec<Value>, sqlx::Error> {
    let (mut page, mut bytes) = (Vec::new(), 0);
    while let Some(row) = rows.try_next().await? {
        bytes += row.try_get_raw(0)?.as_bytes().map_err(sqlx::Error::Decode)?.len();
        if bytes > PAGE_BYTES && !page.is_empty() {
            break;
        }
        page.push(row.try_get(0)?);
    }
    Ok(page)
}

/// Returns the number of records that match a condition.
pub async fn count(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    target: &SearchTarget,
    condition: &Condition,
) -> Result<i64, Error> {
    let mut search = SearchBuilder::default();
    search
        .push("select count(*) from ")
        .push(target.table)
        .push(" where ")
        .condition(target, condition);
    let row = sqlx::query_with(schema.composed(&search.text), search.values)
        .persistent(false)
        .fetch_one(db)
        .await;
    row.and_then(|row| row.try_get(0)).map_err(Error::at("count records"))
}

/// Returns the number of records that match a condition, at most `max`. A larger number would cost a scan of the table.
pub async fn count_up_to(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    target: &SearchTarget,
    condition: &Condition,
    max: i64,
) -> Result<i64, Error> {
    let mut search = SearchBuilder::default();
    search.push("select count(*) from (select from ").push(target.table).push(" where ");
    search.condition(target, condition).push(" limit ").bind(max);
    search.push(") counted");
    let row = sqlx::query_with(schema.composed(&search.text), search.values)
        .persistent(false)
        .fetch_one(db)
        .await;
    row.and_then(|row| row.try_get(0)).map_err(Error::at("count records"))
}

/// Returns one record.
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
