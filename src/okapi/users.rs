//! Reads patron groups from mod-users.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use super::{CallError, Caller, Module, ModuleClient};

/// Size of a user in bytes, at most: far above a real user.
const USER_BYTES_MAX: usize = 1 << 20;

/// A client of mod-users.
#[derive(Debug, Clone)]
pub struct Users {
    client: ModuleClient,
    timeout: Duration,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct User {
    patron_group: Option<String>,
}

impl Users {
    /// Creates a client; a call ends after `timeout`.
    pub fn new(calls: ModuleClient, timeout: Duration) -> Self {
        Self { client: calls, timeout }
    }

    /// Returns whether the breaker of mod-users is closed.
    pub fn is_available(&self, caller: &Caller) -> bool {
        self.client.is_available(Module::Users, caller)
    }

    /// Fetches the patron's group. `None` means that the patron has no group or that mod-users does not
    /// know the patron; these are responses, not failures (docs/contract/http-api.md#2-blocks).
    pub async fn fetch_patron_group(
        &self,
        caller: &Caller,
        user: Uuid,
    ) -> Result<Option<String>, CallError> {
        let request = caller.request(self.client.http(), Method::GET, &format!("/users/{user}"));
        let answer =
            self.client.send(Module::Users, caller, request, self.timeout, USER_BYTES_MAX).await?;
        match answer.status {
            StatusCode::OK => {
                let user: User =
                    serde_json::from_slice(&answer.body).map_err(CallError::Unreadable)?;
                Ok(user.patron_group.filter(|group| !group.is_empty()))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(CallError::Status(status)),
        }
    }
}
