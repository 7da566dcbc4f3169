//! Settings of calls to other modules.

use std::time::Duration;

use chrono::TimeDelta;
use clap::{ArgAction, Args};

use super::parse::{age, choice, flag, number, valid, wait};

/// The gateway if `OKAPI_URL` is not set and a request names no gateway.
const DEFAULT_URL: &str = "http://okapi:9130";

/// The settings: the gateway, and the ages of cached patron groups (docs/contract/http-api.md#2-blocks).
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Other modules")]
pub struct OkapiConfig {
    /// URL of the gateway, or of the sidecar with Eureka; an empty value counts as not set. If it is not
    /// set and a request names no gateway, the service calls http://okapi:9130
    #[arg(long, env = "OKAPI_URL")]
    #[arg(value_parser = valid("must be a URL with http or https", url_or_empty))]
    pub okapi_url: Option<String>,
    /// Gateway of calls: pinned (only OKAPI_URL), request (the URL of the header X-Okapi-Url), or auto
    /// (pinned if OKAPI_URL is set)
    #[arg(long, env = "OKAPI_GATEWAY")]
    #[arg(default_value = "auto", value_parser = choice([
        ("auto", GatewayMode::Auto),
        ("pinned", GatewayMode::Pinned),
        ("request", GatewayMode::Request),
    ]))]
    pub okapi_gateway: GatewayMode,
    /// Longest call of mod-users, in milliseconds
    #[arg(long, env = "USERS_TIMEOUT_MS", default_value = "2000", value_parser = wait())]
    pub users_timeout: Duration,
    /// Age in seconds up to which a cached patron group is fresh
    #[arg(long, env = "PATRON_GROUP_TTL_SECONDS", default_value = "10", value_parser = age())]
    pub patron_group_ttl: TimeDelta,
    /// Age in seconds up to which a cached patron group is used and refreshed in the background. A group
    /// from the topic of users is used at any age, and refreshed beyond this age
    #[arg(long, env = "PATRON_GROUP_STALE_SECONDS", default_value = "60", value_parser = age())]
    pub patron_group_stale: TimeDelta,
    /// Age in seconds up to which a cached patron group is used if mod-users fails
    #[arg(long, env = "PATRON_GROUP_FALLBACK_SECONDS")]
    #[arg(default_value = "86400", value_parser = age())]
    pub patron_group_fallback: TimeDelta,
    /// Limits at which breakers open and probe a module
    #[command(flatten)]
    pub breaker: BreakerLimits,
    /// Register subscriptions with mod-pubsub when a tenant is enabled: true or false
    #[arg(long, env = "PUBSUB_REGISTRATION")]
    #[arg(default_value = "true", value_parser = flag(), action = ArgAction::Set)]
    pub pubsub_registration: bool,
}

/// The rule that selects the gateway of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayMode {
    /// Pinned if `OKAPI_URL` is set.
    Auto,
    /// The configured gateway, whatever gateway the request names.
    Pinned,
    /// The gateway that the request names.
    Request,
}

/// The limits at which a breaker opens and probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
pub struct BreakerLimits {
    /// Consecutive failed calls that open the breaker of a module
    #[arg(long = "module-breaker-failures", env = "MODULE_BREAKER_FAILURES")]
    #[arg(default_value = "5", value_parser = number::<u32>(1..=1000))]
    pub failure_threshold: u32,
    /// Time without calls after a breaker opens, in milliseconds; afterwards one call probes the module
    #[arg(long = "module-breaker-pause", env = "MODULE_BREAKER_PAUSE_MS")]
    #[arg(default_value = "5000", value_parser = wait())]
    pub open_duration: Duration,
}

impl OkapiConfig {
    /// Returns the gateway of calls.
    pub fn gateway(&self) -> Gateway {
        let configured = self.okapi_url.as_deref().filter(|url| !url.is_empty());
        Gateway {
            url: configured.unwrap_or(DEFAULT_URL).to_owned(),
            is_configured: configured.is_some(),
            is_pinned: match self.okapi_gateway {
                GatewayMode::Auto => configured.is_some(),
                GatewayMode::Pinned => true,
                GatewayMode::Request => false,
            },
        }
    }
}

/// Returns a URL without a trailing slash, or an empty text.
fn url_or_empty(text: &str) -> Option<String> {
    let rest = text.strip_prefix("http://").or(text.strip_prefix("https://"));
    let is_url = rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
    (text.is_empty() || is_url).then(|| text.trim_end_matches('/').to_owned())
}

/// The gateway of calls to other modules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gateway {
    /// Base URL of calls if the request names no gateway; without a trailing slash.
    pub url: String,
    /// Whether `OKAPI_URL` is set.
    pub is_configured: bool,
    /// Whether all calls use [`Gateway::url`], whatever gateway the request names.
    pub is_pinned: bool,
}

impl Gateway {
    /// Returns the base URL of calls for a request that names `requested`, and whether that URL is a
    /// foreign gateway. Responses of a foreign gateway are used for that request only.
    pub fn resolve(&self, requested: Option<&str>) -> (String, bool) {
        match requested.map(|named| named.trim_end_matches('/')) {
            Some(named) if !self.is_pinned => {
                (named.to_owned(), self.is_configured && named != self.url)
            }
            _ => (self.url.clone(), false),
        }
    }

    /// Returns the gateway that a request names, if the pinned gateway is another one.
    pub fn ignored_url<'a>(&self, requested: Option<&'a str>) -> Option<&'a str> {
        let named = requested?.trim_end_matches('/');
        (self.is_pinned && named != self.url).then_some(named)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::tests::check;

    fn gateway(line: &[&str]) -> Gateway {
        check(line).unwrap().okapi.gateway()
    }

    #[test]
    fn configured_gateway_is_pinned() {
        let base = |line: &[&str], named| gateway(line).resolve(named);
        let (url, other) = ("--okapi-url=http://here:9130/", Some("http://elsewhere/"));
        let here = || "http://here:9130".to_owned();
        assert_eq!(base(&[url], other), (here(), false));
        assert_eq!(base(&[url], None), (here(), false));
        // A request may name the configured gateway; the result is the same.
        assert_eq!(base(&[url], Some("http://here:9130/")), (here(), false));
        let elsewhere = || "http://elsewhere".to_owned();
        assert_eq!(base(&[], other), (elsewhere(), false), "as ever");
        assert_eq!(base(&[], None), ("http://okapi:9130".to_owned(), false));
        for empty in ["--okapi-url=", "--okapi-url= "] {
            assert_eq!(base(&[empty], other), (elsewhere(), false), "it is not set");
            assert_eq!(base(&[empty], None), ("http://okapi:9130".to_owned(), false));
        }
        let line = [url, "--okapi-gateway=request"];
        assert_eq!(base(&line, other), (elsewhere(), true));
        assert_eq!(base(&line, Some("http://here:9130/")), (here(), false));
        let line = ["--okapi-gateway=pinned"];
        assert_eq!(base(&line, other), ("http://okapi:9130".to_owned(), false));
    }
}
