//! The judged service, used only through its REST interface.

mod compare;
mod explanations;
mod judge;
mod listener;
mod set_up;

#[cfg(test)]
mod tests;

use std::time::Duration;

use anyhow::{Context, bail};
use reqwest::{Client, Method, RequestBuilder, Response};
use serde::de::DeserializeOwned;

pub use compare::{Difference, Summary};
pub use judge::{Judge, Verdict};
pub use listener::Listener;
pub use set_up::set_up;

/// A timeout longer than that of any client of the service.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// A tenant of a running service.
#[derive(Debug, Clone)]
pub struct Service {
    url: String,
    tenant: String,
    okapi_url: Option<String>,
    client: Client,
}

impl Service {
    /// Returns a client of the service at `url` for `tenant`. Requests carry `okapi_url` as the address of
    /// the rest of FOLIO; without `okapi_url` the service must have the address in its configuration.
    pub fn new(url: &str, tenant: &str, okapi_url: Option<&str>) -> anyhow::Result<Self> {
        let client =
            Client::builder().timeout(REQUEST_TIMEOUT).build().context("no HTTP client")?;
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            tenant: tenant.to_owned(),
            okapi_url: okapi_url.map(str::to_owned),
            client,
        })
    }

    /// Sets the address of the rest of FOLIO, if none is set.
    #[must_use]
    pub fn with_okapi_url(mut self, okapi_url: Option<String>) -> Self {
        self.okapi_url = self.okapi_url.or(okapi_url);
        self
    }

    /// Returns the address of the service.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Returns the tenant.
    pub fn tenant(&self) -> &str {
        &self.tenant
    }

    /// Checks that the service responds.
    pub async fn check_health(&self) -> anyhow::Result<()> {
        let answer = self.request(Method::GET, "/admin/health").send().await?;
        ensure_success(answer, "GET", "/admin/health").await.map(|_| ())
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self
            .client
            .request(method, format!("{}{path}", self.url))
            .header("X-Okapi-Tenant", &self.tenant);
        match &self.okapi_url {
            Some(okapi) => request.header("X-Okapi-Url", okapi),
            None => request,
        }
    }

    /// Sends a GET request and returns the body. A status other than success is an error.
    async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let answer = self
            .request(Method::GET, path)
            .send()
            .await
            .with_context(|| format!("no response to GET {}{path}", self.url))?;
        let answer = ensure_success(answer, "GET", path).await?;
        answer
            .json()
            .await
            .with_context(|| format!("the response to GET {path} is not the expected JSON"))
    }
}

/// Returns the response if its status is success.
async fn ensure_success(answer: Response, method: &str, path: &str) -> anyhow::Result<Response> {
    let status = answer.status();
    if status.is_success() {
        return Ok(answer);
    }
    let body = answer.text().await.unwrap_or_default();
    bail!("{method} {path} returned {status}: {}", body.trim())
}
