//! A set of tenants with pending work, which wakes the worker at once.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tokio::sync::Notify;

use crate::event::TenantId;

/// The tenants with pending work.
#[derive(Debug, Default)]
pub struct Wakeups {
    tenants: Mutex<BTreeSet<TenantId>>,
    notify: Notify,
}

impl Wakeups {
    /// Adds a tenant and wakes the waiting worker.
    pub fn wake(&self, tenant: &TenantId) {
        let is_new = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            !tenants.contains(tenant) && tenants.insert(tenant.clone())
        };
        if is_new {
            self.notify.notify_one();
        }
    }

    /// Waits until a tenant has pending work, and returns all tenants that have.
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
