//! Requests that name another gateway than the pinned one. Nobody asks there, and an operator has to know.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use tracing::warn;

use crate::{config::Gateway, figures::figures};

/// Most URLs that are logged. A caller may make up any number of them.
const MOST: usize = 16;

/// Most characters of a URL that are logged and compared.
const URL_MOST: usize = 200;

/// Which URLs were logged.
#[derive(Debug, Default)]
pub struct OtherGateways {
    logged: Mutex<BTreeSet<String>>,
}

impl OtherGateways {
    /// Counts a request that names another gateway than the pinned one, and logs each such URL once.
    pub(super) fn note(&self, gateway: &Gateway, named: Option<&str>) {
        let Some(other) = gateway.passed_over(named) else { return };
        figures().other_gateway_requests.increment(1);
        if let Some(url) = self.first_seen(other) {
            warn!(
                okapi.url = gateway.url,
                x_okapi_url = url,
                "gateway: ignored the gateway that a request names, because OKAPI_URL is pinned; set OKAPI_URL to that gateway, leave it unset, \
                 or set OKAPI_GATEWAY=request"
            );
        }
    }

    /// The URL as it is logged, where it was not logged before.
    fn first_seen(&self, url: &str) -> Option<String> {
        let url: String = url.chars().take(URL_MOST).collect();
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        (logged.len() < MOST && logged.insert(url.clone())).then_some(url)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_other_gateway_is_logged_once_and_few_of_them() {
        let others = OtherGateways::default();
        let url = |n: usize| format!("http://gateway-{n}:8081");
        for n in 0..MOST {
            assert_eq!(others.first_seen(&url(n)), Some(url(n)));
            assert_eq!(others.first_seen(&url(n)), None);
        }
        assert_eq!(others.first_seen(&url(MOST)), None);
        let long = OtherGateways::default().first_seen(&"x".repeat(2 * URL_MOST));
        assert_eq!(long.map(|url| url.len()), Some(URL_MOST));
    }

    #[test]
    fn only_another_gateway_than_the_pinned_one_is_passed_over() {
        let url = "http://here:9130".to_owned();
        let pinned = Gateway { url, is_set: true, is_pinned: true };
        assert_eq!(pinned.passed_over(None), None);
        assert_eq!(pinned.passed_over(Some("http://here:9130/")), None);
        assert_eq!(pinned.passed_over(Some("http://there:8081/")), Some("http://there:8081"));
        let believed = Gateway { is_pinned: false, ..pinned };
        assert_eq!(believed.passed_over(Some("http://there:8081")), None);
    }
}
