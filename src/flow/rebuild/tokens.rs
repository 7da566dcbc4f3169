//! Tokens with which the storage modules may be asked. They are kept in memory alone, and not for long.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use crate::{event::TenantId, okapi::Caller};

/// A token that nobody could use by then is dropped: the timer brings another one.
const KEPT: Duration = Duration::from_secs(120);

/// For which tenant, and for this rebuild alone or for the one that has waited longest.
pub(super) type Key = (TenantId, Option<Uuid>);

#[derive(Default)]
pub(super) struct Tokens(Mutex<HashMap<Key, (Caller, Instant)>>);

impl Tokens {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, (Caller, Instant)>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, since)| since.elapsed() < KEPT);
        all
    }

    pub(super) fn bring(&self, key: Key, caller: Caller) {
        self.all().insert(key, (caller, Instant::now()));
    }

    /// What there are tokens for.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.all().keys().cloned().collect()
    }

    pub(super) fn take(&self, key: &Key) -> Option<Caller> {
        self.all().remove(key).map(|(caller, _)| caller)
    }
}
