//! How many requests a thread works on at once. Whoever comes when it is full is sent away at once: a queue
//! that only grows answers nobody in time.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Requests for each connection of the thread: as many as a healthy database serves well within the time
/// that a desk is willing to wait.
const PER_CONNECTION: usize = 256;

/// The gate of one thread.
#[derive(Debug, Clone)]
pub(super) struct Gate(Arc<Semaphore>);

impl Gate {
    /// For a thread with so many connections.
    pub(super) fn new(connections: u32) -> Self {
        Self(Arc::new(Semaphore::new(PER_CONNECTION * connections as usize)))
    }

    /// Lets a request in until the pass is dropped, or not.
    pub(super) fn pass(&self) -> Option<OwnedSemaphorePermit> {
        self.0.clone().try_acquire_owned().ok()
    }
}
