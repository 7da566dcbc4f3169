//! The limit of running rebuilds per instance. A rebuild has a slot while it uses the database or the processor.
//! While a rebuild waits for a module or a broker, its slot is free for another rebuild.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The slot of one rebuild, acquired or released.
pub(super) struct RunSlot {
    semaphore: Arc<Semaphore>,
    permit: Mutex<Option<OwnedSemaphorePermit>>,
}

impl RunSlot {
    /// Creates a slot of `semaphore`; if there is a `permit`, the slot is already acquired.
    pub(super) fn new(semaphore: &Arc<Semaphore>, permit: Option<OwnedSemaphorePermit>) -> Self {
        Self { semaphore: semaphore.clone(), permit: Mutex::new(permit) }
    }

    /// Waits for a permit, unless the slot is already acquired.
    pub(super) async fn acquire(&self) {
        if self.permit().is_some() {
            return;
        }
        // The semaphore is never closed, so `acquire_owned` returns a permit.
        if let Ok(permit) = self.semaphore.clone().acquire_owned().await {
            *self.permit() = Some(permit);
        }
    }

    /// Returns the permit, so that another rebuild runs.
    pub(super) fn release(&self) {
        *self.permit() = None;
    }

    fn permit(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.permit.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
