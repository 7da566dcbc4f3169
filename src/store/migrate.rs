//! Migrations: the module's schema, and each tenant's.

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
/// Within a transaction, whose tables are new and empty: indexes need not be built concurrently, which no
/// transaction may do.
static TENANT_MIGRATOR_IN_TRANSACTION: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = configured(sqlx::migrate!("migrations/tenant"));
    migrator.migrations.to_mut().iter_mut().for_each(join_transaction);
    migrator
});

/// How long to wait for another instance that migrates the same schema, and how often to look.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);
const LOCK_POLL_INTERVAL: Duration = Duration::from_millis(100);

const SELECT_APPLIED_VERSIONS: Statement =
    Statement::new("select version from {schema}._sqlx_migrations where success");

pub(super) const STATEMENTS: &[&Statement] = &[&SELECT_APPLIED_VERSIONS];

/// During a rollout an older instance may start on a schema that a newer one has migrated. The lock of a
/// schema is taken here: the migrator's own is one for the whole database, and its waiters would block
/// the building of an index.
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

/// Whether a tenant's schema has every migration of this version.
pub async fn is_current(db: impl PgExecutor<'_>, schema: &Schema) -> Result<bool, Error> {
    let result = sqlx::query_scalar(schema.sql(&SELECT_APPLIED_VERSIONS)).fetch_all(db).await;
    let applied: Vec<i64> = match result.map_err(Error::at("look which migrations were applied")) {
        // There is no such table.
        Err(error) if error.verdict() == Verdict::Unusable => return Ok(false),
        applied => applied?,
    };
    Ok(TENANT_MIGRATOR.iter().all(|migration| applied.contains(&migration.version)))
}

/// Makes the module's schema, or brings it up to date.
pub async fn module(db: &Db) -> Result<(), Error> {
    run(db, &MODULE_MIGRATOR, &Schema::module(), None).await
}

/// Makes a tenant's schema, or brings it up to date. Several instances may try at once.
pub async fn tenant(db: &Db, tenant: &TenantId, schema: &Schema) -> Result<(), Error> {
    run(db, &TENANT_MIGRATOR, schema, Some(tenant)).await
}

/// Brings a tenant's schema up to date as part of a transaction, which holds the tenant's migration
/// lock. No migration of a tenant may need to stand alone, then.
pub async fn tenant_in_transaction(tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
    sqlx::query("select set_config('search_path', $1, true), set_config('client_min_messages', 'warning', true)")
        .bind(schema.name())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("migrate within a transaction"))?;
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
    // With it go its search_path and its lock.
    connection.close_on_drop();
    lock(&mut connection, schema, tenant).await?;
    create_schema(&mut connection, schema).await?;
    drop_invalid_indexes(&mut connection, schema).await?;
    // Not `run`: its bounds keep a future that calls it from being spawned.
    migrator
        .run_direct(None, &mut *connection, false)
        .await
        .map_err(|source| Error::Migrate { schema: schema.name().to_owned(), source })
}

/// Takes the migration lock for as long as the connection lives: migrations run in transactions of their
/// own. A session that waits inside a statement would block the building of an index, so it polls.
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

/// Drops what an interrupted building of an index left: it costs every write, and its name is taken.
async fn drop_invalid_indexes(connection: &mut PgConnection, schema: &Schema) -> Result<(), Error> {
    let step = "drop indexes that were not built to their end";
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
        // An index on a large table takes longer than a statement of the service may. Waiting for a
        // table's lock blocks all who come later, so that is bounded.
        "set statement_timeout = 0".to_owned(),
        "set lock_timeout = '5s'".to_owned(),
        "set idle_in_transaction_session_timeout = '60s'".to_owned(),
        format!("create schema if not exists {name}"),
        format!("set search_path = {name}"),
    ] {
        sqlx::query(AssertSqlSafe(statement))
            .execute(&mut *connection)
            .await
            .map_err(Error::at("make a schema"))?;
    }
    Ok(())
}
