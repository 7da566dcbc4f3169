//! Calls to other modules through the gateway (docs/contract/http-api.md#9-calls).

mod breaker;
mod calls;
mod metrics;
pub mod patron_items;
mod pubsub;
pub mod reader;
pub mod storage;
mod users;

pub use calls::{CallOutcome, Module, ModuleClient};
pub use metrics::register_metrics;
pub use patron_items::PatronItems;
pub use pubsub::PubSub;
pub use reader::ReaderLookups;
pub use storage::Storage;
pub use users::{GroupsError, Users};

use std::time::Duration;

use reqwest::{Client, Method, RequestBuilder, StatusCode};

use crate::config::BreakerLimits;

/// Limits of a client without breakers, for callers with a breaker of their own.
pub const WITHOUT_BREAKER: BreakerLimits =
    BreakerLimits { failure_threshold: u32::MAX, open_duration: Duration::ZERO };

/// The error of a client that could not be created.
pub type ClientError = reqwest::Error;

/// The properties of a request that calls on its behalf need.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Base URL of calls, without a trailing slash.
    pub okapi_url: String,
    /// Whether the request chose the base URL and it differs from `OKAPI_URL`; responses then serve that
    /// request only.
    pub is_foreign_gateway: bool,
    /// The tenant.
    pub tenant: String,
    /// The caller's token, passed on unchanged and never logged.
    pub token: Option<String>,
    /// Id of the request, for correlation of logs.
    pub request_id: Option<String>,
}

/// The cause of a missing or unusable response.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The call failed or timed out.
    #[error("could not be called")]
    Failed(#[source] reqwest::Error),
    /// The module responded with an error status.
    #[error("responded with status {0}")]
    Status(StatusCode),
    /// The response exceeds its size limit.
    #[error("responded with more than {0} bytes")]
    TooLarge(usize),
    /// The response is not the expected JSON.
    #[error("responded with an invalid body")]
    Unreadable(#[source] serde_json::Error),
    /// The breaker was open, so the call did not happen.
    #[error("is not called now, because recent calls failed")]
    CircuitOpen,
}

impl CallError {
    /// Returns whether a retry is useless, because the resource is missing and will stay missing.
    pub fn is_permanent(&self) -> bool {
        let permanent_statuses = [
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::GONE,
            StatusCode::NOT_IMPLEMENTED,
        ];
        matches!(self, Self::Status(status) if permanent_statuses.contains(status) || status.is_redirection())
    }

    /// Returns whether the module rejected the token; a call with another token may succeed.
    pub fn is_token_rejected(&self) -> bool {
        matches!(self, Self::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
    }
}

impl Caller {
    /// Returns a request with the headers of this caller.
    fn request(&self, http: &Client, method: Method, path: &str) -> RequestBuilder {
        let optional = [
            ("X-Okapi-Token", self.token.as_deref()),
            ("X-Okapi-Request-Id", self.request_id.as_deref()),
        ];
        let request = http
            .request(method, format!("{}{path}", self.okapi_url))
            .header("Accept", "application/json")
            .header("X-Okapi-Url", &self.okapi_url)
            .header("X-Okapi-Tenant", &self.tenant);
        optional.into_iter().fold(request, |request, (name, value)| match value {
            Some(value) => request.header(name, value),
            None => request,
        })
    }
}
