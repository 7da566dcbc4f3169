//! Requests that name a gateway other than the pinned gateway. The service ignores the named gateway and logs
//! a warning for operators.

use std::{
    collections::BTreeSet,
    sync::{LazyLock, Mutex, PoisonError},
};

use metrics::Counter;
use tracing::warn;

use crate::{config::Gateway, metrics::counter};

/// Maximum number of logged URLs: a caller may invent any number of URLs.
const URLS_LOGGED_MAX: usize = 16;

/// Maximum length of a URL in logs and in comparisons, in characters.
const URL_CHARS_MAX: usize = 200;

static OTHER_GATEWAY_REQUESTS: LazyLock<Counter> = LazyLock::new(|| {
    counter(
        "patron_blocks_other_gateway_requests_total",
        "Requests with another gateway than the pinned gateway, which the service calls instead",
    )
});

/// Creates the counter of such requests.
pub fn register_metrics() {
    LazyLock::force(&OTHER_GATEWAY_REQUESTS);
}

/// The URLs that were logged.
#[derive(Debug, Default)]
pub struct OtherGateways {
    logged: Mutex<BTreeSet<String>>,
}

impl OtherGateways {
    /// Counts a request that names a gateway other than the pinned gateway, and logs each new URL once.
    pub(super) fn record(&self, gateway: &Gateway, named: Option<&str>) {
        let Some(other_url) = gateway.ignored_url(named) else { return };
        OTHER_GATEWAY_REQUESTS.increment(1);
        if let Some(url) = self.log_once(other_url) {
            warn!(
                okapi.url = gateway.url,
                x_okapi_url = url,
                "gateway: ignored the gateway that a request names, because OKAPI_URL is pinned; set OKAPI_URL to that gateway, leave it unset, \
                 or set OKAPI_GATEWAY=request"
            );
        }
    }

    /// Returns the URL as logged, or `None` if it was logged before or the maximum is reached.
    fn log_once(&self, url: &str) -> Option<String> {
        let url: String = url.chars().take(URL_CHARS_MAX).collect();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        (logged.len() < URLS_LOGGED_MAX && logged.insert(url.clone())).then_some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_gateways_are_logged_once_and_bounded() {
        let others = OtherGateways::default();
        let url = |n: usize| format!("http://gateway-{n}:8081");
        for n in 0..URLS_LOGGED_MAX {
            assert_eq!(others.log_once(&url(n)), Some(url(n)));
            assert_eq!(others.log_once(&url(n)), None);
        }
        assert_eq!(others.log_once(&url(URLS_LOGGED_MAX)), None);
        let long = OtherGateways::default().log_once(&"x".repeat(2 * URL_CHARS_MAX));
        assert_eq!(long.map(|url| url.len()), Some(URL_CHARS_MAX));
    }

    #[test]
    fn only_a_gateway_other_than_the_pinned_one_is_ignored() {
        let url = "http://here:9130".to_owned();
        let pinned = Gateway { url, is_configured: true, is_pinned: true };
        assert_eq!(pinned.ignored_url(None), None);
        assert_eq!(pinned.ignored_url(Some("http://here:9130/")), None);
        assert_eq!(pinned.ignored_url(Some("http://there:8081/")), Some("http://there:8081"));
        let unpinned = Gateway { is_pinned: false, ..pinned };
        assert_eq!(unpinned.ignored_url(Some("http://there:8081")), None);
    }
}
