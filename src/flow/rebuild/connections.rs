//! Connections of the rebuilds that an instance works on, which they share: as many as have a turn, and some more.

use std::{
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use crate::store::{self, Db, Login, PoolSettings};

/// How long the database gives one statement of a rebuild: one compares whole tenants.
const STATEMENT: Duration = Duration::from_secs(15 * 60);

/// How long the database gives a statement by which a rebuild says that it is worked on.
const CLAIM: Duration = Duration::from_secs(5);

/// How long to wait for a connection.
const WAIT: Duration = Duration::from_secs(30);

/// Without a turn, one lays out what tenants share, and one ends.
const WITHOUT_A_TURN: u32 = 2;

/// Connections of all rebuilds of an instance.
pub(super) struct Connections {
    /// To work with.
    pub(super) work: Db,
    /// To say that a rebuild is worked on, whatever the others wait for.
    pub(super) claims: Db,
}

/// Connections as long as any rebuild uses them: an instance without a rebuild has none.
pub(super) struct Shared {
    login: Login,
    most: u32,
    used: Mutex<Weak<Connections>>,
}

impl Shared {
    /// For so many turns.
    pub(super) fn new(login: Login, turns: usize) -> Self {
        let turns = u32::try_from(turns).unwrap_or(u32::MAX);
        Self { login, most: turns.saturating_add(WITHOUT_A_TURN), used: Mutex::default() }
    }

    pub(super) fn get(&self) -> Arc<Connections> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(used) = used.upgrade() {
            return used;
        }
        let pool = |most, statement| {
            let name = "mod-patron-blocks rebuild";
            let settings = PoolSettings { name, most, wait: WAIT, statement, suspicious: true };
            store::pool(&self.login, settings)
        };
        let connections =
            Arc::new(Connections { work: pool(self.most, STATEMENT), claims: pool(1, CLAIM) });
        *used = Arc::downgrade(&connections);
        connections
    }
}
