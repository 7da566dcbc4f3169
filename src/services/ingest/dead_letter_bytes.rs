//! Counts the bytes of new dead letters per tenant. Housekeeping runs hourly, and a producer may fill
//! a disk in less time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{event::TenantId, store::ingest::dead_letters::DeadLetter};

/// Bytes of a row in addition to its values.
const ROW_OVERHEAD_BYTES: usize = 200;

/// Bytes of dead letters that were parked since the last pruning, per tenant.
#[derive(Debug, Default)]
pub struct DeadLetterBytes {
    bytes: Mutex<HashMap<Option<TenantId>, usize>>,
    added: Notify,
}

impl DeadLetterBytes {
    fn bytes(&self) -> MutexGuard<'_, HashMap<Option<TenantId>, usize>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds dead letters of a tenant, or of no tenant.
    pub fn add(&self, tenant: Option<&TenantId>, letters: &[DeadLetter<'_>]) {
        let bytes: usize = letters.iter().map(size).sum();
        *self.bytes().entry(tenant.cloned()).or_default() += bytes;
        self.added.notify_one();
    }

    /// Waits until a tenant has parked more than `bytes_max` bytes, and returns the tenant. Resets
    /// the count of this tenant.
    pub async fn wait_until_over(&self, bytes_max: usize) -> Option<TenantId> {
        loop {
            let found = {
                let mut bytes = self.bytes();
                let found = bytes.iter().find(|(_, total)| **total > bytes_max);
                let found = found.map(|(owner, _)| owner.clone());
                found.inspect(|owner| {
                    bytes.remove(owner);
                })
            };
            match found {
                Some(owner) => return owner,
                None => self.added.notified().await,
            }
        }
    }

    /// Resets all counts.
    pub fn clear(&self) {
        self.bytes().clear();
    }
}

fn size(letter: &DeadLetter<'_>) -> usize {
    let record = letter.record;
    let of = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    let headers: usize = record.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    ROW_OVERHEAD_BYTES + of(&record.payload) + of(&record.key) + headers
}
