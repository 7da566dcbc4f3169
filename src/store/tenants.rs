//! The registry of enabled tenants, and the locks that separate the writers of a tenant from changes of
//! the whole tenant.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgExecutor, postgres::PgListener};
use uuid::Uuid;

use super::{Db, Error, Tx};
use crate::event::TenantId;

/// The channel on which instances notify each other of changes of the registry.
const REGISTRY_CHANNEL: &str = "mod_patron_blocks_tenant";

/// The part of a tenant's history that the service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Completeness {
    /// The service has the whole history, apart from the current lag.
    #[default]
    Complete,
    /// The initial fill still reads the history from before the enabling.
    Filling,
    /// Events before this instant may be missing.
    IncompleteBefore(DateTime<Utc>),
}

impl Completeness {
    /// Returns the name as the API publishes it.
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

/// The start of a tenant's enabling, and the completeness of the tenant's history.
pub type Enabling = (DateTime<Utc>, Completeness);

/// Returns all enabled tenants. An invalid tenant id is omitted: no operation could use the id, and the
/// check constraint of the table rejects it.
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

/// Returns the enabling of `tenant`, as [`list_enabled`] does for all tenants.
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
    .map_err(Error::at("find a tenant"))?;
    Ok(row.map(|(since, initial_fill_id, incomplete_before)| {
        (since, Completeness::from_columns(initial_fill_id, incomplete_before))
    }))
}

/// Records that `rebuild` is the initial fill of the tenant.
pub async fn start_initial_fill(
    tx: &mut Tx,
    tenant: &TenantId,
    rebuild: Uuid,
) -> Result<(), Error> {
    let set = "update mod_patron_blocks.tenant set initial_fill_id = $2, incomplete_before = null where tenant = $1";
    let set = sqlx::query(set).bind(tenant.as_str()).bind(rebuild).execute(&mut **tx).await;
    set.map(|_| ()).map_err(Error::at("start the initial fill of a tenant"))
}

/// Records the completeness of a tenant at the end of its initial fill `rebuild`. `None` for `rebuild`
/// means another rebuild with complete knowledge. Events before `incomplete_before` may be missing;
/// `None` means a complete history. Notifies the other instances.
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
    .map_err(Error::at("record the completeness of a tenant"))?;
    notify(tx, tenant.as_str()).await
}

/// Returns the start of the tenant's enabling, or `None` for a disabled tenant. The start identifies the
/// enabling and survives an upgrade.
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
    .map_err(Error::at("find a tenant"))
}

/// Registers a tenant as enabled or disabled, and notifies the other instances at commit.
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

/// Deletes a tenant's schema, registration, returned positions and dead letters.
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
        "delete from mod_patron_blocks.discarded_dead_letter where tenant = $1",
    ] {
        let done = sqlx::query(forget).bind(tenant.as_str()).execute(&mut **tx).await;
        done.map_err(Error::at("delete a tenant"))?;
    }
    notify(tx, tenant.as_str()).await
}

/// Notifies all instances of a change of the registry when the transaction commits.
pub async fn notify(tx: &mut Tx, payload: &str) -> Result<(), Error> {
    sqlx::query("select pg_notify($1, $2)")
        .bind(REGISTRY_CHANNEL)
        .bind(payload)
        .execute(&mut **tx)
        .await
        .map_err(Error::at("publish a change of the registry"))?;
    Ok(())
}

/// Locks the tenant in shared mode until the transaction ends, as every writer of the tenant's rows does.
/// Returns the start of the tenant's enabling, or `None` for a disabled tenant. An exclusive lock waits
/// for all shared locks.
pub async fn lock_shared(tx: &mut Tx, tenant: &TenantId) -> Result<Option<DateTime<Utc>>, Error> {
    sqlx::query("select pg_advisory_xact_lock_shared(hashtextextended($1, 0))")
        .bind(lock_name(tenant))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("lock a tenant in shared mode"))?;
    enabled_since(&mut **tx, tenant).await
}

/// Locks the tenant in exclusive mode until the transaction ends.
pub async fn lock_exclusive(tx: &mut Tx, tenant: &TenantId) -> Result<(), Error> {
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(lock_name(tenant))
        .execute(&mut **tx)
        .await
        .map_err(Error::at("lock a tenant in exclusive mode"))?;
    Ok(())
}

/// Limits how long this transaction waits for a lock, because a waiting exclusive lock blocks every later
/// request.
pub async fn set_lock_timeout(tx: &mut Tx, timeout: Duration) -> Result<(), Error> {
    sqlx::query("select set_config('lock_timeout', $1, true)")
        .bind(timeout.as_millis().to_string())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("set the lock timeout"))?;
    Ok(())
}

/// Locks a tenant, or the module, for migration until the connection closes. Returns `false` if another
/// session has the lock.
pub async fn try_lock_for_migration(
    connection: &mut PgConnection,
    tenant: Option<&TenantId>,
) -> Result<bool, Error> {
    let name = tenant.map_or_else(|| "module".to_owned(), lock_name);
    sqlx::query_scalar("select pg_try_advisory_lock(hashtextextended($1, 1))")
        .bind(name)
        .fetch_one(connection)
        .await
        .map_err(Error::at("acquire a migration lock"))
}

/// Locks a tenant for migration until the transaction ends, and limits every later wait for a lock to
/// `lock_timeout`. Each statement of the transaction may run for 15 minutes, because the transaction
/// writes a whole tenant's state.
pub async fn lock_for_maintenance(
    tx: &mut Tx,
    tenant: &TenantId,
    lock_timeout: Duration,
) -> Result<(), Error> {
    let step = "acquire a migration lock";
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

/// A subscription to changes of the registry that reconnects automatically.
pub struct RegistryListener(PgListener);

impl RegistryListener {
    /// Subscribes to the channel of the registry.
    pub async fn listen(db: &Db) -> Result<Self, Error> {
        let step = "listen for changes of the registry";
        let mut listener = PgListener::connect_with(db).await.map_err(Error::at(step))?;
        listener.listen(REGISTRY_CHANNEL).await.map_err(Error::at(step))?;
        Ok(Self(listener))
    }

    /// Returns when the registry has changed, or may have changed during a loss of the connection.
    pub async fn next(&mut self) -> Result<(), Error> {
        let step = "listen for changes of the registry";
        self.0.try_recv().await.map(|_| ()).map_err(Error::at(step))
    }
}
