//! The database connections of an instance. Each purpose has a pool, so that none waits for another.

use std::time::Duration;

use crate::{
    config::{Config, DatabaseConfig, Login},
    store::{self, Db, PoolSettings},
};

/// Smallest number of connections for writers and for work on whole tenants.
const WORK_CONNECTIONS_MIN: u32 = 2;

/// Connections that listen for changes of the tenant registry.
const LISTENER_CONNECTIONS: u32 = 1;

/// Connections of all summary exports together.
const EXPORT_CONNECTIONS: u32 = 2;

/// Connections of all requests except evaluations, in addition to `DB_MAXPOOLSIZE`; opened on demand. With
/// two, a slow list blocks no other operator, and operators never block an evaluation (decision 0005).
const OPERATOR_CONNECTIONS: u32 = 2;

const _: () =
    assert!(WORK_CONNECTIONS_MIN + LISTENER_CONNECTIONS < DatabaseConfig::CONNECTIONS_MIN);

/// Time that an evaluation waits for a connection, and time limit of a request's statement.
const WEB_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);
const WEB_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time that other requests wait for a connection, which may have to be opened first.
const OPERATOR_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// Connections for reads about the certainty of evaluations, in addition to `DB_MAXPOOLSIZE`; opened on demand.
const CERTAINTY_CONNECTIONS: u32 = 2;

/// Time limits of reads about certainty. An evaluation waits for a shorter time.
const CERTAINTY_ACQUIRE_TIMEOUT: Duration = Duration::from_millis(100);
const CERTAINTY_STATEMENT_TIMEOUT: Duration = Duration::from_secs(1);

/// Connections of the console, in addition to `DB_MAXPOOLSIZE`; opened on demand. Pages wait for each other.
const CONSOLE_CONNECTIONS: u32 = 1;

/// Time that a page waits for the connection, and time limit of its statements. A page has a limit of its own, so that
/// the connection returns to the pool before the next page gives up.
const CONSOLE_ACQUIRE_TIMEOUT: Duration = Duration::from_millis(2_500);
const CONSOLE_STATEMENT_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Time that ingest waits for a connection before the database counts as unavailable.
const WORK_ACQUIRE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pools of an instance, except those of the HTTP worker threads and of rebuilds.
pub(super) struct Pools {
    /// For ingest and for work on whole tenants.
    pub(super) work: Db,
    /// For notifications of changes of the tenant registry.
    pub(super) listener: Db,
    /// For the detection of changed blocks.
    pub(super) detect: Db,
    /// For the publication of messages.
    pub(super) publish: Db,
    /// For summary exports.
    pub(super) exports: Db,
    /// For all requests except evaluations.
    pub(super) operators: Db,
    /// For reads about the certainty of evaluations.
    pub(super) certainty: Db,
    /// For the pages of the console.
    pub(super) console: Db,
}

impl Pools {
    /// Creates the pools. Connections are opened on demand.
    pub(super) fn new(config: &Config) -> Self {
        let work = PoolSettings {
            name: "mod-patron-blocks work",
            max_connections: work_connections(config),
            acquire_timeout: WORK_ACQUIRE_TIMEOUT,
            statement_timeout: config.database.statement_timeout,
            verify_on_release: true,
        };
        let messages = |max_connections| PoolSettings {
            name: "mod-patron-blocks messages",
            max_connections,
            ..work
        };
        let listener = PoolSettings {
            name: "mod-patron-blocks listener",
            max_connections: LISTENER_CONNECTIONS,
            verify_on_release: false,
            ..work
        };
        let operators = PoolSettings {
            name: "mod-patron-blocks operators",
            max_connections: OPERATOR_CONNECTIONS,
            acquire_timeout: OPERATOR_ACQUIRE_TIMEOUT,
            statement_timeout: WEB_STATEMENT_TIMEOUT,
            verify_on_release: true,
        };
        let certainty = PoolSettings {
            name: "mod-patron-blocks certainty",
            max_connections: CERTAINTY_CONNECTIONS,
            acquire_timeout: CERTAINTY_ACQUIRE_TIMEOUT,
            statement_timeout: CERTAINTY_STATEMENT_TIMEOUT,
            verify_on_release: true,
        };
        let console = PoolSettings {
            name: "mod-patron-blocks console",
            max_connections: CONSOLE_CONNECTIONS,
            acquire_timeout: CONSOLE_ACQUIRE_TIMEOUT,
            statement_timeout: CONSOLE_STATEMENT_TIMEOUT,
            verify_on_release: true,
        };
        let pool = |settings| store::pool(&config.database.login, settings);
        let work = pool(work);
        // While block events are switched off, the detect worker needs no connection of its own.
        let detect = if config.block_events.enabled { pool(messages(1)) } else { work.clone() };
        Self {
            work,
            listener: pool(listener),
            detect,
            publish: pool(messages(1)),
            exports: pool(messages(EXPORT_CONNECTIONS)),
            operators: pool(operators),
            certainty: pool(certainty),
            console: pool(console),
        }
    }
}

/// Creates the pool of an HTTP worker thread.
pub(super) fn web(login: &Login, max_connections: u32) -> Db {
    store::pool(
        login,
        PoolSettings {
            name: "mod-patron-blocks web",
            max_connections,
            acquire_timeout: WEB_ACQUIRE_TIMEOUT,
            statement_timeout: WEB_STATEMENT_TIMEOUT,
            verify_on_release: false,
        },
    )
}

/// Returns the number of connections of all HTTP worker threads.
pub(super) fn web_connections(config: &Config) -> u32 {
    config.database.max_connections - work_connections(config) - LISTENER_CONNECTIONS
}

/// Returns the number of connections for work; the settings ensure that some remain for evaluations.
fn work_connections(config: &Config) -> u32 {
    config.kafka.writers.max(WORK_CONNECTIONS_MIN)
}
