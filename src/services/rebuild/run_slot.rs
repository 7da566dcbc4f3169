//! Turns: how many rebuilds an instance works on at once. A rebuild has a turn while it uses the database or the
//! processor, and none while it waits for another module or for a broker: others go on meanwhile.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// One rebuild's turn.
pub(super) struct RunSlot {
    semaphore: Arc<Semaphore>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl RunSlot {
    /// Of those that share `turns`; it may have its first already.
    pub(super) fn new(semaphore: &Arc<Semaphore>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { semaphore: semaphore.clone(), permit: Mutex::new(permit) }
    }

    /// Waits until it may work.
    pub(super) async fn acquire(&self) {
        if self.permit().is_some() {
            return;
        }
        // It is never closed, so this gives a permit.
        if let Ok(permit) = self.semaphore.clone().acquire_owned().await {
            *self.permit() = Some(permit);
        }
    }

    /// Has another work.
    pub(super) fn release(&self) {
        *self.permit() = None;
    }

    fn permit(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
