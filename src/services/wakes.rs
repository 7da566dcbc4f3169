//! Tenants for whom there is something to do, told at once to whoever does it.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::event::TenantId;

/// Wakes one who waits.
#[derive(Debug, Default)]
pub struct Wakeups {
    tenants: Mutex<BTreeSet<TenantId>>,
    notify: Notify,
}

impl Wakeups {
    /// There is something to do for this tenant.
    pub fn wake(&self, tenant: &TenantId) {
        let is_new = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            !tenants.contains(tenant) && tenants.insert(tenant.clone())
        };
        if is_new {
            self.notify.notify_one();
        }
    }

    /// Waits until there is something to do for anybody, and tells for whom.
    pub async fn next(&self) -> BTreeSet<TenantId> {
        loop {
            let tenants =
                std::mem::take(&mut *self.tenants.lock().unwrap_or_else(PoisonError::into_inner));
            if !tenants.is_empty() {
                return tenants;
            }
            self.notify.notified().await;
        }
    }
}
