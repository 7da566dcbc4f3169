//! Connections of the rebuilds that an instance works on, which they share: as many as have a turn, and some more.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use crate::store::{self, Db, Login, PoolSettings};

/// How long the database gives one statement of a rebuild: one compares whole tenants.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// How long the database gives a statement by which a rebuild says that it is worked on.
const LEASE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Without a turn, one lays out what tenants share, and one ends.
const EXTRA_CONNECTIONS: u32 = 2;

/// Connections of all rebuilds of an instance.
pub(super) struct Connections {
    /// To work with.
    pub(super) main: Db,
    /// To say that a rebuild is worked on, whatever the others wait for.
    pub(super) leases: Db,
}

/// Connections as long as any rebuild uses them: an instance without a rebuild has none.
pub(super) struct SharedConnections {
    login: Login,
    max_connections: u32,
    current: Mutex<Weak<Connections>>,
}

impl SharedConnections {
    /// For so many turns.
    pub(super) fn new(login: Login, turns: usize) -> Self {
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        Self {
            login,
            max_connections: turns.saturating_add(EXTRA_CONNECTIONS),
            current: Mutex::default(),
        }
    }

    pub(super) fn get(&self) -> Arc<Connections> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connections) = current.upgrade() {
            return connections;
        }
        let pool = |max_connections, statement_timeout| {
            let name = "mod-patron-blocks rebuild";
            let settings = PoolSettings {
                name,
                max_connections,
                acquire_timeout: ACQUIRE_TIMEOUT,
                statement_timeout,
                verify_on_release: true,
            };
            store::pool(&self.login, settings)
        };
        let connections = Arc::new(Connections {
            main: pool(self.max_connections, STATEMENT_TIMEOUT),
            leases: pool(1, LEASE_STATEMENT_TIMEOUT),
        });
        *current = Arc::downgrade(&connections);
        connections
    }
}
