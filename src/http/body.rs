//! Bodies of requests: of a bounded length (`BODY_MOST`), and there within a bounded time.

use std::{future::Future, pin::Pin, time::Duration};

use actix_web::{Error, FromRequest, HttpRequest, dev::Payload, http::StatusCode, web::Bytes};
use tokio::time::timeout;

use super::{ApiError, request::Desk};

/// How long all of a body may take to come: who sends is a gateway near by.
const BODY_WAIT: Duration = Duration::from_secs(10);

type Extracted<T> = Pin<Box<dyn Future<Output = Result<T, Error>>>>;

/// What a request brings, all of it.
pub(super) struct InTime(pub(super) Bytes);

impl FromRequest for InTime {
    type Error = Error;
    type Future = Extracted<Self>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let body = timeout(BODY_WAIT, Bytes::from_request(request, payload));
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
    pub(super) body: Bytes,
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
