//! PostgreSQL: SQL functions on a transaction or a connection, one table family a file.
//!
//! Statements are constants with `{schema}` where the tenant's schema goes; [`Schema`] alone fills it
//! in. A store function decides nothing and commits nothing: `flow` begins and commits.

pub mod conditions;
pub mod dead_letters;
mod error;
pub mod inbox;
pub mod limits;
pub mod merge;
pub mod migrate;
pub mod patrons;
pub mod positions;
pub mod records;
mod schema;
pub mod tenant_jobs;
pub mod tenants;

pub use error::{Error, Verdict, read};
pub use schema::{Schema, Statement};

use std::time::Duration;

use sqlx::{
    PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// A pool of connections to the one database.
pub type Db = PgPool;

/// A transaction. Only `flow` begins and commits one.
pub type Tx = Transaction<'static, Postgres>;

/// Where the database is, and as whom we come.
#[derive(Debug, Clone)]
pub struct Login {
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Role.
    pub username: String,
    /// Its password.
    pub password: String,
    /// Database.
    pub database: String,
}

/// How a pool behaves when it is asked for more than it has.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// What the connections are for, as `pg_stat_activity` shows it.
    pub name: &'static str,
    /// Connections at most.
    pub most: u32,
    /// How long a caller waits for one, connecting included.
    pub wait: Duration,
    /// How long the server lets one statement run.
    pub statement: Duration,
}

/// A statement is prepared once per tenant and connection; room for some forty tenants at once.
const STATEMENTS_KEPT: usize = 500;

/// A pool that connects when it is first used, so that a service can start while the database is away.
pub fn pool(login: &Login, settings: PoolSettings) -> Db {
    let connect = PgConnectOptions::new_without_pgpass()
        .host(&login.host)
        .port(login.port)
        .username(&login.username)
        .password(&login.password)
        .database(&login.database)
        .application_name(settings.name)
        .statement_cache_capacity(STATEMENTS_KEPT)
        .options([("statement_timeout", settings.statement.as_millis().to_string())]);
    PgPoolOptions::new()
        .max_connections(settings.most)
        .acquire_timeout(settings.wait)
        // Asking before each use costs a round trip; `read` and ingest try again instead.
        .test_before_acquire(false)
        .max_lifetime(Duration::from_secs(30 * 60))
        .connect_lazy_with(connect)
}

/// Begins a transaction.
pub async fn begin(db: &Db) -> Result<Tx, Error> {
    db.begin().await.map_err(Error::at("begin a transaction"))
}

/// Commits: from here on what the transaction did is durable.
pub async fn commit(tx: Tx) -> Result<(), Error> {
    tx.commit().await.map_err(Error::at("commit a transaction"))
}

/// Whether the database answers at all.
pub async fn ping(db: &Db) -> Result<(), Error> {
    let asked = async || sqlx::query("select 1").execute(db).await;
    read(async || asked().await.map_err(Error::at("reach the database"))).await?;
    Ok(())
}

/// All statements with a placeholder; a test prepares each of them against a migrated schema.
pub const STATEMENTS: &[&[&Statement]] = &[
    conditions::STATEMENTS,
    dead_letters::STATEMENTS,
    inbox::STATEMENTS,
    limits::STATEMENTS,
    merge::STATEMENTS,
    patrons::STATEMENTS,
    positions::STATEMENTS,
    tenant_jobs::STATEMENTS,
];
