//! The HTTP client of the provider. The crate `openidconnect` brings clients for another version of reqwest only.

use std::{future::Future, pin::Pin, time::Duration};

use openidconnect::{AsyncHttpClient, HttpRequest, HttpResponse, http};
use reqwest::{Client, Request, header::CONTENT_TYPE, redirect::Policy};

use super::ClientError;
use crate::config::is_protected;

/// Size of a response in bytes, at most. A set of keys with certificates has some kilobytes.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Time limits of a connection and of a call.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1_000);
const CALL_TIMEOUT: Duration = Duration::from_millis(2_000);

/// A client that follows no redirects, because a request may contain the secret of the client.
#[derive(Debug)]
pub(super) struct HttpClient(Client);

/// Why a call of the provider failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error("the endpoint is neither encrypted nor on this machine")]
    Unprotected,
    #[error("the call failed")]
    Failed(#[from] reqwest::Error),
    #[error("the response has more than {RESPONSE_BYTES_MAX} bytes")]
    TooLarge,
    #[error("the response cannot be read")]
    Unreadable(#[from] http::Error),
}

impl HttpClient {
    pub(super) fn new() -> Result<Self, ClientError> {
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(CALL_TIMEOUT)
            .build()?;
        Ok(Self(client))
    }

    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, CallError> {
        let request = Request::try_from(request)?;
        // The provider itself names its endpoints, so each of them is checked.
        if !is_protected(request.url()) {
            return Err(CallError::Unprotected);
        }
        let mut response = self.0.execute(request).await?;
        let mut parts = http::Response::builder().status(response.status());
        if let Some(content_type) = response.headers().get(CONTENT_TYPE) {
            parts = parts.header(CONTENT_TYPE, content_type);
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if body.len() + chunk.len() > RESPONSE_BYTES_MAX {
                return Err(CallError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        Ok(parts.body(body)?)
    }
}

impl<'c> AsyncHttpClient<'c> for HttpClient {
    type Error = CallError;
    type Future = Pin<Box<dyn Future<Output = Result<HttpResponse, CallError>> + Send + 'c>>;

    fn call(&'c self, request: HttpRequest) -> Self::Future {
        Box::pin(self.send(request))
    }
}
