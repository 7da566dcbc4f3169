//! Bytes of parked records by tenant. Housekeeping comes once an hour, and a producer may fill a disk within less.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{event::TenantId, store::dead_letters::DeadLetter};

/// Bytes of a row besides its values.
const ROW_OVERHEAD_BYTES: usize = 200;

/// Counts the bytes that were parked since housekeeping last looked.
#[derive(Debug, Default)]
pub struct DeadLetterBytes {
    bytes: Mutex<HashMap<Option<TenantId>, usize>>,
    added: Notify,
}

impl DeadLetterBytes {
    fn bytes(&self) -> MutexGuard<'_, HashMap<Option<TenantId>, usize>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts letters of a tenant, or of nobody.
    pub fn add(&self, tenant: Option<&TenantId>, letters: &[DeadLetter<'_>]) {
        let bytes: usize = letters.iter().map(size).sum();
        *self.bytes().entry(tenant.cloned()).or_default() += bytes;
        self.added.notify_one();
    }

    /// Waits until a tenant has parked more than `most` bytes, and returns it. Its count begins anew.
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

    /// Begins all counts anew.
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
