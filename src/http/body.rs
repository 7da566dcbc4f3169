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
    ApiError, BODY_MOST,
    request::{Desk, shared},
};

/// How long all of a body may take to come: who sends is a gateway near by.
const BODY_WAIT: Duration = Duration::from_secs(10);

/// Bytes of all bodies together that are read or worked on: many thousands of ordinary ones.
const ROOM: usize = 32 * 1024 * 1024;

type Extracted<T> = Pin<Box<dyn Future<Output = Result<T, Error>>>>;

/// Room for bodies, which all threads share. Who finds none is sent away at once.
#[derive(Debug, Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(ROOM)))
    }
}

impl Room {
    fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ApiError> {
        let bytes = u32::try_from(bytes).map_err(|_| too_long())?;
        self.0.clone().try_acquire_many_owned(bytes).map_err(|_| ApiError::too_many())
    }
}

/// All that a request brings. It takes room until it is dropped.
pub(super) struct Body {
    bytes: BytesMut,
    room: OwnedSemaphorePermit,
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
        let (service, _) = shared(&request);
        let announced = request.headers().get(CONTENT_LENGTH);
        let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
        if announced.is_some_and(|length| length > BODY_MOST) {
            return Err(too_long().into());
        }
        let mut body = Self { bytes: BytesMut::new(), room: service.room.take(0)? };
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| match error.status_code() {
                StatusCode::PAYLOAD_TOO_LARGE => too_long(),
                _ => ApiError::bad_request(format!("the body can't be read: {error}")),
            })?;
            if body.bytes.len() + chunk.len() > BODY_MOST {
                return Err(too_long().into());
            }
            body.room.merge(service.room.take(chunk.len())?);
            body.bytes.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}

fn too_long() -> ApiError {
    let text = format!("the body is longer than {BODY_MOST} bytes");
    ApiError::Text(StatusCode::PAYLOAD_TOO_LARGE, text)
}

/// What a request brings, all of it.
pub(super) struct InTime(pub(super) Body);

impl FromRequest for InTime {
    type Error = Error;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = timeout(BODY_WAIT, Body::read(request.clone(), payload.take()));
        Box::pin(async move {
            let late = |_| {
                let text = format!("the body was not all there within {} s", BODY_WAIT.as_secs());
                ApiError::Text(StatusCode::REQUEST_TIMEOUT, text)
            };
            Ok(Self(body.await.map_err(late)??))
        })
    }
}

/// A request of an enabled tenant that brings a body. It counts as one that is worked on when all of the
/// body is there: who sends slowly keeps nobody else out.
pub(super) struct Sent {
    pub(super) desk: Desk,
    pub(super) body: Body,
}

impl FromRequest for Sent {
    type Error = Error;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, body) = (request.clone(), InTime::from_request(request, payload));
        Box::pin(async move {
            let InTime(body) = body.await?;
            let desk = Desk::from_request(&request, &mut Payload::None).await?;
            Ok(Self { desk, body })
        })
    }
}
