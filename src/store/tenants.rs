//! The registry of enabled tenants, and the lock that keeps a tenant's writers and its upheavals apart.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, postgres::PgListener};
use uuid::Uuid;

use super::{Db, Error, Tx};
use crate::event::TenantId;

/// The channel on which instances tell each other that the registry has changed.
const REGISTRY_CHANNEL: &str = "mod_patron_blocks_tenant";

/// How much is known of what happened to a tenant's patrons.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Completeness {
    /// All of it, but for what lags.
    #[default]
    Complete,
    /// What happened before it was enabled is being read.
    Filling,
    /// Not all that happened before this instant.
    IncompleteBefore(DateTime<Utc>),
}

impl Completeness {
    /// As told.
    pub fn name(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Filling => "filling",
            Self::IncompleteBefore(_) => "incomplete",
        }
    }

    fn from_columns(
        initial_fill_id: Option<Uuid>,
        incomplete_before: Option<DateTime<Utc>>,
    ) -> Self {
        match (initial_fill_id, incomplete_before) {
            (Some(_), _) => Self::Filling,
            (None, Some(before)) => Self::IncompleteBefore(before),
            (None, None) => Self::Complete,
        }
    }
}

/// An enabled tenant: since when it is, and what is known of it.
pub type Enabling = (DateTime<Utc>, Completeness);

/// All tenants that are enabled now. An id that could not be one is left out: nothing can be done for it,
/// and the table's check does not let it in.
pub async fn list_enabled(db: impl PgExecutor<'_>) -> Result<HashMap<TenantId, Enabling>, Error> {
    type Row = (String, DateTime<Utc>, Option<Uuid>, Option<DateTime<Utc>>);
    let rows: Vec<Row> = sqlx::query_as(
        "select tenant, enabled_at, initial_fill_id, incomplete_before from mod_patron_blocks.tenant
          where enabled",
    )
    .fetch_all(db)
    .await
    .map_err(Error::at("list enabled tenants"))?;
    let known = |(name, since, initial_fill_id, incomplete_before): Row| {
        Some((
            TenantId::parse(&name)?,
            (since, Completeness::from_columns(initial_fill_id, incomplete_before)),
        ))
    };
    Ok(rows.into_iter().filter_map(known).collect())
}

/// As [`list_enabled`], of this tenant.
pub async fn find_enabled(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
) -> Result<Option<Enabling>, Error> {
    type Row = (DateTime<Utc>, Option<Uuid>, Option<DateTime<Utc>>);
    let row: Option<Row> = sqlx::query_as(
        "select enabled_at, initial_fill_id, incomplete_before from mod_patron_blocks.tenant
          where tenant = $1 and enabled",
    )
    .bind(tenant.as_str())
    .fetch_optional(db)
    .await
    .map_err(Error::at("look up a tenant"))?;
    Ok(row.map(|(since, initial_fill_id, incomplete_before)| {
        (since, Completeness::from_columns(initial_fill_id, incomplete_before))
    }))
}

/// Has a rebuild fill a tenant.
pub async fn start_initial_fill(
    tx: &mut Tx,
    tenant: &TenantId,
    rebuild: Uuid,
) -> Result<(), Error> {
    let set = "update mod_patron_blocks.tenant set initial_fill_id = $2, incomplete_before = null where tenant = $1";
    let set = sqlx::query(set).bind(tenant.as_str()).bind(rebuild).execute(&mut **tx).await;
    set.map(|_| ()).map_err(Error::at("have a tenant filled"))
}

/// A tenant's knowledge once a rebuild has ended that fills it (`by`), or that knows all there is to know:
/// what happened before an instant may be missing, or nothing is. Tells the other instances.
pub async fn finish_initial_fill(
    tx: &mut Tx,
    tenant: &TenantId,
    rebuild: Option<Uuid>,
    incomplete_before: Option<DateTime<Utc>>,
) -> Result<(), Error> {
    sqlx::query(
        "update mod_patron_blocks.tenant
            set incomplete_before = $3, initial_fill_id = case when $2::uuid is null then initial_fill_id end
          where tenant = $1 and ($2::uuid is null or initial_fill_id = $2)",
    )
    .bind(tenant.as_str())
    .bind(rebuild)
    .bind(incomplete_before)
    .execute(&mut **tx)
    .await
    .map_err(Error::at("note what is known of a tenant"))?;
    notify(tx, tenant.as_str()).await
}

/// Since when a tenant is enabled, if it is: the identity of the enabling, which an upgrade keeps.
pub async fn enabled_since(
    db: impl PgExecutor<'_>,
    tenant: &TenantId,
) -> Result<Option<DateTime<Utc>>, Error> {
    sqlx::query_scalar(
        "select enabled_at from mod_patron_blocks.tenant where tenant = $1 and enabled",
    )
    .bind(tenant.as_str())
    .fetch_optional(db)
    .await
    .map_err(Error::at("look up a tenant"))
}

/// Enters a tenant as enabled or not, and tells the other instances when the transaction commits.
pub async fn set_enabled(
    tx: &mut Tx,
    tenant: &TenantId,
    enabled: bool,
    module_id: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    sqlx::query(
        "insert into mod_patron_blocks.tenant (tenant, enabled, module_id, changed_at)
         values ($1, $2, $3, $4)
         on conflict (tenant) do update set
           enabled = excluded.enabled, module_id = excluded.module_id, changed_at = excluded.changed_at",
    )
    .bind(tenant.as_str())
    .bind(enabled)
    .bind(module_id)
    .bind(now)
    .execute(&mut **tx)
    .await
    .map_err(Error::at("register a tenant"))?;
    notify(tx, tenant.as_str()).await
}

/// Forgets a tenant and all its data.
pub async fn purge(tx: &mut Tx, tenant: &TenantId, schema: &super::Schema) -> Result<(), Error> {
    let drop = super::Statement::new("drop schema if exists {schema} cascade");
    sqlx::query(schema.sql(&drop))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("drop a tenant's schema"))?;
    for forget in [
        "delete from mod_patron_blocks.tenant where tenant = $1",
        "delete from mod_patron_blocks.returned_position where tenant = $1",
        "delete from mod_patron_blocks.dead_letter where tenant = $1",
    ] {
        let done = sqlx::query(forget).bind(tenant.as_str()).execute(&mut **tx).await;
        done.map_err(Error::at("forget a tenant"))?;
    }
    notify(tx, tenant.as_str()).await
}

/// Tells all instances, when the transaction commits, that something has changed.
pub async fn notify(tx: &mut Tx, payload: &str) -> Result<(), Error> {
    sqlx::query("select pg_notify($1, $2)")
        .bind(REGISTRY_CHANNEL)
        .bind(payload)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("announce a change of the registry"))?;
    Ok(())
}

/// Takes the tenant's lock for this transaction as one of many who write its rows, and tells since when
/// the tenant is enabled, if it is. Whoever changes the tenant as a whole waits for them.
pub async fn lock_shared(tx: &mut Tx, tenant: &TenantId) -> Result<Option<DateTime<Utc>>, Error> {
    sqlx::query("select pg_advisory_xact_lock_shared(hashtextextended($1, 0))")
        .bind(lock_name(tenant))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("share a tenant's lock"))?;
    enabled_since(&mut **tx, tenant).await
}

/// Takes the tenant's lock for this transaction alone.
pub async fn lock_exclusive(tx: &mut Tx, tenant: &TenantId) -> Result<(), Error> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(lock_name(tenant))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("take a tenant's lock"))?;
    Ok(())
}

/// Bounds how long this transaction waits for a lock: who waits alone keeps all who come later waiting.
pub async fn set_lock_timeout(tx: &mut Tx, timeout: Duration) -> Result<(), Error> {
    sqlx::query("select set_config('lock_timeout', $1, true)")
        .bind(timeout.as_millis().to_string())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("bound the wait for a lock"))?;
    Ok(())
}

/// Takes a tenant's migration lock, or the module's, for as long as the connection lives. Returns `false`
/// while another session has the lock.
pub async fn try_lock_for_migration(
    connection: &mut PgConnection,
    tenant: Option<&TenantId>,
) -> Result<bool, Error> {
    let name = tenant.map_or_else(|| "module".to_owned(), lock_name);
    sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 1))")
        .bind(name)
        .fetch_one(connection)
        .await
        .map_err(Error::at("take a migration lock"))
}

/// Takes the tenant's migration lock for this transaction, each statement of which may take a quarter of
/// an hour: a whole tenant's state is written. Once it has the lock it waits no longer than `most` for any
/// other.
pub async fn lock_for_maintenance(
    tx: &mut Tx,
    tenant: &TenantId,
    lock_timeout: Duration,
) -> Result<(), Error> {
    let step = "take a migration lock";
    sqlx::query(
        "select set_config('statement_timeout', '900000', true),
                set_config('idle_in_transaction_session_timeout', '60000', true)",
    )
    .execute(&mut **tx)
    .await
    .map_err(Error::at(step))?;
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 1))")
        .bind(lock_name(tenant))
        .execute(&mut **tx)
        .await
        .map_err(Error::at(step))?;
    set_lock_timeout(tx, lock_timeout).await
}

fn lock_name(tenant: &TenantId) -> String {
    format!("mod_patron_blocks/{tenant}")
}

/// Waits for news of the registry; reconnects by itself.
pub struct RegistryListener(PgListener);

impl RegistryListener {
    /// Begins to listen.
    pub async fn listen(db: &Db) -> Result<Self, Error> {
        let step = "listen for changes of the registry";
        let mut listener = PgListener::connect_with(db).await.map_err(Error::at(step))?;
        listener.listen(REGISTRY_CHANNEL).await.map_err(Error::at(step))?;
        Ok(Self(listener))
    }

    /// Returns when the registry has changed, or may have while the connection was away.
    pub async fn next(&mut self) -> Result<(), Error> {
        let step = "listen for changes of the registry";
        self.0.try_recv().await.map(|_| ()).map_err(Error::at(step))
    }
}
