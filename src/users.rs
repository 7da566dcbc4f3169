//! The users module: whom to ask for a patron's group.

use std::time::Duration;

use reqwest::StatusCode;
use serde::Deserialize;
use uuid::Uuid;

/// What a request brings along for calls on its behalf.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Base of outgoing calls, without a trailing slash.
    pub okapi_url: String,
    /// The tenant.
    pub tenant: String,
    /// The caller's token, passed on as it came and never logged.
    pub token: Option<String>,
    /// For correlation in logs.
    pub request_id: Option<String>,
}

/// Why the users module gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// The call failed or took too long.
    #[error("the users module could not be asked")]
    Call(#[source] reqwest::Error),
    /// It answered with something else than 200 or 404.
    #[error("the users module answered {0}")]
    Status(StatusCode),
}

/// A client of the users module.
#[derive(Debug, Clone)]
pub struct Users {
    http: reqwest::Client,
    timeout: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    patron_group: Option<String>,
}

impl Users {
    /// A client that waits for an answer for at most `timeout`.
    pub fn new(timeout: Duration) -> Result<Self, reqwest::Error> {
        // No redirects: the token is for the gateway alone.
        let redirects = reqwest::redirect::Policy::none();
        let http = reqwest::Client::builder().no_proxy().redirect(redirects).build()?;
        Ok(Self { http, timeout })
    }

    /// The patron's group: `None` for a patron without one, or one whom the users module does not
    /// know, which are answers and not failures (http contract 2).
    pub async fn patron_group(
        &self,
        caller: &Caller,
        user: Uuid,
    ) -> Result<Option<String>, UsersError> {
        let url = format!("{}/users/{user}", caller.okapi_url);
        let optional = [
            ("X-Okapi-Token", caller.token.as_deref()),
            ("X-Okapi-Request-Id", caller.request_id.as_deref()),
        ];
        let request = self
            .http
            .get(url)
            .timeout(self.timeout)
            .header("Accept", "application/json")
            .header("X-Okapi-Url", &caller.okapi_url)
            .header("X-Okapi-Tenant", &caller.tenant);
        let request = optional.into_iter().fold(request, |request, (name, value)| match value {
            Some(value) => request.header(name, value),
            None => request,
        });
        let response = request.send().await.map_err(UsersError::Call)?;
        match response.status() {
            StatusCode::OK => {
                let user: User = response.json().await.map_err(UsersError::Call)?;
                Ok(user.patron_group.filter(|group| !group.is_empty()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(UsersError::Status(status)),
        }
    }
}
