//! The time limit of every request. If the connection of a cancelled request no longer responds, the pool
//! replaces the connection.

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

/// Time limit of a request; bodies, pages and retries of dead letters have shorter limits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Time limit of requests to `/_/tenant`; a client may wait one minute for a job.
const TENANT_REQUEST_TIMEOUT: Duration = Duration::from_secs(90);

/// Forwards a request, and returns 500 after the time limit.
pub async fn with_timeout(
    request: ServiceRequest,
    next: Next<impl MessageBody>,
) -> Result<ServiceResponse<impl MessageBody>, Error> {
    let is_tenant_request = request.path().starts_with("/_/tenant");
    let limit = if is_tenant_request { TENANT_REQUEST_TIMEOUT } else { REQUEST_TIMEOUT };
    let timed_out = || ApiError::from(store::Error::Timeout).into();
    timeout(limit, next.call(request)).await.unwrap_or_else(|_| Err(timed_out()))
}
