//! The endpoints and keys that the provider publishes. They are loaded when a person signs in, and cached.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use openidconnect::{DiscoveryError, IssuerUrl, ProviderMetadataWithLogout};
use tokio::{sync::Mutex, time::timeout};
use tracing::warn;

use super::{
    ProviderError,
    http::{CallError, HttpClient},
};
use crate::{clock::Clock, logging::ErrorChain};

/// The published endpoints and keys.
pub(super) type Metadata = ProviderMetadataWithLogout;

/// Time limit of a load: two calls, while the reader of a page waits.
const LOAD_TIMEOUT: Duration = Duration::from_millis(2_000);

/// Time limit of a load while older metadata is usable, so that time is left for the call that needs it.
const RELOAD_TIMEOUT: Duration = Duration::from_millis(1_000);

/// Age at which the metadata is loaded again.
const AGE_MAX: TimeDelta = TimeDelta::hours(1);

/// Time without calls after a failed load. Until then, earlier metadata is used, or persons see that the provider
/// does not respond.
const RETRY_PAUSE: TimeDelta = TimeDelta::seconds(2);

/// Time between two loads because of an unknown key, so that invalid tokens cause few calls.
const KEY_RELOAD_PAUSE: TimeDelta = TimeDelta::seconds(10);

/// A cache of the metadata. Waiting requests share one load.
#[derive(Debug)]
pub(super) struct MetadataCache {
    issuer: String,
    clock: Clock,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    loaded: Option<(DateTime<Utc>, Arc<Metadata>)>,
    failed_at: Option<DateTime<Utc>>,
    key_reload_at: Option<DateTime<Utc>>,
}

impl MetadataCache {
    pub(super) fn new(issuer: &str, clock: Clock) -> Self {
        Self { issuer: issuer.to_owned(), clock, state: Mutex::default() }
    }

    /// Returns metadata of at most [`AGE_MAX`]. If it cannot be loaded, returns older metadata if there is any.
    pub(super) async fn get(&self, http: &HttpClient) -> Result<Arc<Metadata>, ProviderError> {
        let mut state = self.state.lock().await;
        let now = self.clock.now();
        match &state.loaded {
            Some((at, metadata)) if is_within(now, *at, AGE_MAX) => return Ok(metadata.clone()),
            _ => {}
        }
        let may_try = state.failed_at.is_none_or(|at| !is_within(now, at, RETRY_PAUSE));
        if may_try && let Ok(metadata) = self.load(&mut state, http).await {
            return Ok(metadata);
        }
        let older = state.loaded.as_ref().map(|(_, metadata)| metadata.clone());
        older.ok_or(ProviderError::Unavailable)
    }

    /// Loads the metadata because no key of `used` verifies a token. Returns `used` if that happened a moment ago.
    pub(super) async fn reload(
        &self,
        http: &HttpClient,
        used: &Arc<Metadata>,
    ) -> Result<Arc<Metadata>, ProviderError> {
        let mut state = self.state.lock().await;
        if let Some((_, metadata)) = &state.loaded
            && !Arc::ptr_eq(metadata, used)
        {
            // Another request has loaded it meanwhile.
            return Ok(metadata.clone());
        }
        let now = self.clock.now();
        if state.key_reload_at.is_some_and(|at| is_within(now, at, KEY_RELOAD_PAUSE)) {
            return Ok(used.clone());
        }
        state.key_reload_at = Some(now);
        self.load(&mut state, http).await
    }

    async fn load(
        &self,
        state: &mut State,
        http: &HttpClient,
    ) -> Result<Arc<Metadata>, ProviderError> {
        // A load that its caller abandons counts as failed.
        state.failed_at = Some(self.clock.now());
        let limit = if state.loaded.is_some() { RELOAD_TIMEOUT } else { LOAD_TIMEOUT };
        let loaded = timeout(limit, discover(&self.issuer, http)).await;
        // The pause begins when a load has failed.
        state.failed_at = Some(self.clock.now());
        let metadata = match loaded {
            Ok(Ok(metadata)) => Arc::new(metadata),
            Ok(Err(error)) => {
                warn!(error = %ErrorChain(&error), "sign-in: could not load the metadata of the provider");
                return Err(ProviderError::Unavailable);
            }
            Err(_) => {
                warn!("sign-in: could not load the metadata of the provider in time");
                return Err(ProviderError::Unavailable);
            }
        };
        state.loaded = Some((self.clock.now(), metadata.clone()));
        state.failed_at = None;
        Ok(metadata)
    }
}

async fn discover(issuer: &str, http: &HttpClient) -> Result<Metadata, DiscoveryError<CallError>> {
    let issuer = IssuerUrl::new(issuer.to_owned()).map_err(DiscoveryError::UrlParse)?;
    Metadata::discover_async(issuer, http).await
}

/// Returns whether `at` is at most `age` ago. An instant in the future does not count, because the clock was set back.
fn is_within(now: DateTime<Utc>, at: DateTime<Utc>, age: TimeDelta) -> bool {
    (TimeDelta::zero()..age).contains(&(now - at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_is_compared_on_both_sides() {
        let at = DateTime::UNIX_EPOCH;
        for (seconds, expected) in [(-1, false), (0, true), (3_599, true), (3_600, false)] {
            assert_eq!(is_within(at + TimeDelta::seconds(seconds), at, AGE_MAX), expected);
        }
    }
}
