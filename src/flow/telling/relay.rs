//! Sending what was written down: one instance at a time for each tenant, in the order in which it was written.

use std::sync::PoisonError;

use tracing::debug;

use super::Telling;
use crate::{
    event::TenantId,
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
const MOST: i64 = 2000;

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
        if !self.send_doubtful_again(tenant).await? {
            return Ok(false);
        }
        let mut tx = store::begin(&self.send_db).await?;
        if !telling::take_turn(&mut tx, &tenant.id, Turn::Send).await? {
            return Ok(false);
        }
        // Whoever changes the tenant as a whole, or removes it, does not wait for a broker: nothing but the turn is
        // held while messages are sent.
        let messages = store::read_unlocked(&mut tx, async |db| {
            if tenants::enabled_since(&mut *db, &tenant.id).await? != Some(tenant.since) {
                return Ok(None);
            }
            outbox::unsent(db, schema, MOST).await.map(Some)
        });
        let Some(messages) = messages.await? else { return Ok(false) };
        if messages.is_empty() {
            self.doubt_only(&tenant.id, &[]);
            return Ok(false);
        }
        let outgoing = self.outgoing(&messages).await.map_err(Unsent::Broker)?;
        // While this one was frozen another may have had the turn: what is sent then comes late.
        self.doubt(&tenant.id, &messages);
        let (acknowledged, outcome) = self.sender.send(&outgoing).await;
        let sent: Vec<i64> =
            messages.iter().take(acknowledged).map(|message| message.sequence).collect();
        outbox::set_sent(&mut tx, schema, &sent).await?;
        store::commit(tx).await?;
        // The turn was ours until what is acknowledged was noted. The rest may still be on its way.
        self.doubt_only(&tenant.id, &messages[sent.len()..]);
        figures().sent.increment(sent.len() as u64);
        if let Err(error) = outcome {
            debug!(tenant = %tenant.id, acknowledged, %error, "block events: the broker did not acknowledge all messages; the rest stays in the outbox");
            if let Some(unsent) = messages.get(acknowledged) {
                self.sender.doubt(&unsent.kafka_topic);
            }
            return Err(Unsent::Broker(error));
        }
        Ok(messages.len() as i64 >= MOST)
    }

    /// Has the newest messages of which it is not known that they came last be sent once more. `false` where it is
    /// not this instance's turn.
    async fn send_doubtful_again(&self, tenant: &Tenant) -> Result<bool, store::Error> {
        let doubtful = self.doubtful(&tenant.id);
        if doubtful.is_empty() {
            return Ok(true);
        }
        let mut tx = store::begin(&self.send_db).await?;
        if tenants::enabled_since(&mut *tx, &tenant.id).await? != Some(tenant.since)
            || !telling::take_turn(&mut tx, &tenant.id, Turn::Send).await?
        {
            return Ok(false);
        }
        outbox::send_again(&mut tx, &tenant.schema, &doubtful).await?;
        store::commit(tx).await?;
        // From here on the database knows.
        self.doubt_only(&tenant.id, &[]);
        Ok(true)
    }

    /// Keys of a tenant of which it is not known whether something older was sent after something newer.
    fn doubtful(&self, tenant: &TenantId) -> Vec<(String, String)> {
        let doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
        doubtful.get(tenant).into_iter().flatten().cloned().collect()
    }

    pub(super) fn is_in_doubt(&self, tenant: &TenantId) -> bool {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).contains_key(tenant)
    }

    fn doubt(&self, tenant: &TenantId, messages: &[Message]) {
        let mut doubtful = self.doubtful.lock().unwrap_or_else(PoisonError::into_inner);
        let keys =
            messages.iter().map(|message| (message.kafka_topic.clone(), message.key.clone()));
        doubtful.entry(tenant.clone()).or_default().extend(keys);
    }

    /// Of no others any more: what there was to be sent again is noted as such.
    fn doubt_only(&self, tenant: &TenantId, messages: &[Message]) {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        if !messages.is_empty() {
            self.doubt(tenant, messages);
        }
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
