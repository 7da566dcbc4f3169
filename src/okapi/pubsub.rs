//! Registers subscriptions with mod-pubsub, which delivers events if the producers do not publish to Kafka
//! (docs/contract/http-api.md#74-pubsub).

use std::time::Duration;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tracing::debug;

use super::{CallError, Caller, Module, ModuleClient};
use crate::{event::Kind, logging::ErrorChain};

/// Longest time for one call.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Size of a response in bytes, at most; only the status is used.
const RESPONSE_BYTES_MAX: usize = 1 << 20;

/// Delays between attempts.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// Kinds that the module is registered for as a publisher, although it never publishes them.
const PUBLISHED_KINDS: [Kind; 5] = [
    Kind::ItemCheckedOut,
    Kind::ItemCheckedIn,
    Kind::ItemDeclaredLost,
    Kind::LoanDueDateChanged,
    Kind::FeeFineBalanceChanged,
];

/// A client of mod-pubsub.
#[derive(Debug, Clone)]
pub struct PubSub(ModuleClient);

impl PubSub {
    /// Creates a client.
    pub fn new(calls: ModuleClient) -> Self {
        Self(calls)
    }

    /// Registers the subscriptions of a module for all eight kinds. Retries for a few seconds, unless
    /// mod-pubsub is missing. Registration is idempotent.
    pub async fn register(&self, caller: &Caller, module: &str) -> Result<(), CallError> {
        let mut pauses = RETRY_DELAYS.into_iter();
        loop {
            let error = match self.try_register(caller, module).await {
                Err(error) if !matches!(error, CallError::Status(StatusCode::NOT_FOUND)) => error,
                done => return done,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            debug!(error = %ErrorChain(&error), "mod-pubsub: could not register the subscriptions; retrying");
            tokio::time::sleep(pause).await;
        }
    }

    async fn try_register(&self, caller: &Caller, module: &str) -> Result<(), CallError> {
        let descriptors: Vec<Value> = PUBLISHED_KINDS.into_iter().map(event_descriptor).collect();
        for descriptor in &descriptors {
            self.post(caller, "", descriptor).await?;
        }
        let publisher = json!({ "moduleId": module, "eventDescriptors": descriptors });
        self.post(caller, "/declare/publisher", &publisher).await?;
        let subscriptions = Kind::BUSINESS
            .map(|kind| json!({ "eventType": kind.name(), "callbackAddress": kind.http_path() }));
        let subscriber = json!({ "moduleId": module, "subscriptionDefinitions": subscriptions });
        self.post(caller, "/declare/subscriber", &subscriber).await
    }

    async fn post(&self, caller: &Caller, path: &str, body: &Value) -> Result<(), CallError> {
        let path = format!("/pubsub/event-types{path}");
        let request = caller.request(self.0.http(), Method::POST, &path).json(body);
        let status = self
            .0
            .send(Module::PubSub, caller, request, REQUEST_TIMEOUT, RESPONSE_BYTES_MAX)
            .await?
            .status;
        if status.is_success() { Ok(()) } else { Err(CallError::Status(status)) }
    }
}

fn event_descriptor(kind: Kind) -> Value {
    json!({
        "eventType": kind.name(),
        "description": format!("event {} of circulation or fees/fines", kind.name()),
        "eventTTL": 1,
        "signed": false,
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::config::BreakerLimits;

    #[tokio::test(start_paused = true)]
    async fn hanging_mod_pubsub_is_not_called_repeatedly() {
        let limits =
            BreakerLimits { failure_threshold: 5, open_duration: Duration::from_secs(600) };
        let pubsub = PubSub::new(ModuleClient::new(limits).unwrap());
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let caller = Caller {
            okapi_url: format!("http://{nobody}"),
            is_foreign_gateway: false,
            tenant: "northlib".to_owned(),
            token: None,
            request_id: None,
        };
        let first = pubsub.register(&caller, "m").await.unwrap_err();
        assert!(matches!(first, CallError::Failed(_)), "{first}");
        let second = pubsub.register(&caller, "m").await.unwrap_err();
        assert!(matches!(second, CallError::CircuitOpen), "{second}");
        let other = Caller { tenant: "southlib".to_owned(), ..caller };
        let other = pubsub.register(&other, "m").await.unwrap_err();
        assert!(matches!(other, CallError::Failed(_)), "{other}");
    }
}
