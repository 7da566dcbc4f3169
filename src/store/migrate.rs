//! The migrations of the module's schema and of each tenant's schema.

use std::{sync::LazyLock, time::Duration};

use sqlx::{
    AssertSqlSafe, PgConnection, PgExecutor, SqlSafeStr,
    migrate::{Migration, Migrator},
};
use tokio::time::{Instant, sleep};

use super::{Db, Error, Schema, Statement, Tx, Verdict, tenants};
use crate::event::TenantId;

static MODULE_MIGRATOR: LazyLock<Migrator> =
    LazyLock::new(|| configured(sqlx::migrate!("migrations/module")));
static TENANT_MIGRATOR: LazyLock<Migrator> =
    LazyLock::new(|| configured(sqlx::migrate!("migrations/tenant")));
/// The migrations of a tenant for use within a transaction. The tables are new and empty, so indexes need
/// no concurrent build, which PostgreSQL allows only outside a transaction.
static TENANT_MIGRATOR_IN_TRANSACTION: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = configured(sqlx::migrate!("migrations/tenant"));
    migrator.migrations.to_mut().iter_mut().for_each(join_transaction);
    migrator
});

/// The maximum wait for another instance that migrates the same schema, and the interval between attempts
/// to lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(100);

const SELECT_APPLIED_VERSIONS: Statement =
    Statement::new("select version from {schema}._sqlx_migrations where success");

pub(in crate::store) const STATEMENTS: &[&Statement] = &[&SELECT_APPLIED_VERSIONS];

/// Configures a migrator. During a rollout, an older instance may start on a schema that a newer instance
/// has migrated, so unknown migrations are ignored. The migrator's own lock is disabled: it covers the
/// whole database, and sessions that wait for it would block an index build. This module locks each
/// schema.
fn configured(mut migrator: Migrator) -> Migrator {
    migrator.set_ignore_missing(true);
    migrator.set_locking(false);
    migrator
}

fn join_transaction(migration: &mut Migration) {
    if migration.no_tx {
        let sql = migration.sql.as_str().replace(" concurrently", "");
        // The text is a migration of this repository.
        migration.sql = AssertSqlSafe(sql).into_sql_str();
        migration.no_tx = false;
    }
}

/// Returns whether a tenant's schema has every migration of this version.
pub async fn is_current(db: impl PgExecutor<'_>, schema: &Schema) -> Result<bool, Error> {
    let result = sqlx::query_scalar(schema.sql(&SELECT_APPLIED_VERSIONS)).fetch_all(db).await;
    let applied: Vec<i64> = match result.map_err(Error::at("list the applied migrations")) {
        // The table of migrations does not exist.
        Err(error) if error.verdict() == Verdict::Unusable => return Ok(false),
        applied => applied?,
    };
    Ok(TENANT_MIGRATOR.iter().all(|migration| applied.contains(&migration.version)))
}

/// Creates or migrates the module's schema.
pub async fn module(db: &Db) -> Result<(), Error> {
    run(db, &MODULE_MIGRATOR, &Schema::module(), None).await
}

/// Creates or migrates a tenant's schema. Several instances may call the function at once.
pub async fn tenant(db: &Db, tenant: &TenantId, schema: &Schema) -> Result<(), Error> {
    run(db, &TENANT_MIGRATOR, schema, Some(tenant)).await
}

/// Migrates a tenant's schema within a transaction, for which the caller has locked the tenant's
/// migrations. Every migration of a tenant therefore has to work inside a transaction.
pub async fn tenant_in_transaction(tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
    sqlx::query("select set_config('search_path', $1, true), set_config('client_min_messages', 'warning', true)")
        .bind(schema.name())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("prepare a transaction for migrations"))?;
    TENANT_MIGRATOR_IN_TRANSACTION
        .run_direct(None, &mut **tx, false)
        .await
        .map_err(|source| Error::Migrate { schema: schema.name().to_owned(), source })
}

async fn run(
    db: &Db,
    migrator: &Migrator,
    schema: &Schema,
    tenant: Option<&TenantId>,
) -> Result<(), Error> {
    let mut connection = db.acquire().await.map_err(Error::at("connect for a migration"))?;
    // Closing the connection also removes its search path and its advisory lock.
    connection.close_on_drop();
    lock(&mut connection, schema, tenant).await?;
    create_schema(&mut connection, schema).await?;
    drop_invalid_indexes(&mut connection, schema).await?;
    // The bounds of `run` would prevent a caller's future from being spawned.
    migrator
        .run_direct(None, &mut *connection, false)
        .await
        .map_err(|source| Error::Migrate { schema: schema.name().to_owned(), source })
}

/// Locks a schema for migration until the connection closes, because migrations run in their own
/// transactions. The function polls: a session that waits inside a statement would block an index build.
async fn lock(
    connection: &mut PgConnection,
    schema: &Schema,
    tenant: Option<&TenantId>,
) -> Result<(), Error> {
    let deadline = Instant::now() + LOCK_TIMEOUT;
    while !tenants::try_lock_for_migration(connection, tenant).await? {
        if Instant::now() > deadline {
            return Err(Error::MigrationBusy { schema: schema.name().to_owned() });
        }
        sleep(LOCK_POLL_INTERVAL).await;
    }
    Ok(())
}

/// Drops the remains of an interrupted index build, which slow every write and occupy the index's name.
async fn drop_invalid_indexes(connection: &mut PgConnection, schema: &Schema) -> Result<(), Error> {
    let step = "drop incomplete indexes";
    let invalid: Vec<String> = sqlx::query_scalar(
        "select indexrelid::regclass::text from pg_index i
           join pg_class c on c.oid = i.indexrelid
          where not i.indisvalid and c.relnamespace = to_regnamespace($1)",
    )
    .bind(schema.name())
    .fetch_all(&mut *connection)
    .await
    .map_err(Error::at(step))?;
    for index in invalid {
        // `regclass` quotes the name.
        let drop = AssertSqlSafe(format!("drop index if exists {index}"));
        sqlx::query(drop).execute(&mut *connection).await.map_err(Error::at(step))?;
    }
    Ok(())
}

async fn create_schema(connection: &mut PgConnection, schema: &Schema) -> Result<(), Error> {
    let name = schema.name();
    for statement in [
        "set client_min_messages = warning".to_owned(),
        // An index build on a large table exceeds the statement timeout of the service. The lock timeout
        // is limited, because a wait for a table lock blocks all later requests.
        "set statement_timeout = 0".to_owned(),
        "set lock_timeout = '5s'".to_owned(),
        "set idle_in_transaction_session_timeout = '60s'".to_owned(),
        format!("create schema if not exists {name}"),
        format!("set search_path = {name}"),
    ] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await
            .map_err(Error::at("create a schema"))?;
    }
    Ok(())
}
