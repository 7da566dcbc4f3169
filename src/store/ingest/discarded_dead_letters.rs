//! Dead letters that an operator discarded. They can be restored until housekeeping deletes them.

use chrono::{DateTime, Utc};
use sqlx::PgExecutor;
use uuid::Uuid;

use super::dead_letters::SEARCH_TARGET;
use crate::{
    cql::Condition,
    store::{Error, Schema, Statement, search::SearchBuilder},
};

/// The columns that a dead letter has before and after it is discarded. Only the schema of the module has `tenant`.
macro_rules! columns {
    (of_tenant) => {
        r#"dead_letter_id, reason, field, rule, topic, partition, "offset", cluster, record_at, key, headers, payload,
           subjects"#
    };
    (of_module) => {
        concat!(columns!(of_tenant), ", tenant")
    };
}

/// Moves the dead letters that a common table expression `discarded` has deleted. A record may have been discarded
/// before, and read and parked again since.
macro_rules! insert_discarded {
    ($columns:ident) => {
        concat!(
            "insert into {schema}.discarded_dead_letter (received_at, ",
            columns!($columns),
            ") select received_at, ",
            columns!($columns),
            " from discarded
             on conflict (dead_letter_id) do update set discarded_at = excluded.discarded_at
             returning dead_letter_id"
        )
    };
}

/// Restores the dead letters that a common table expression `restored` has deleted. They count as parked now, because
/// housekeeping would otherwise delete them as the oldest. If a record was read and parked again since, that dead letter
/// stays.
macro_rules! insert_restored {
    ($columns:ident) => {
        concat!(
            "insert into {schema}.dead_letter (received_at, ",
            columns!($columns),
            ") select now(), ",
            columns!($columns),
            " from restored
             on conflict (dead_letter_id) do update set received_at = now()
             returning dead_letter_id"
        )
    };
}

/// The statements that move dead letters, for one kind of schema.
struct Moves {
    discard: Statement,
    insert_discarded: &'static str,
    restore: Statement,
    restore_some: Statement,
}

macro_rules! moves {
    ($columns:ident) => {
        Moves {
            discard: Statement::new(concat!(
                "with discarded as (
                   delete from {schema}.dead_letter where dead_letter_id = $1 returning *) ",
                insert_discarded!($columns)
            )),
            insert_discarded: insert_discarded!($columns),
            restore: Statement::new(concat!(
                "with restored as (
                   delete from {schema}.discarded_dead_letter where dead_letter_id = $1 returning *) ",
                insert_restored!($columns)
            )),
            restore_some: Statement::new(concat!(
                "with restored as (
                   delete from {schema}.discarded_dead_letter where dead_letter_id = any (array (
                     select dead_letter_id from {schema}.discarded_dead_letter limit $1)) returning *) ",
                insert_restored!($columns)
            )),
        }
    };
}

static OF_TENANT: Moves = moves!(of_tenant);

/// A record of the module that waits for a tenant stays this tenant's, so a purge of the tenant deletes it.
static OF_MODULE: Moves = moves!(of_module);

impl Moves {
    fn of(schema: &Schema) -> &'static Self {
        if schema.is_module() { &OF_MODULE } else { &OF_TENANT }
    }
}

const COUNT: Statement = Statement::new("select count(*) from {schema}.discarded_dead_letter");

const LIST: Statement = Statement::new(
    r#"select dead_letter_id, discarded_at, reason, rule, topic, partition, "offset"
         from {schema}.discarded_dead_letter order by discarded_at desc, dead_letter_id limit $1"#,
);

const LIST_BY_SUBJECT: Statement = Statement::new(
    r#"select dead_letter_id, discarded_at, reason, rule, topic, partition, "offset"
         from {schema}.discarded_dead_letter where subjects && $1
        order by discarded_at desc, dead_letter_id limit $2"#,
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[
    &OF_TENANT.discard,
    &OF_TENANT.restore,
    &OF_TENANT.restore_some,
    &COUNT,
    &LIST,
    &LIST_BY_SUBJECT,
];

/// A discarded dead letter, without its bytes.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct DiscardedHead {
    /// The id of the dead letter.
    #[sqlx(rename = "dead_letter_id")]
    pub id: Uuid,
    /// When the dead letter was discarded.
    pub discarded_at: DateTime<Utc>,
    /// The reason of the rejection.
    pub reason: String,
    /// The broken rule.
    pub rule: String,
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// Discards one dead letter. Returns `false` if the dead letter does not exist.
pub async fn discard(db: impl PgExecutor<'_>, schema: &Schema, id: Uuid) -> Result<bool, Error> {
    let moved: Result<Vec<Uuid>, _> =
        sqlx::query_scalar(schema.sql(&Moves::of(schema).discard)).bind(id).fetch_all(db).await;
    Ok(!moved.map_err(Error::at("discard a dead letter"))?.is_empty())
}

/// Discards at most `most` of the matching dead letters with the lowest ids, only ids greater than `after`
/// if given. One short statement moves the rows. Returns the discarded ids.
pub async fn discard_matching(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    condition: &Condition,
    after: Option<Uuid>,
    most: i64,
) -> Result<Vec<Uuid>, Error> {
    let mut search = SearchBuilder::default();
    search.push(
        "with discarded as (
           delete from {schema}.dead_letter where dead_letter_id = any (array (
             select dead_letter_id from {schema}.dead_letter where ",
    );
    search.condition(&SEARCH_TARGET, condition);
    if let Some(after) = after {
        search.push(" and dead_letter_id > ").bind(after);
    }
    search.push(" order by dead_letter_id limit ").bind(most);
    search.push(")) returning *) ");
    search.push(Moves::of(schema).insert_discarded);
    sqlx::query_scalar_with(schema.composed(&search.text), search.values)
        .persistent(false)
        .fetch_all(db)
        .await
        .map_err(Error::at("discard the matching dead letters"))
}

/// Parks a discarded dead letter again. Returns `false` if no dead letter with this id is discarded.
pub async fn restore(db: impl PgExecutor<'_>, schema: &Schema, id: Uuid) -> Result<bool, Error> {
    let moved: Result<Vec<Uuid>, _> =
        sqlx::query_scalar(schema.sql(&Moves::of(schema).restore)).bind(id).fetch_all(db).await;
    Ok(!moved.map_err(Error::at("restore a dead letter"))?.is_empty())
}

/// Parks at most `most` discarded dead letters again. Returns their number.
pub async fn restore_some(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    most: i64,
) -> Result<usize, Error> {
    let moved: Result<Vec<Uuid>, _> =
        sqlx::query_scalar(schema.sql(&Moves::of(schema).restore_some))
            .bind(most)
            .fetch_all(db)
            .await;
    Ok(moved.map_err(Error::at("restore dead letters"))?.len())
}

/// Returns the number of discarded dead letters.
pub async fn count(db: impl PgExecutor<'_>, schema: &Schema) -> Result<i64, Error> {
    let counted = sqlx::query_scalar(schema.sql(&COUNT)).fetch_one(db).await;
    counted.map_err(Error::at("count the discarded dead letters"))
}

/// Returns the dead letters that were discarded last.
pub async fn list(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    limit: i64,
) -> Result<Vec<DiscardedHead>, Error> {
    let found = sqlx::query_as(schema.sql(&LIST)).bind(limit).fetch_all(db).await;
    found.map_err(Error::at("list the discarded dead letters"))
}

/// Returns the dead letters that were discarded last and name one of these ids.
pub async fn list_by_subject(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    subjects: &[Uuid],
    limit: i64,
) -> Result<Vec<DiscardedHead>, Error> {
    let found = sqlx::query_as(schema.sql(&LIST_BY_SUBJECT)).bind(subjects).bind(limit);
    found.fetch_all(db).await.map_err(Error::at("list the discarded dead letters of a patron"))
}
