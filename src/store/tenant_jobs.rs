//! Outcomes of `POST /_/tenant`, for any instance to answer.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgExecutor, types::Json};
use uuid::Uuid;

use super::{Error, Schema, Statement, Tx};

const ADD: Statement = Statement::new(
    "insert into {schema}.tenant_job (id, tenant_attributes, complete, messages, created_at)
     values ($1, $2, true, $4, $3)",
);
const FIND: Statement = Statement::new(
    "select tenant_attributes, complete, error, messages from {schema}.tenant_job where id = $1",
);
const REMOVE: Statement = Statement::new("delete from {schema}.tenant_job where id = $1");

pub(super) const STATEMENTS: &[&Statement] = &[&ADD, &FIND, &REMOVE];

/// A tenant job as stored.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct TenantJob {
    /// The request's body.
    pub tenant_attributes: Value,
    /// Whether it has ended.
    pub complete: bool,
    /// Why it failed, if it did.
    pub error: Option<String>,
    /// What else there is to say.
    pub messages: Value,
}

/// Enters a job that ends with this transaction.
pub async fn add(
    tx: &mut Tx,
    schema: &Schema,
    id: Uuid,
    attributes: &Value,
    messages: &[String],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query(schema.sql(&ADD))
        .bind(id)
        .bind(attributes)
        .bind(now)
        .bind(Json(messages))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("enter a tenant job"))?;
    Ok(())
}

/// The job, if it is known.
pub async fn find(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    id: Uuid,
) -> Result<Option<TenantJob>, Error> {
    sqlx::query_as(schema.sql(&FIND))
        .bind(id)
        .fetch_optional(db)
        .await
        .map_err(Error::at("find a tenant job"))
}

/// Forgets a job; tells whether it was known.
pub async fn remove(db: impl PgExecutor<'_>, schema: &Schema, id: Uuid) -> Result<bool, Error> {
    let done = sqlx::query(schema.sql(&REMOVE))
        .bind(id)
        .execute(db)
        .await
        .map_err(Error::at("forget a tenant job"))?;
    Ok(done.rows_affected() == 1)
}
