//! Tokens with which the storage modules may be asked. They are kept in memory alone, and not for long.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{event::TenantId, okapi::Caller};

/// A token that nobody could use by then is dropped: the timer brings another one.
const KEPT: Duration = Duration::from_secs(120);

/// The most tokens at once. Beyond it the oldest is dropped, and the timer brings it again.
const MOST: usize = 10_000;

/// For which tenant, and for this rebuild alone or for the one that has waited longest.
pub(super) type Key = (TenantId, Option<Uuid>);

#[derive(Default)]
pub(super) struct Tokens {
    all: Mutex<HashMap<Key, (Caller, Instant)>>,
    /// Notified where there may be one more that is of use.
    pub(super) more: Notify,
}

impl Tokens {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, (Caller, Instant)>> {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, since)| since.elapsed() < KEPT);
        all
    }

    pub(super) fn bring(&self, key: Key, caller: Caller) {
        let mut all = self.all();
        if all.len() >= MOST && !all.contains_key(&key) {
            let oldest =
                all.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| key.clone());
            oldest.map(|oldest| all.remove(&oldest));
        }
        all.insert(key, (caller, Instant::now()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all().is_empty()
    }

    /// What there are tokens for.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.all().keys().cloned().collect()
    }

    pub(super) fn take(&self, key: &Key) -> Option<Caller> {
        self.all().remove(key).map(|(caller, _)| caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_number_of_callers_fills_the_memory() {
        let tokens = Tokens::default();
        let tenant = TenantId::parse("northlib").unwrap();
        let caller = Caller {
            okapi_url: String::new(),
            is_elsewhere: false,
            tenant: tenant.to_string(),
            token: None,
            request_id: None,
        };
        let last = (tenant.clone(), Some(Uuid::from_u128(0)));
        for n in (0..=u128::try_from(MOST).unwrap() + 5).rev() {
            tokens.bring((tenant.clone(), Some(Uuid::from_u128(n))), caller.clone());
        }
        assert_eq!(tokens.keys().len(), MOST);
        assert!(tokens.take(&last).is_some(), "the newest is there");
    }
}
