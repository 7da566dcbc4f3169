//! The users module: whom to ask for a patron's group.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use super::{CallError, Caller};

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
    pub fn new(http: reqwest::Client, timeout: Duration) -> Self {
        Self { http, timeout }
    }

    /// The patron's group: `None` for a patron without one, or one whom the users module does not
    /// know, which are answers and not failures (http contract 2).
    pub async fn patron_group(
        &self,
        caller: &Caller,
        user: Uuid,
    ) -> Result<Option<String>, CallError> {
        let request = caller.request(&self.http, Method::GET, &format!("/users/{user}"));
        let response = request.timeout(self.timeout).send().await.map_err(CallError::Failed)?;
        match response.status() {
            StatusCode::OK => {
                let user: User = response.json().await.map_err(CallError::Failed)?;
                Ok(user.patron_group.filter(|group| !group.is_empty()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(CallError::Status(status)),
        }
    }
}
