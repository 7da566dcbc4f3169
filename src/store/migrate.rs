//! Migrations: the module's schema, and each tenant's.

use std::sync::LazyLock;

use sqlx::{AssertSqlSafe, PgConnection, migrate::Migrator};

use super::{Db, Error, Schema, tenants};
use crate::event::TenantId;

static MODULE: LazyLock<Migrator> = LazyLock::new(|| beside(sqlx::migrate!("migrations/module")));
static TENANT: LazyLock<Migrator> = LazyLock::new(|| beside(sqlx::migrate!("migrations/tenant")));

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
