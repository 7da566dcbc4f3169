//! Tenants for whom there is something to do, told at once to whoever does it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::event::TenantId;

/// Wakes one who waits.
#[derive(Debug, Default)]
pub struct Wakes {
    of: Mutex<BTreeSet<TenantId>>,
    notify: Notify,
}

impl Wakes {
    /// There is something to do for this tenant.
    pub fn wake(&self, tenant: &TenantId) {
        let is_new = {
            let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
            !of.contains(tenant) && of.insert(tenant.clone())
        };
        if is_new {
            self.notify.notify_one();
        }
    }

    /// Waits until there is something to do for anybody, and tells for whom.
    pub async fn next(&self) -> BTreeSet<TenantId> {
        loop {
            let of = std::mem::take(&mut *self.of.lock().unwrap_or_else(PoisonError::into_inner));
            if !of.is_empty() {
                return of;
            }
            self.notify.notified().await;
        }
    }
}
