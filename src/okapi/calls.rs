//! One call to another module: it has a deadline, a bound on the bytes of its answer, and a breaker.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::{Client, RequestBuilder, Response, StatusCode, redirect::Policy};

use super::{
    BreakerLimits, CallError, Caller, ClientError,
    breaker::{Breakers, Key, SLOW},
};
use crate::figures::figures;

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
pub enum Outcome {
    /// The module answered, if only to say no.
    Answered,
    /// It gave no answer that can be used.
    Failed,
    /// Nobody asked, for the breaker is open.
    Unasked,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Answered, Self::Failed, Self::Unasked];

    /// As metrics name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed => "failed",
            Self::Unasked => "unasked",
        }
    }
}

/// Calls other modules. Clones share connections and breakers.
#[derive(Debug, Clone)]
pub struct Calls {
    http: Client,
    breakers: Arc<Breakers>,
}

/// What a module answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Empty unless the status is 200: nobody reads what else is said.
    pub(super) body: Vec<u8>,
}

impl Calls {
    /// Calls without redirects: the token is for the gateway alone.
    pub fn new(limits: BreakerLimits) -> Result<Self, ClientError> {
        let http = Client::builder().no_proxy().redirect(Policy::none()).build()?;
        Ok(Self { http, breakers: Arc::new(Breakers::new(limits)) })
    }

    pub(super) fn http(&self) -> &Client {
        &self.http
    }

    /// Whether anybody may ask this module now.
    pub(super) fn may_ask(&self, module: Module, caller: &Caller) -> bool {
        self.breakers.is_closed(&key(module, caller))
    }

    /// Sends a request and reads at most `most` bytes of the answer.
    pub(super) async fn send(
        &self,
        module: Module,
        caller: &Caller,
        request: RequestBuilder,
        timeout: Duration,
        most: usize,
    ) -> Result<Answer, CallError> {
        let began = Instant::now();
        let Some(permit) = self.breakers.permit(key(module, caller), began) else {
            figures().module_call(module, Outcome::Unasked);
            return Err(CallError::Unasked);
        };
        let answer = answer(request.timeout(timeout), most).await;
        let is_slow = began.elapsed() >= SLOW;
        let (outcome, hangs) = match &answer {
            Ok(answer) if answer.status.is_server_error() => (Outcome::Failed, is_slow),
            Ok(_) => (Outcome::Answered, false),
            Err(error) => (Outcome::Failed, matches!(error, CallError::Failed(_))),
        };
        permit.settle(!hangs, Instant::now());
        figures().module_call(module, outcome);
        answer
    }
}

fn key(module: Module, caller: &Caller) -> Key {
    Key { module, url: caller.okapi_url.clone(), tenant: caller.tenant.clone() }
}

async fn answer(request: RequestBuilder, most: usize) -> Result<Answer, CallError> {
    let response = request.send().await.map_err(CallError::Failed)?;
    let status = response.status();
    let body = if status == StatusCode::OK { body(response, most).await? } else { Vec::new() };
    Ok(Answer { status, body })
}

async fn body(mut response: Response, most: usize) -> Result<Vec<u8>, CallError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(CallError::Failed)? {
        if body.len() + chunk.len() > most {
            return Err(CallError::TooLarge(most));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}
