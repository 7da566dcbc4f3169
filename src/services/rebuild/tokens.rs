//! Tokens for requests to the storage modules, in memory only and for a short time.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::Notify;
use uuid::Uuid;

use crate::{event::TenantId, okapi::Caller};

/// Lifetime of an unused token; the next call of the timer supplies another token.
const TOKEN_TTL: Duration = Duration::from_secs(120);

/// Maximum number of tokens. Beyond the maximum, the oldest token is dropped; the next call of the timer
/// supplies another token.
const TOKENS_MAX: usize = 10_000;

/// The tenant, and the rebuild; `None` means the longest waiting rebuild of the tenant.
pub(super) type TokenKey = (TenantId, Option<Uuid>);

#[derive(Default)]
pub(super) struct Tokens {
    entries: Mutex<HashMap<TokenKey, (Caller, Instant)>>,
    /// Notified when a token may have become usable.
    pub(super) available: Notify,
}

impl Tokens {
    fn live_entries(&self) -> MutexGuard<'_, HashMap<TokenKey, (Caller, Instant)>> {
        let mut all = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (_, since)| since.elapsed() < TOKEN_TTL);
        all
    }

    pub(super) fn insert(&self, key: TokenKey, caller: Caller) {
        let mut all = self.live_entries();
        if all.len() >= TOKENS_MAX && !all.contains_key(&key) {
            let oldest =
                all.iter().min_by_key(|(_, (_, since))| *since).map(|(key, _)| key.clone());
            oldest.map(|oldest| all.remove(&oldest));
        }
        all.insert(key, (caller, Instant::now()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live_entries().is_empty()
    }

    /// Returns the keys of all live tokens.
    pub(super) fn keys(&self) -> Vec<TokenKey> {
        self.live_entries().keys().cloned().collect()
    }

    pub(super) fn take(&self, key: &TokenKey) -> Option<Caller> {
        self.live_entries().remove(key).map(|(caller, _)| caller)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_tokens_are_bounded() {
        let tokens = Tokens::default();
        let tenant = TenantId::parse("northlib").unwrap();
        let caller = Caller {
            okapi_url: String::new(),
            is_foreign_gateway: false,
            tenant: tenant.to_string(),
            token: None,
            request_id: None,
        };
        let newest = (tenant.clone(), Some(Uuid::from_u128(0)));
        for n in (0..=u128::try_from(TOKENS_MAX).unwrap() + 5).rev() {
            tokens.insert((tenant.clone(), Some(Uuid::from_u128(n))), caller.clone());
        }
        assert_eq!(tokens.keys().len(), TOKENS_MAX);
        assert!(tokens.take(&newest).is_some(), "the list contains the newest token");
    }
}
