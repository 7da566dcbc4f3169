//! PostgreSQL: SQL functions on a transaction or a connection, one table family per file.
//!
//! Statements are constants with the placeholder `{schema}`, which only [`Schema`] replaces. `search.rs`
//! translates the queries of clients to SQL. The services begin and commit transactions, except where a
//! rebuild is claimed or cancelled.

mod copy;
mod error;
pub mod ingest;
pub mod java;
pub mod jobs;
pub mod messages;
pub mod migrate;
pub mod operator_actions;
pub mod rebuild;
mod schema;
pub mod search;
pub mod settings;
pub mod state;
pub mod statements;
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

use crate::config::Login;

/// A pool of connections to the database.
pub type Db = PgPool;

/// A connection to the database.
pub type Connection = PgConnection;

/// A transaction. The services begin and commit transactions; claims and cancellations of rebuilds use
/// their own.
pub type Tx = Transaction<'static, Postgres>;

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

/// The size and the time limits of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolSettings {
    /// The application name that `pg_stat_activity` shows.
    pub name: &'static str,
    /// The maximum number of connections.
    pub max_connections: u32,
    /// The maximum time that a caller waits for a connection, including connecting.
    pub acquire_timeout: Duration,
    /// The maximum time for one statement, and for the pause between statements of a transaction. If an
    /// instance freezes during a transaction, the server then releases the transaction's locks.
    pub statement_timeout: Duration,
    /// Whether the pool pings a connection on release, because transactions of this pool may be cancelled
    /// midway.
    pub verify_on_release: bool,
}

/// The number of cached statements per connection. Each statement is prepared per tenant, so the cache
/// suffices for about 40 tenants at once.
const STATEMENT_CACHE_CAPACITY: usize = 500;

/// Creates a pool that connects at first use, so the service can start while the database is unavailable.
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
        // A test before each use would cost a round trip; `read` and ingest retry instead.
        .test_before_acquire(false)
        .max_lifetime(Duration::from_secs(30 * 60))
        .after_release(move |connection, _| {
            Box::pin(async move {
                // A connection with a cancelled transaction may never answer, and the pool would wait
                // without limit.
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

/// The maximum time that a statement of a transaction waits for a lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockTimeout {
    /// The wait for a lock during normal contention for the same rows: 10 seconds.
    Normal,
    /// The wait for a lock that was unavailable a moment ago: 500 milliseconds.
    Short,
}

/// Begins a transaction with a lock timeout. The statement that begins the transaction also sets the
/// timeout, which saves a round trip.
pub async fn begin_with_lock_timeout(db: &Db, wait: LockTimeout) -> Result<Tx, Error> {
    let begin = match wait {
        LockTimeout::Normal => "begin; set local lock_timeout = '10s'",
        LockTimeout::Short => "begin; set local lock_timeout = '500ms'",
    };
    db.begin_with(begin).await.map_err(Error::at("begin a transaction"))
}

/// Begins a transaction that locks rows only to look: it waits half a second for each lock, and each of its statements ends
/// within 700 milliseconds, so other writers soon go on even if the caller is gone.
pub async fn begin_trial(db: &Db) -> Result<Tx, Error> {
    let begin = "begin; set local lock_timeout = '500ms'; set local statement_timeout = '700ms'";
    db.begin_with(begin).await.map_err(Error::at("begin a transaction"))
}

/// Rolls a transaction back, which releases its locks.
pub async fn roll_back(tx: Tx) -> Result<(), Error> {
    tx.rollback().await.map_err(Error::at("roll back a transaction"))
}

/// Begins a transaction whose statements all read the same snapshot and write nothing.
pub async fn begin_snapshot(
    connection: &mut PgConnection,
) -> Result<Transaction<'_, Postgres>, Error> {
    let begin = "begin isolation level repeatable read read only";
    connection.begin_with(begin).await.map_err(Error::at("begin a transaction"))
}

/// Reads in a savepoint and rolls the savepoint back, which releases the locks of the read at once. A
/// statement that drops or alters a table then need not wait for the end of the transaction. Earlier
/// locks remain.
pub async fn read_releasing_locks<T>(
    tx: &mut Tx,
    read: impl AsyncFnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut inner = tx.begin().await.map_err(Error::at("set a savepoint"))?;
    let found = read(&mut inner).await?;
    inner.rollback().await.map_err(Error::at("roll back to a savepoint"))?;
    Ok(found)
}

/// Sets a savepoint, or rolls back to it.
pub async fn savepoint(tx: &mut Tx, command: Savepoint) -> Result<(), Error> {
    let done = sqlx::query(command.sql()).execute(&mut **tx).await;
    done.map(|_| ()).map_err(Error::at("use a savepoint"))
}

/// A command about the savepoint of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Savepoint {
    /// Sets the savepoint, and forgets its place before.
    Set,
    /// Undoes everything since the savepoint.
    RollBack,
}

impl Savepoint {
    fn sql(self) -> &'static str {
        match self {
            Self::Set => "savepoint step",
            Self::RollBack => "rollback to savepoint step",
        }
    }
}

/// Runs `work` with a time limit. After [`Error::Timeout`], the caller has to discard the connection.
pub async fn with_timeout<T, E: From<Error>>(
    limit: Duration,
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    timeout(limit, work).await.unwrap_or_else(|_| Err(Error::Timeout.into()))
}

/// Commits a transaction, which makes its changes durable.
pub async fn commit(tx: Tx) -> Result<(), Error> {
    tx.commit().await.map_err(Error::at("commit a transaction"))
}

/// Returns the time of the database clock. If one instance writes a time and another compares the time,
/// both have to use the database clock, because the clocks of instances differ.
pub async fn now(db: impl PgExecutor<'_>) -> Result<DateTime<Utc>, Error> {
    let now = sqlx::query_scalar("select clock_timestamp()").fetch_one(db).await;
    now.map_err(Error::at("read the database clock"))
}

/// The maximum time of one read, and the maximum time of retries after lost connections and deadlocks.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
const READ_RETRY_TIMEOUT: Duration = Duration::from_secs(2);

/// Largest number of retries of a transaction that drops or replaces the tables of a schema. Readers lock a few of the
/// tables in an order of their own. The server detects a deadlock after a second.
pub const DEADLOCK_RETRIES_MAX: usize = 10;

/// The maximum time for the answer to a ping on the release of a connection.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// Reads over a connection of the pool, and retries if the connection is dead. Without retries, a restart
/// of the database would let a blocked patron pass for each connection that was idle. A ping before each
/// use would cost a round trip per answer. An unresponsive connection is discarded, so the pool can open
/// another. A read of several tables may also meet a purge or a migration that locks them in another order; the read
/// that the server ends then is repeated.
pub async fn read<T>(
    db: &Db,
    mut read: impl AsyncFnMut(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    let started = Instant::now();
    loop {
        // The future of `acquire` has some kilobytes and a timer, and most reads find an idle connection.
        let mut connection = match db.try_acquire() {
            Some(idle) => idle,
            None => Box::pin(db.acquire()).await.map_err(Error::at("connect to the database"))?,
        };
        let failed = match with_timeout(READ_TIMEOUT, read(&mut connection)).await {
            Err(error) if error.is_connection_lost() || matches!(error, Error::Timeout) => error,
            Err(error) if error.is_deadlock() && started.elapsed() < READ_RETRY_TIMEOUT => continue,
            done => return done,
        };
        // If the connection returned to the pool, the pool would wait for the connection.
        drop(connection.detach());
        if matches!(failed, Error::Timeout) || started.elapsed() > READ_RETRY_TIMEOUT {
            return Err(failed);
        }
    }
}

/// Checks that the database answers.
pub async fn ping(db: &Db) -> Result<(), Error> {
    read(db, async |connection| {
        let result = sqlx::query("select 1").execute(connection).await;
        result.map(|_| ()).map_err(Error::at("reach the database"))
    })
    .await
}
