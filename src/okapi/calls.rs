//! One call to another module: it has a deadline, a bound on the bytes of its answer, and a breaker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect::Policy};

use super::{
    BreakerLimits, CallError, Caller, ClientError,
    breaker::{BreakerKey, Breakers, SLOW_CALL_THRESHOLD},
};
use crate::metrics::metrics;

/// A module that is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Module {
    /// Who patrons are.
    Users,
    /// Which loans are open.
    LoanStorage,
    /// Which fees/fines are open.
    FeesFines,
    /// Who delivers events over HTTP.
    PubSub,
}

impl Module {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Users, Self::LoanStorage, Self::FeesFines, Self::PubSub];

    /// As logs and metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Users => "users",
            Self::LoanStorage => "loan-storage",
            Self::FeesFines => "feesfines",
            Self::PubSub => "pubsub",
        }
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// The module answered, if only to say no.
    Answered,
    /// It gave no answer that can be used.
    Failed,
    /// Nobody asked, for the breaker is open.
    CircuitOpen,
}

impl CallOutcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::CircuitOpen];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::CircuitOpen => "circuit_open",
        }
    }
}

/// Calls other modules. Clones share connections and breakers.
#[derive(Debug, Clone)]
pub struct ModuleClient {
    http: Client,
    breakers: Arc<Breakers>,
}

/// What a module answered.
pub(super) struct ModuleResponse {
    pub(super) status: StatusCode,
    /// Empty unless the status is 200: nobody reads what else is said.
    pub(super) body: Vec<u8>,
}

impl ModuleClient {
    /// Calls without redirects: the token is for the gateway alone.
    pub fn new(limits: BreakerLimits) -> Result<Self, ClientError> {
        let http = Client::builder().no_proxy().redirect(Policy::none()).build()?;
        Ok(Self { http, breakers: Arc::new(Breakers::new(limits)) })
    }

    pub(super) fn http(&self) -> &Client {
        &self.http
    }

    /// Whether anybody may ask this module now.
    pub(super) fn is_available(&self, module: Module, caller: &Caller) -> bool {
        self.breakers.is_closed(&breaker_key(module, caller))
    }

    /// Sends a request and reads at most `most` bytes of the answer.
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
            metrics().record_module_call(module, CallOutcome::CircuitOpen);
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
        metrics().record_module_call(module, outcome);
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
