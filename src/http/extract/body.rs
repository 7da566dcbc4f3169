//! Bodies of requests, with limits on their length (`BODY_BYTES_MAX`), their transfer time and their total
//! memory.

use std::{future::Future, ops::Deref, pin::Pin, sync::Arc, time::Duration};

use actix_web::{
    Error, FromRequest, HttpRequest, ResponseError,
    dev::Payload,
    http::{StatusCode, header::CONTENT_LENGTH},
    web::BytesMut,
};
use futures_util::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::tenant::{TenantRequest, app_state};
use crate::http::{ApiError, BODY_BYTES_MAX};

/// Maximum time for the transfer of a whole body; the sender is a gateway nearby.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Memory for all bodies that are received or processed, in bytes; enough for many thousands of ordinary
/// bodies.
const BODY_BUDGET_BYTES: usize = 32 * 1024 * 1024;

type Extracted<T> = Pin<Box<dyn Future<Output = Result<T, Error>>>>;

/// The memory budget for bodies, shared by all threads. If the budget is exhausted, a request is rejected at
/// once.
#[derive(Debug, Clone)]
pub struct BodyBudget(Arc<Semaphore>);

impl Default for BodyBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BODY_BUDGET_BYTES)))
    }
}

impl BodyBudget {
    fn try_acquire(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let bytes = u32::try_from(bytes).map_err(|_| body_too_long())?;
        self.0.clone().try_acquire_many_owned(bytes).map_err(|_| ApiError::overloaded())
    }
}

/// A complete body, which occupies budget until it is dropped.
pub(in crate::http) struct Body {
    bytes: BytesMut,
    permit: OwnedSemaphorePermit,
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Body {
    /// Receives a body, and acquires budget for each chunk on arrival. The announced length acquires no
    /// budget, so an idle sender occupies none.
    async fn read(request: HttpRequest, mut payload: Payload) -> Result<Self, Error> {
        let (service, _) = app_state(&request);
        let content_length = request.headers().get(CONTENT_LENGTH);
        let content_length =
            content_length.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if content_length.is_some_and(|length| length > BODY_BYTES_MAX) {
            return Err(body_too_long().into());
        }
        let mut body = Self { bytes: BytesMut::new(), permit: service.body_budget.try_acquire(0)? };
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| match error.status_code() {
                StatusCode::PAYLOAD_TOO_LARGE => body_too_long(),
                _ => ApiError::bad_request(format!("the body could not be read: {error}")),
            })?;
            if body.bytes.len() + chunk.len() > BODY_BYTES_MAX {
                return Err(body_too_long().into());
            }
            body.permit.merge(service.body_budget.try_acquire(chunk.len())?);
            body.bytes.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn body_too_long() -> ApiError {
    let text = format!("the body is longer than {BODY_BYTES_MAX} bytes");
    ApiError::Text(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// A complete body that arrived within `BODY_TIMEOUT`.
pub(in crate::http) struct TimedBody(pub(in crate::http) Body);

impl FromRequest for TimedBody {
    type Error = Error;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = timeout(BODY_TIMEOUT, Body::read(request.clone(), payload.take()));
        Box::pin(async move {
            let late = |_| {
                let text = format!("the body did not arrive within {} s", BODY_TIMEOUT.as_secs());
                ApiError::Text(StatusCode::REQUEST_TIMEOUT, text)
            };
            Ok(Self(body.await.map_err(late)??))
        })
    }
}

/// A request of an enabled tenant with a body. The load limit counts the request after its whole body has
/// arrived, so a slow sender blocks no other request.
pub(in crate::http) struct JsonBody {
    pub(in crate::http) context: TenantRequest,
    pub(in crate::http) body: Body,
}

impl FromRequest for JsonBody {
    type Error = Error;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, body) = (request.clone(), TimedBody::from_request(request, payload));
        Box::pin(async move {
            let TimedBody(body) = body.await?;
            let context = TenantRequest::from_request(&request, &mut Payload::None).await?;
            Ok(Self { context, body })
        })
    }
}
