//! Migrations: the module's schema, and each tenant's.

use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection, migrate::Migrator};

use super::{Db, Error, Schema, Tx, tenants};
use crate::event::TenantId;

static MODULE: LazyLock<Migrator> = LazyLock::new(|| beside(sqlx::migrate!("migrations/module")));
static TENANT: LazyLock<Migrator> = LazyLock::new(|| beside(sqlx::migrate!("migrations/tenant")));
/// Within a transaction of ours, under the tenant's own lock: the migrator's would outlive a rollback.
static TENANT_WITHIN: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = beside(sqlx::migrate!("migrations/tenant"));
    migrator.set_locking(false);
    migrator
});

/// During a rollout an older instance may start on a schema that a newer one has migrated.
fn beside(mut migrator: Migrator) -> Migrator {
    migrator.set_ignore_missing(true);
    migrator
}

/// Makes the module's schema, or brings it up to date.
pub async fn module(db: &Db) -> Result<(), Error> {
    run(db, &MODULE, &Schema::module(), None).await
}

/// Makes a tenant's schema, or brings it up to date. Several instances may try at once.
pub async fn tenant(db: &Db, tenant: &TenantId, schema: &Schema) -> Result<(), Error> {
    run(db, &TENANT, schema, Some(tenant)).await
}

/// Brings a tenant's schema up to date as part of a transaction, which holds the tenant's migration
/// lock. No migration of a tenant may need to stand alone, then.
pub async fn within(tx: &mut Tx, schema: &Schema) -> Result<(), Error> {
    sqlx::query("select set_config('search_path', $1, true), set_config('client_min_messages', 'warning', true)")
        .bind(schema.name())
        .execute(&mut **tx)
        .await
        .map_err(Error::at("migrate within a transaction"))?;
    TENANT_WITHIN
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
    tenants::lock_for_migration(&mut connection, tenant).await?;
    create(&mut connection, schema).await?;
    // Not `run`: its bounds keep a future that calls it from being spawned.
    migrator
        .run_direct(None, &mut *connection, false)
        .await
        .map_err(|source| Error::Migrate { schema: schema.name().to_owned(), source })
}

async fn create(connection: &mut PgConnection, schema: &Schema) -> Result<(), Error> {
    let name = schema.name();
    for statement in [
        "set client_min_messages = warning".to_owned(),
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
