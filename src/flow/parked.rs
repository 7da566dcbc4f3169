//! Bytes of parked records by tenant. Housekeeping comes once an hour, and a producer may fill a disk within less.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::{event::TenantId, store::dead_letters::DeadLetter};

/// Bytes of a row besides its values.
const ROW: usize = 200;

/// Counts the bytes that were parked since housekeeping last looked.
#[derive(Debug, Default)]
pub struct Parked {
    bytes: Mutex<HashMap<Option<TenantId>, usize>>,
    more: Notify,
}

impl Parked {
    fn bytes(&self) -> MutexGuard<'_, HashMap<Option<TenantId>, usize>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts letters of a tenant, or of nobody.
    pub fn add(&self, tenant: Option<&TenantId>, letters: &[DeadLetter<'_>]) {
        let bytes: usize = letters.iter().map(size).sum();
        *self.bytes().entry(tenant.cloned()).or_default() += bytes;
        self.more.notify_one();
    }

    /// Waits until a tenant has parked more than `most` bytes, and returns it. Its count begins anew.
    pub async fn beyond(&self, most: usize) -> Option<TenantId> {
        loop {
            let found = {
                let mut bytes = self.bytes();
                let found = bytes.iter().find(|(_, parked)| **parked > most);
                let found = found.map(|(owner, _)| owner.clone());
                found.inspect(|owner| {
                    bytes.remove(owner);
                })
            };
            match found {
                Some(owner) => return owner,
                None => self.more.notified().await,
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
    ROW + of(&record.payload) + of(&record.key) + headers
}
