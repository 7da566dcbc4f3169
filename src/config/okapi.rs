//! Settings of calls to other modules.

use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;

use super::InvalidSettings;

/// The gateway if `OKAPI_URL` is not set and a request names no gateway.
const DEFAULT_URL: &str = "http://okapi:9130";

/// The settings as text, before validation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Other modules")]
pub struct OkapiSettings {
    /// URL of the gateway, or of the sidecar with Eureka; an empty value counts as not set. If it is not
    /// set and a request names no gateway, the service calls http://okapi:9130
    #[arg(long, env = "OKAPI_URL", global = true)]
    pub okapi_url: Option<String>,
    /// Gateway of calls: pinned (only OKAPI_URL), request (the URL of the header X-Okapi-Url), or auto
    /// (pinned if OKAPI_URL is set)
    #[arg(long, env = "OKAPI_GATEWAY", default_value = "auto", global = true)]
    pub okapi_gateway: String,
    /// Longest call of mod-users, in milliseconds
    #[arg(long, env = "USERS_TIMEOUT_MS", default_value = "2000", global = true)]
    pub users_timeout: String,
    /// Age in seconds up to which a cached patron group is fresh
    #[arg(long, env = "PATRON_GROUP_TTL_SECONDS", default_value = "10", global = true)]
    pub patron_group_ttl: String,
    /// Age in seconds up to which a cached patron group is used and refreshed in the background. A group
    /// from the topic of users is used at any age, and refreshed beyond this age
    #[arg(long, env = "PATRON_GROUP_STALE_SECONDS", default_value = "60", global = true)]
    pub patron_group_stale: String,
    /// Age in seconds up to which a cached patron group is used if mod-users fails
    #[arg(long, env = "PATRON_GROUP_FALLBACK_SECONDS", default_value = "86400", global = true)]
    pub patron_group_fallback: String,
    /// Consecutive failed calls that open the breaker of a module
    #[arg(long, env = "MODULE_BREAKER_FAILURES", default_value = "5", global = true)]
    pub module_breaker_failures: String,
    /// Time without calls after a breaker opens, in milliseconds; afterwards one call probes the module
    #[arg(long, env = "MODULE_BREAKER_PAUSE_MS", default_value = "5000", global = true)]
    pub module_breaker_pause: String,
    /// Register subscriptions with mod-pubsub when a tenant is enabled: true or false
    #[arg(long, env = "PUBSUB_REGISTRATION", default_value = "true", global = true)]
    pub pubsub_registration: String,
}

/// The validated settings: the gateway, and the ages of cached patron groups
/// (docs/contract/http-api.md#2-blocks).
#[derive(Debug, Clone)]
pub struct OkapiConfig {
    /// The gateway of calls.
    pub gateway: Gateway,
    /// Longest call of mod-users.
    pub users_timeout: Duration,
    /// Age up to which a cached patron group is fresh.
    pub patron_group_ttl: TimeDelta,
    /// Age up to which a cached patron group is used and refreshed in the background.
    pub patron_group_stale: TimeDelta,
    /// Age up to which a cached patron group is used if mod-users fails.
    pub patron_group_fallback: TimeDelta,
    /// Limits at which breakers open and probe a module.
    pub breaker: BreakerLimits,
    /// Whether enabling a tenant registers subscriptions with mod-pubsub.
    pub pubsub_registration: bool,
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

/// The limits at which a breaker opens and probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// Failures in a row that open the breaker.
    pub failure_threshold: u32,
    /// Time without calls after the last failure.
    pub open_duration: Duration,
}

impl OkapiSettings {
    pub(super) fn validate(&self, problems: &mut InvalidSettings) -> OkapiConfig {
        OkapiConfig {
            gateway: self.gateway(problems),
            users_timeout: problems.milliseconds("USERS_TIMEOUT_MS", &self.users_timeout),
            patron_group_ttl: problems.seconds("PATRON_GROUP_TTL_SECONDS", &self.patron_group_ttl),
            patron_group_stale: problems
                .seconds("PATRON_GROUP_STALE_SECONDS", &self.patron_group_stale),
            patron_group_fallback: problems
                .seconds("PATRON_GROUP_FALLBACK_SECONDS", &self.patron_group_fallback),
            breaker: BreakerLimits {
                failure_threshold: problems.number(
                    "MODULE_BREAKER_FAILURES",
                    &self.module_breaker_failures,
                    "must be a number from 1 to 1000",
                    1..=1000,
                ),
                open_duration: problems
                    .milliseconds("MODULE_BREAKER_PAUSE_MS", &self.module_breaker_pause),
            },
            pubsub_registration: problems.flag("PUBSUB_REGISTRATION", &self.pubsub_registration),
        }
    }

    fn gateway(&self, problems: &mut InvalidSettings) -> Gateway {
        let url = |text: &str| {
            let rest = text.strip_prefix("http://").or(text.strip_prefix("https://"))?;
            let url = text.trim_end_matches('/').to_owned();
            (!rest.is_empty() && !rest.starts_with('/')).then_some(url)
        };
        let rule = "must be a URL with http or https";
        let set = self.okapi_url.as_deref().filter(|set| !set.trim().is_empty());
        let checked = problems.parse("OKAPI_URL", set.unwrap_or(DEFAULT_URL), rule, url);
        let rule = "must be auto, pinned or request";
        let pinned = |text: &str| match text {
            "auto" => Some(set.is_some()),
            "pinned" => Some(true),
            "request" => Some(false),
            _ => None,
        };
        let is_pinned = problems.parse("OKAPI_GATEWAY", &self.okapi_gateway, rule, pinned);
        Gateway {
            url: checked.unwrap_or_default(),
            is_configured: set.is_some(),
            is_pinned: is_pinned.unwrap_or(true),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, FromArgMatches, Parser, builder::Resettable};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        settings: OkapiSettings,
    }

    fn gateway(line: &[&str]) -> Gateway {
        // Ignores the environment of the test process.
        let command = Line::command().mut_args(|arg| arg.env(Resettable::Reset));
        let matches = command.get_matches_from([&["x"], line].concat());
        let settings = Line::from_arg_matches(&matches).unwrap().settings;
        let mut problems = InvalidSettings::default();
        let config = settings.validate(&mut problems);
        assert!(problems.0.is_empty());
        config.gateway
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
