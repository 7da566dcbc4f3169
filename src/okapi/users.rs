//! The users module: whom to ask for a patron's group.

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde::Deserialize;
use uuid::Uuid;

use super::{CallError, Caller, Module, ModuleClient};

/// Most bytes of a user: far more than one has.
const USER_BYTES_MAX: usize = 1 << 20;

/// A client of the users module.
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
    /// A client that waits for an answer for at most `timeout`.
    pub fn new(calls: ModuleClient, timeout: Duration) -> Self {
        Self { client: calls, timeout }
    }

    /// Whether the module may be asked now: not while it hangs.
    pub fn is_available(&self, caller: &Caller) -> bool {
        self.client.is_available(Module::Users, caller)
    }

    /// The patron's group: `None` for a patron without one, or one whom the users module does not
    /// know, which are answers and not failures (docs/contract/http-api.md#2-blocks).
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
