//! Calls another module with a deadline, a limit for the response size, and a breaker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect::Policy};

use super::{
    CallError, Caller, ClientError,
    breaker::{BreakerKey, Breakers, SLOW_CALL_THRESHOLD},
    metrics,
};
use crate::config::BreakerLimits;

/// A module that the service calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Module {
    /// mod-users: a patron with the group, for evaluations.
    Users,
    /// mod-users: the list of groups. Its breaker is separate, so a slow list delays no evaluation.
    UserGroups,
    /// mod-circulation-storage: open loans.
    LoanStorage,
    /// mod-feesfines: open fees/fines.
    FeesFines,
    /// mod-pubsub: delivery of events over HTTP.
    PubSub,
    /// mod-circulation: the titles of loans, for pages.
    Circulation,
}

impl Module {
    /// All modules.
    pub const ALL: [Self; 6] = [
        Self::Users,
        Self::UserGroups,
        Self::LoanStorage,
        Self::FeesFines,
        Self::PubSub,
        Self::Circulation,
    ];

    /// Returns the name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::UserGroups => "usergroups",
            Self::LoanStorage => "loan-storage",
            Self::FeesFines => "feesfines",
            Self::PubSub => "pubsub",
            Self::Circulation => "circulation",
        }
    }
}

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// The module responded, possibly with an error status below 500.
    Answered,
    /// The module sent no usable response.
    Failed,
    /// The breaker was open, so the call did not happen.
    CircuitOpen,
}

impl CallOutcome {
    /// All outcomes.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::CircuitOpen];

    /// Returns the name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::CircuitOpen => "circuit_open",
        }
    }
}

/// A client for calls to other modules. Clones share connections and breakers.
#[derive(Debug, Clone)]
pub struct ModuleClient {
    http: Client,
    breakers: Arc<Breakers>,
}

/// The response of a module.
pub(super) struct ModuleResponse {
    pub(super) status: StatusCode,
    /// Empty unless the status is 200, because callers need no other body.
    pub(super) body: Vec<u8>,
}

impl ModuleClient {
    /// Creates a client that follows no redirects, because the token is for the gateway only.
    pub fn new(limits: BreakerLimits) -> Result<Self, ClientError> {
        let http = Client::builder().no_proxy().redirect(Policy::none()).build()?;
        Ok(Self { http, breakers: Arc::new(Breakers::new(limits)) })
    }

    /// Returns a client with breakers of its own, which shares the connections. A further client would read the
    /// certificates of the system again.
    pub fn with_own_breakers(&self, limits: BreakerLimits) -> Self {
        Self { http: self.http.clone(), breakers: Arc::new(Breakers::new(limits)) }
    }

    pub(super) fn http(&self) -> &Client {
        &self.http
    }

    /// Returns whether the breaker of this module is closed.
    pub(super) fn is_available(&self, module: Module, caller: &Caller) -> bool {
        self.breakers.is_closed(&breaker_key(module, caller))
    }

    /// Sends a request and reads at most `body_bytes_max` bytes of the response.
    pub(super) async fn send(
        &self,
        module: Module,
        caller: &Caller,
        request: RequestBuilder,
        timeout: Duration,
        body_bytes_max: usize,
    ) -> Result<ModuleResponse, CallError> {
        let started_at = Instant::now();
        let Some(permit) = self.breakers.permit(breaker_key(module, caller), started_at) else {
            metrics::record_call(module, CallOutcome::CircuitOpen);
            return Err(CallError::CircuitOpen);
        };
        let answer = send_request(request.timeout(timeout), body_bytes_max).await;
        let is_slow = started_at.elapsed() >= SLOW_CALL_THRESHOLD;
        let (outcome, counts_as_failure) = match &answer {
            Ok(answer) if answer.status.is_server_error() => (CallOutcome::Failed, is_slow),
            Ok(_) => (CallOutcome::Answered, false),
            Err(error) => (CallOutcome::Failed, matches!(error, CallError::Failed(_))),
        };
        permit.record_result(!counts_as_failure, Instant::now());
        metrics::record_call(module, outcome);
        answer
    }
}

fn breaker_key(module: Module, caller: &Caller) -> BreakerKey {
    BreakerKey { module, url: caller.okapi_url.clone(), tenant: caller.tenant.clone() }
}

async fn send_request(
    request: RequestBuilder,
    body_bytes_max: usize,
) -> Result<ModuleResponse, CallError> {
    let response = request.send().await.map_err(CallError::Failed)?;
    let status = response.status();
    let body = if status == StatusCode::OK {
        read_body(response, body_bytes_max).await?
    } else {
        Vec::new()
    };
    Ok(ModuleResponse { status, body })
}

async fn read_body(mut response: Response, body_bytes_max: usize) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(CallError::Failed)? {
        if body.len() + chunk.len() > body_bytes_max {
            return Err(CallError::TooLarge(body_bytes_max));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
