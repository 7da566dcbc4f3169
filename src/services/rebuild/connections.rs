//! Connection pools that all rebuilds of an instance share: one connection per run slot, and some more.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use crate::{
    config::Login,
    store::{self, Db, PoolSettings},
};

/// Maximum time of one statement of a rebuild; some statements compare whole tenants.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Maximum time of one statement that renews a lease.
const LEASE_STATEMENT_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum wait for a free connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections without a run slot: one loads shared topics, and one ends a rebuild.
const EXTRA_CONNECTIONS: u32 = 2;

/// The two pools of an instance.
pub(super) struct Connections {
    /// The pool for the stages of rebuilds.
    pub(super) main: Db,
    /// The pool for lease renewals, which must not wait for statements of the main pool.
    pub(super) leases: Db,
}

/// Pools that exist while a rebuild uses them; an instance without a rebuild has no connection.
pub(super) struct SharedConnections {
    login: Login,
    max_connections: u32,
    current: Mutex<Weak<Connections>>,
}

impl SharedConnections {
    /// Creates the pools' settings for `run_slots` concurrent rebuilds; `get` opens the pools.
    pub(super) fn new(login: Login, run_slots: usize) -> Self {
        let run_slots = u32::try_from(run_slots).unwrap_or(u32::MAX);
        Self {
            login,
            max_connections: run_slots.saturating_add(EXTRA_CONNECTIONS),
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
