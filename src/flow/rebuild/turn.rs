//! Turns: how many rebuilds an instance works on at once. A rebuild has a turn while it uses the database or the
//! processor, and none while it waits for another module or for a broker: others go on meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One rebuild's turn.
pub(super) struct Turn {
    turns: Arc<Semaphore>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Of those that share `turns`; it may have its first already.
    pub(super) fn new(turns: &Arc<Semaphore>, first: Option<OwnedSemaphorePermit>) -> Self {
        Self { turns: turns.clone(), permit: Mutex::new(first) }
    }

    /// Waits until it may work.
    pub(super) async fn take(&self) {
        if self.permit().is_some() {
            return;
        }
        // It is never closed, so this gives a permit.
        if let Ok(permit) = self.turns.clone().acquire_owned().await {
            *self.permit() = Some(permit);
        }
    }

    /// Has another work.
    pub(super) fn leave(&self) {
        *self.permit() = None;
    }

    fn permit(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
