//! How many requests a thread works on at once. Whoever comes when it is full is sent away at once: a queue
//! that only grows answers nobody in time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::Db;

/// Requests for each connection of the thread: as many as a healthy database serves well within the time
/// that a desk is willing to wait.
const REQUESTS_PER_CONNECTION: usize = 256;

/// TCP connections of a thread beyond those that its gate lets in: for operators, and for who sends slowly.
const SPARE_CONNECTIONS: usize = 1024;

/// TCP connections that a thread takes at once. Each has some 200 KiB of buffers at most.
pub fn connections_max(connections: u32) -> usize {
    (REQUESTS_PER_CONNECTION * connections as usize + SPARE_CONNECTIONS).min(25_600)
}

/// What all requests but those of desks share: connections to the database, and a gate. A desk uses neither,
/// so no operator can make it wait (docs/decisions/0005).
#[derive(Debug, Clone)]
pub struct Operators {
    db: Db,
    load_limit: LoadLimit,
}

impl Operators {
    /// With the connections of this pool.
    pub fn new(db: Db) -> Self {
        let load_limit = LoadLimit::new(db.options().get_max_connections());
        Self { db, load_limit }
    }

    /// Their connections.
    pub(super) fn db(&self) -> Db {
        self.db.clone()
    }

    /// Lets a request in until the pass is dropped, or not.
    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.load_limit.try_acquire()
    }
}

/// The gate of one thread.
#[derive(Debug, Clone)]
pub(super) struct LoadLimit(Arc<Semaphore>);

impl LoadLimit {
    /// For a thread with so many connections.
    pub(super) fn new(connections: u32) -> Self {
        Self(Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION * connections as usize)))
    }

    /// Lets a request in until the pass is dropped, or not.
    pub(super) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}
