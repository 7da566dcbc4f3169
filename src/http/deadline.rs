//! Every request ends in time, whatever it waits for. The pool replaces the connection of a request that was given
//! up, if that connection no longer answers.

use std::time::Duration;

use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    middleware::Next,
};
use tokio::time::timeout;

use super::ApiError;
use crate::store;

/// Longer than any request that works: bodies, pages and retries of dead letters end earlier.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The same for `/_/tenant`: a client may wait a minute for a job.
const TENANT_REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Passes a request on, and answers 500 when time is up.
pub async fn with_timeout(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let is_tenant_request = request.path().starts_with("/_/tenant");
    let limit = if is_tenant_request { TENANT_REQUEST_TIMEOUT } else { REQUEST_TIMEOUT };
    let timed_out = || ApiError::from(store::Error::Timeout).into();
    timeout(limit, next.call(request)).await.unwrap_or_else(|_| Err(timed_out()))
}
