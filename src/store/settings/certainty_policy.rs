//! The certainty policy of a tenant, at most one row.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgExecutor;

use crate::{
    event::TenantId,
    store::{Error, Schema, Statement},
};

/// Selects the policy, whether a record of the tenant is parked, and until when open incidents say that records were
/// lost. A parked record without a tenant may be the tenant's.
const SELECT: Statement = Statement::new(
    "select (select policy from {schema}.certainty_policy) as policy,
            exists (select from {schema}.dead_letter)
              or exists (select from mod_patron_blocks.dead_letter where tenant = $1 or tenant is null)
              as has_dead_letters,
            (select max(coalesce(to_time, raised_at)) from mod_patron_blocks.incident
              where kind in ('records_lost', 'topic_recreated') and resolved_at is null
                and (tenant = $1 or tenant is null)) as lost_until",
);

const REPLACE: Statement = Statement::new(
    "insert into {schema}.certainty_policy (policy, updated_at, updated_by) values ($1, now(), $2)
     on conflict (singleton) do update set
       policy = excluded.policy, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
);

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&SELECT, &REPLACE];

/// The stored policy, and whether dead letters may concern a patron.
#[derive(Debug, sqlx::FromRow)]
pub struct StoredCertainty {
    /// The policy; `None` if the tenant has none.
    pub policy: Option<Value>,
    /// Whether a record that may be the tenant's is parked.
    pub has_dead_letters: bool,
    /// Records from before this instant are lost, as open incidents say; `None` without such an incident.
    pub lost_until: Option<DateTime<Utc>>,
}

/// Loads the policy of a tenant.
pub async fn load(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    tenant: &TenantId,
) -> Result<StoredCertainty, Error> {
    sqlx::query_as(schema.sql(&SELECT))
        .bind(tenant.as_str())
        .fetch_one(db)
        .await
        .map_err(Error::at("read the certainty policy"))
}

/// Replaces the policy of a tenant.
pub async fn replace(
    db: impl PgExecutor<'_>,
    schema: &Schema,
    policy: &Value,
    updated_by: Option<&str>,
) -> Result<(), Error> {
    let done = sqlx::query(schema.sql(&REPLACE)).bind(policy).bind(updated_by).execute(db).await;
    done.map(|_| ()).map_err(Error::at("replace the certainty policy"))
}
