//! Settings of calls to other modules.

use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;

use super::Problems;

/// As they come.
#[derive(Debug, Clone, Args)]
pub struct OkapiSettings {
    /// Gateway for calls that no request's X-Okapi-Url names
    #[arg(long, env = "OKAPI_URL", default_value = "http://okapi:9130", global = true)]
    pub okapi_url: String,
    /// Longest wait for the users module, in milliseconds
    #[arg(long, env = "USERS_TIMEOUT_MS", default_value = "2000", global = true)]
    pub users_timeout: String,
    /// Up to this age in seconds a known patron group is used without asking
    #[arg(long, env = "PATRON_GROUP_FRESH_SECONDS", default_value = "10", global = true)]
    pub patron_group_fresh: String,
    /// Up to this age in seconds it is used and asked again in the background
    #[arg(long, env = "PATRON_GROUP_USABLE_SECONDS", default_value = "60", global = true)]
    pub patron_group_usable: String,
    /// Up to this age in seconds it is used when the users module fails
    #[arg(long, env = "PATRON_GROUP_FALLBACK_SECONDS", default_value = "86400", global = true)]
    pub patron_group_fallback: String,
    /// Whether enabling a tenant registers with mod-pubsub for the events: true or false
    #[arg(long, env = "PUBSUB_REGISTRATION", default_value = "true", global = true)]
    pub pubsub_registration: String,
}

/// Once checked: the gateway, and how old the users module's answers may get (http contract 2).
#[derive(Debug, Clone)]
pub struct OkapiConfig {
    /// Gateway for calls that no request names one for; without a trailing slash.
    pub url: String,
    /// Longest wait for an answer of the users module.
    pub users_timeout: Duration,
    /// Up to this age a patron group is used without asking.
    pub fresh: TimeDelta,
    /// Up to this age it is used, and asked again in the background.
    pub usable: TimeDelta,
    /// Up to this age it is used when the users module fails.
    pub fallback: TimeDelta,
    /// Whether enabling a tenant registers with mod-pubsub.
    pub pubsub_registration: bool,
}

impl OkapiSettings {
    pub(super) fn check(&self, problems: &mut Problems) -> OkapiConfig {
        let url = |text: &str| {
            let rest = text.strip_prefix("http://").or(text.strip_prefix("https://"))?;
            let url = text.trim_end_matches('/').to_owned();
            (!rest.is_empty() && !rest.starts_with('/')).then_some(url)
        };
        let rule = "must be a URL with http or https";
        OkapiConfig {
            url: problems.check("OKAPI_URL", &self.okapi_url, rule, url).unwrap_or_default(),
            users_timeout: problems.milliseconds("USERS_TIMEOUT_MS", &self.users_timeout),
            fresh: problems.seconds("PATRON_GROUP_FRESH_SECONDS", &self.patron_group_fresh),
            usable: problems.seconds("PATRON_GROUP_USABLE_SECONDS", &self.patron_group_usable),
            fallback: problems
                .seconds("PATRON_GROUP_FALLBACK_SECONDS", &self.patron_group_fallback),
            pubsub_registration: problems.flag("PUBSUB_REGISTRATION", &self.pubsub_registration),
        }
    }
}
