//! Sending what was written down: one instance at a time for each tenant, in the order in which it was written.

use tracing::debug;

use super::Telling;
use crate::{
    figures::figures,
    flow::tenants::Tenant,
    kafka::{self, Outgoing},
    store::{
        self,
        outbox::{self, Message},
        telling::{self, Turn},
        tenants,
    },
};

/// Messages that are sent before the broker's word on them is waited for.
const MOST: i64 = 1000;

/// Why messages stay where they are.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unsent {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker.
    #[error("could not send messages")]
    Broker(#[source] kafka::Error),
}

impl Telling {
    /// Sends the next messages of a tenant. What the broker has acknowledged is noted, whatever becomes of the
    /// rest: who dies in between sends again what is not noted, and consumers know that by its id. Tells whether
    /// there may be more.
    pub(super) async fn send_some(&self, tenant: &Tenant) -> Result<bool, Unsent> {
        let schema = &tenant.schema;
        let mut tx = store::begin(&self.send_db).await?;
        if tenants::enter(&mut tx, &tenant.id).await? != Some(tenant.since) {
            return Ok(false);
        }
        telling::take_turn(&mut tx, &tenant.id, Turn::Send).await?;
        let messages = outbox::unsent(&mut tx, schema, MOST).await?;
        if messages.is_empty() {
            return Ok(false);
        }
        let outgoing = self.outgoing(&messages).await.map_err(Unsent::Broker)?;
        let (acknowledged, outcome) = self.sender.send(&outgoing).await;
        let sent: Vec<i64> =
            messages.iter().take(acknowledged).map(|message| message.sequence).collect();
        outbox::set_sent(&mut tx, schema, &sent).await?;
        store::commit(tx).await?;
        figures().sent.increment(sent.len() as u64);
        if let Err(error) = outcome {
            debug!(tenant = %tenant.id, acknowledged, %error, "messages wait");
            if let Some(unsent) = messages.get(acknowledged) {
                self.sender.doubt(&unsent.kafka_topic);
            }
            return Err(Unsent::Broker(error));
        }
        Ok(messages.len() as i64 >= MOST)
    }

    async fn outgoing<'a>(
        &self,
        messages: &'a [Message],
    ) -> Result<Vec<Outgoing<'a>>, kafka::Error> {
        let mut outgoing = Vec::with_capacity(messages.len());
        for message in messages {
            self.sender.make_topic(&message.kafka_topic, self.config.shape).await?;
            let headers = message.headers.as_object().into_iter().flatten();
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            outgoing.push(Outgoing {
                topic: &message.kafka_topic,
                key: message.key.clone(),
                headers: headers.map(|(name, value)| (name.clone(), text(value))).collect(),
                payload: &message.payload,
            });
        }
        Ok(outgoing)
    }
}
