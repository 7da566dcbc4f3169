//! Bodies of requests: of a bounded length (`BODY_MOST`), there within a bounded time, and all together of a
//! bounded number of bytes.

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

use super::{
    ApiError, BODY_BYTES_MAX,
    tenant::{TenantRequest, app_state},
};

/// How long all of a body may take to come: who sends is a gateway near by.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of all bodies together that are read or worked on: many thousands of ordinary ones.
const BODY_BUDGET_BYTES: usize = 32 * 1024 * 1024;

type Extracted<T> = Pin<Box<dyn Future<Output = Result<T, Error>>>>;

/// Room for bodies, which all threads share. Who finds none is sent away at once.
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

/// All that a request brings. It takes room until it is dropped.
pub(super) struct Body {
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
    /// Takes room as bytes come, not as many are announced: who sends nothing takes nothing.
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
                _ => ApiError::bad_request(format!("the body can't be read: {error}")),
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

/// What a request brings, all of it.
pub(super) struct TimedBody(pub(super) Body);

impl FromRequest for TimedBody {
    type Error = Error;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = timeout(BODY_TIMEOUT, Body::read(request.clone(), payload.take()));
        Box::pin(async move {
            let late = |_| {
                let text =
                    format!("the body was not all there within {} s", BODY_TIMEOUT.as_secs());
                ApiError::Text(StatusCode::REQUEST_TIMEOUT, text)
            };
            Ok(Self(body.await.map_err(late)??))
        })
    }
}

/// A request of an enabled tenant that brings a body. It counts as one that is worked on when all of the
/// body is there: who sends slowly keeps nobody else out.
pub(super) struct JsonBody {
    pub(super) context: TenantRequest,
    pub(super) body: Body,
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
