//! PostgreSQL: SQL functions on a transaction or a connection, one table family a file.
//!
//! Statements are constants with `{schema}` where the tenant's schema goes; [`Schema`] alone fills it
//! in. What a client asks in its own words becomes SQL in `search.rs`. A store function decides nothing and commits nothing: `flow` begins and commits.

mod columns;
pub mod conditions;
mod copy;
pub mod dead_letters;
pub mod dependent_views;
pub mod differences;
mod error;
pub mod exports;
pub mod inbox;
pub mod inbox_tail;
pub mod incidents;
pub mod java;
pub mod limits;
pub mod merge;
pub mod migrate;
pub mod outbox;
pub mod patrons;
pub mod pending_patrons;
pub mod positions;
pub mod prune;
pub mod rebuilds;
pub mod records;
pub mod rows;
mod schema;
pub mod search;
pub mod shadow;
pub mod shadow_load;
pub mod tenant_jobs;
pub mod tenants;

pub use error::{Error, Verdict};
pub use schema::{Composed, Schema, Statement};

use std::{
    future::Future,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use sqlx::{
    Connection as _, PgConnection, PgExecutor, PgPool, Postgres, Transaction,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode},
};
use tokio::time::timeout;

/// A pool of connections to the one database.
pub type Db = PgPool;

/// A connection to it.
pub type Connection = PgConnection;

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
    /// Certificates that the server's must be, or be signed by, in PEM. Where there is one the connection
    /// is encrypted, and the server is who it says it is, or there is none.
    pub server_pem: Option<String>,
}

impl Login {
    fn options(&self) -> PgConnectOptions {
        let options = PgConnectOptions::new_without_pgpass()
            .host(&self.host)
            .port(self.port)
            .username(&self.username)
            .password(&self.password)
            .database(&self.database);
        match &self.server_pem {
            Some(pem) => {
                options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert_from_pem(pem.clone().into())
            }
            None => options.ssl_mode(PgSslMode::Disable),
        }
    }
}

/// How a pool behaves when it is asked for more than it has.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// What the connections are for, as `pg_stat_activity` shows it.
    pub name: &'static str,
    /// Connections at most.
    pub max_connections: u32,
    /// How long a caller waits for one, connecting included.
    pub acquire_timeout: Duration,
    /// How long the server lets one statement run, and a transaction wait for its next: an instance
    /// that freezes in the middle of one must not keep its locks.
    pub statement_timeout: Duration,
    /// Whether transactions of this pool may be given up in the middle.
    pub verify_on_release: bool,
}

/// A statement is prepared once per tenant and connection; room for some forty tenants at once.
const STATEMENT_CACHE_CAPACITY: usize = 500;

/// A pool that connects when it is first used, so that a service can start while the database is away.
pub fn pool(login: &Login, settings: PoolSettings) -> Db {
    let statement_timeout = settings.statement_timeout.as_millis().to_string();
    let connect = login
        .options()
        .application_name(settings.name)
        .statement_cache_capacity(STATEMENT_CACHE_CAPACITY)
        .options([
            ("statement_timeout", &statement_timeout),
            ("idle_in_transaction_session_timeout", &statement_timeout),
        ]);
    PgPoolOptions::new()
        .max_connections(settings.max_connections)
        .acquire_timeout(settings.acquire_timeout)
        // Asking before each use costs a round trip; `read` and ingest try again instead.
        .test_before_acquire(false)
        .max_lifetime(Duration::from_secs(30 * 60))
        .after_release(move |connection, _| {
            Box::pin(async move {
                // What was given up in the middle may never answer; the pool itself would wait.
                let alive = !settings.verify_on_release
                    || timeout(PING_TIMEOUT, connection.ping()).await.is_ok();
                if alive { Ok(true) } else { Err(sqlx::Error::PoolTimedOut) }
            })
        })
        .connect_lazy_with(connect)
}

/// Begins a transaction.
pub async fn begin(db: &Db) -> Result<Tx, Error> {
    db.begin().await.map_err(Error::at("begin a transaction"))
}

/// How long a transaction waits for a lock before its statement fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockTimeout {
    /// As long as orderly work on the same rows takes.
    Normal,
    /// Hardly at all: a moment ago the lock could not be had.
    Short,
}

/// Begins a transaction that waits for no lock for longer than that. The limit is part of the statement that
/// begins it, so it costs no round trip.
pub async fn begin_with_lock_timeout(db: &Db, wait: LockTimeout) -> Result<Tx, Error> {
    let begin = match wait {
        LockTimeout::Normal => "begin; set local lock_timeout = '10s'",
        LockTimeout::Short => "begin; set local lock_timeout = '500ms'",
    };
    db.begin_with(begin).await.map_err(Error::at("begin a transaction"))
}

/// Reads in a transaction and lets the locks of what was read go at once: whoever drops or alters a table need not
/// wait until the transaction ends. Locks that it took before stay.
pub async fn read_releasing_locks<T>(
    tx: &mut Tx,
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut inner = tx.begin().await.map_err(Error::at("begin to read"))?;
    let found = read(&mut inner).await?;
    inner.rollback().await.map_err(Error::at("end reading"))?;
    Ok(found)
}

/// Does something within a limit; after it the connection counts as dead ([`Error::Timeout`]).
pub async fn with_timeout<T, E: From<Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(Error::Timeout.into()))
}

/// Commits: from here on what the transaction did is durable.
pub async fn commit(tx: Tx) -> Result<(), Error> {
    tx.commit().await.map_err(Error::at("commit a transaction"))
}

/// The time by the database's clock. Instances run on machines whose clocks differ: a time that one of them writes
/// and another compares is of this clock.
pub async fn now(db: impl PgExecutor<'_>) -> Result<DateTime<Utc>, Error> {
    let now = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await;
    now.map_err(Error::at("ask the database for the time"))
}

/// How long one read may take, and how long reads that meet dead connections are tried again.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const READ_RETRY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may take to show that it lives when it goes back to its pool.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads over a connection of the pool, and again while that turns out to be dead: a restart of the
/// database must not let a blocked patron pass for each connection that was idle then. Asking each
/// connection whether it lives before its use would cost every answer a round trip. A connection that
/// says nothing is given up, so that the pool can make another.
pub async fn read<T>(
    db: &Db,
    mut read: impl AsyncFnMut(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    let started = Instant::now();
    loop {
        let mut connection = db.acquire().await.map_err(Error::at("connect to the database"))?;
        let failed = match with_timeout(READ_TIMEOUT, read(&mut connection)).await {
            Err(error) if error.is_connection_lost() || matches!(error, Error::Timeout) => error,
            done => return done,
        };
        // Not back to the pool, which would wait for it.
        drop(connection.detach());
        if matches!(failed, Error::Timeout) || started.elapsed() > READ_RETRY_TIMEOUT {
            return Err(failed);
        }
    }
}

/// Whether the database answers at all.
pub async fn ping(db: &Db) -> Result<(), Error> {
    read(db, async |connection| {
        let result = sqlx::query("select 1").execute(connection).await;
        result.map(|_| ()).map_err(Error::at("reach the database"))
    })
    .await
}

/// All statements with a placeholder; a test prepares each of them against a migrated schema.
pub const STATEMENTS: &[&[&Statement]] = &[
    conditions::STATEMENTS,
    dead_letters::STATEMENTS,
    inbox::STATEMENTS,
    limits::STATEMENTS,
    merge::STATEMENTS,
    migrate::STATEMENTS,
    patrons::STATEMENTS,
    positions::STATEMENTS,
    prune::STATEMENTS,
    differences::STATEMENTS,
    rows::STATEMENTS,
    pending_patrons::STATEMENTS,
    outbox::STATEMENTS,
    exports::STATEMENTS,
];

/// Statements on a shadow beside a tenant; a test prepares them where there is one.
pub const SHADOW_STATEMENTS: &[&[&Statement]] =
    &[shadow::STATEMENTS, shadow_load::STATEMENTS, inbox_tail::STATEMENTS];

/// Statements that need the tables of the Java module beside ours; a test prepares them where it was.
pub const JAVA_STATEMENTS: &[&[&Statement]] = &[java::STATEMENTS];
