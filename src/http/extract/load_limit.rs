//! The limit of concurrent requests per thread. Beyond the limit a request is rejected at once: in a growing
//! queue, every response would be late.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::Db;

/// Concurrent requests per connection of a thread: as many as a healthy database serves within the time that
/// a circulation desk waits.
const REQUESTS_PER_CONNECTION: usize = 256;

/// TCP connections of a thread in addition to its concurrent requests, for operators and slow senders.
const SPARE_CONNECTIONS: usize = 1024;

/// Returns the maximum number of TCP connections of a thread. Each connection has at most about 200 KiB of
/// buffers.
pub fn connections_max(connections: u32) -> usize {
    (REQUESTS_PER_CONNECTION * connections as usize + SPARE_CONNECTIONS).min(25_600)
}

/// The connections and the load limit of all requests except evaluations. Evaluations use neither, so no
/// operator can delay an evaluation (docs/decisions/0005).
#[derive(Debug, Clone)]
pub struct Operators {
    db: Db,
    load_limit: LoadLimit,
}

impl Operators {
    /// Creates the resources from a pool; the load limit grows with the size of the pool.
    pub fn new(db: Db) -> Self {
        let load_limit = LoadLimit::new(db.options().get_max_connections());
        Self { db, load_limit }
    }

    /// Returns the pool.
    pub(crate) fn db(&self) -> Db {
        self.db.clone()
    }

    /// Returns a permit for one request, or `None` if the limit is reached.
    pub(crate) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.load_limit.try_acquire()
    }
}

/// A limit of concurrent requests.
#[derive(Debug, Clone)]
pub(in crate::http) struct LoadLimit(Arc<Semaphore>);

impl LoadLimit {
    /// Creates the limit for a thread with this number of `connections`.
    pub(in crate::http) fn new(connections: u32) -> Self {
        Self(Arc::new(Semaphore::new(REQUESTS_PER_CONNECTION * connections as usize)))
    }

    /// Returns a permit for one request, or `None` if the limit is reached.
    pub(in crate::http) fn try_acquire(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}
