//! Other modules, asked through the gateway (docs/contract/http-api.md#9-calls).

mod breaker;
mod calls;
mod pubsub;
pub mod storage;
mod users;

pub use breaker::BreakerLimits;
pub use calls::{CallOutcome, Module, ModuleClient};
pub use pubsub::PubSub;
pub use storage::Storage;
pub use users::Users;

use reqwest::{Client, Method, RequestBuilder, StatusCode};

/// Why a client could not be made.
pub type ClientError = reqwest::Error;

/// What a request brings along for calls on its behalf.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Base of outgoing calls, without a trailing slash.
    pub okapi_url: String,
    /// Whether a request chose that base and `OKAPI_URL` is another: what is answered there serves nobody else.
    pub is_foreign_gateway: bool,
    /// The tenant.
    pub tenant: String,
    /// The caller's token, passed on as it came and never logged.
    pub token: Option<String>,
    /// For correlation in logs.
    pub request_id: Option<String>,
}

/// Why a module gave no answer that can be used.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The call failed or took too long.
    #[error("could not be asked")]
    Failed(#[source] reqwest::Error),
    /// It answered with a status that says no.
    #[error("answered {0}")]
    Status(StatusCode),
    /// It answered with more than it may.
    #[error("answered with more than {0} bytes")]
    TooLarge(usize),
    /// It answered with something else than it should.
    #[error("answered with what can't be read")]
    Unreadable(#[source] serde_json::Error),
    /// Nobody asked it: it gave no answer several times in a row.
    #[error("is not asked for a moment, because it has not answered lately")]
    CircuitOpen,
}

impl CallError {
    /// Whether the same call can't go better: what is asked for is not there, and does not come by itself.
    pub fn is_permanent(&self) -> bool {
        let permanent_statuses = [
            StatusCode::NOT_FOUND,
            StatusCode::METHOD_NOT_ALLOWED,
            StatusCode::GONE,
            StatusCode::NOT_IMPLEMENTED,
        ];
        matches!(self, Self::Status(status) if permanent_statuses.contains(status) || status.is_redirection())
    }

    /// Whether it is the token that is refused: with another one it may go on.
    pub fn is_token_rejected(&self) -> bool {
        matches!(self, Self::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN))
    }
}

impl Caller {
    /// A request with this caller's headers.
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
