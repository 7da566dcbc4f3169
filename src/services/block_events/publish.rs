//! Sending what was written down: one instance at a time for each tenant, in the order in which it was written.

use std::sync::PoisonError;

use tracing::debug;

use super::BlockEvents;
use crate::{
    event::TenantId,
    kafka::{self, OutgoingMessage},
    metrics::metrics,
    services::tenants::Tenant,
    store::{
        self,
        outbox::{self, Message},
        pending_patrons::{self, WorkerLock},
        tenants,
    },
};

/// Messages that are sent before the broker's word on them is waited for.
const BATCH_MESSAGES_MAX: i64 = 2000;

/// Why messages stay where they are.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    /// The database.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker.
    #[error("could not send messages")]
    Broker(#[source] kafka::Error),
}

impl BlockEvents {
    /// Sends the next messages of a tenant. What the broker has acknowledged is noted, whatever becomes of the
    /// rest: who dies in between sends again what is not noted, and consumers know that by its id. Tells whether
    /// there may be more.
    pub(super) async fn publish_batch(&self, tenant: &Tenant) -> Result<bool, PublishError> {
        let schema = &tenant.schema;
        if !self.resend_marked(tenant).await? {
            return Ok(false);
        }
        let mut tx = store::begin(&self.publish_db).await?;
        if !pending_patrons::try_lock_worker(&mut tx, &tenant.id, WorkerLock::Publish).await? {
            return Ok(false);
        }
        // Whoever changes the tenant as a whole, or removes it, does not wait for a broker: nothing but the turn is
        // held while messages are sent.
        let messages = store::read_releasing_locks(&mut tx, async |db| {
            if tenants::enabled_since(&mut *db, &tenant.id).await? != Some(tenant.enabled_at) {
                return Ok(None);
            }
            outbox::load_unsent(db, schema, BATCH_MESSAGES_MAX).await.map(Some)
        });
        let Some(messages) = messages.await? else { return Ok(false) };
        if messages.is_empty() {
            self.replace_resends(&tenant.id, &[]);
            return Ok(false);
        }
        let outgoing = self.outgoing_messages(&messages).await.map_err(PublishError::Broker)?;
        // While this one was frozen another may have had the turn: what is sent then comes late.
        self.mark_for_resend(&tenant.id, &messages);
        let (acknowledged, outcome) = self.sender.send(&outgoing).await;
        let sent: Vec<i64> =
            messages.iter().take(acknowledged).map(|message| message.sequence).collect();
        outbox::set_sent(&mut tx, schema, &sent).await?;
        store::commit(tx).await?;
        // The turn was ours until what is acknowledged was noted. The rest may still be on its way.
        self.replace_resends(&tenant.id, &messages[sent.len()..]);
        metrics().sent_messages.increment(sent.len() as u64);
        if let Err(error) = outcome {
            debug!(tenant = %tenant.id, acknowledged, %error, "block events: the broker did not acknowledge all messages; the rest stays in the outbox");
            if let Some(first_unsent) = messages.get(acknowledged) {
                self.sender.forget_topic(&first_unsent.kafka_topic);
            }
            return Err(PublishError::Broker(error));
        }
        Ok(messages.len() as i64 >= BATCH_MESSAGES_MAX)
    }

    /// Has the newest messages of which it is not known that they came last be sent once more. `false` where it is
    /// not this instance's turn.
    async fn resend_marked(&self, tenant: &Tenant) -> Result<bool, store::Error> {
        let to_resend = self.keys_to_resend(&tenant.id);
        if to_resend.is_empty() {
            return Ok(true);
        }
        let mut tx = store::begin(&self.publish_db).await?;
        if tenants::enabled_since(&mut *tx, &tenant.id).await? != Some(tenant.enabled_at)
            || !pending_patrons::try_lock_worker(&mut tx, &tenant.id, WorkerLock::Publish).await?
        {
            return Ok(false);
        }
        outbox::mark_for_resend(&mut tx, &tenant.schema, &to_resend).await?;
        store::commit(tx).await?;
        // From here on the database knows.
        self.replace_resends(&tenant.id, &[]);
        Ok(true)
    }

    /// Keys of a tenant of which it is not known whether something older was sent after something newer.
    fn keys_to_resend(&self, tenant: &TenantId) -> Vec<(String, String)> {
        let to_resend = self.to_resend.lock().unwrap_or_else(PoisonError::into_inner);
        to_resend.get(tenant).into_iter().flatten().cloned().collect()
    }

    pub(super) fn has_keys_to_resend(&self, tenant: &TenantId) -> bool {
        self.to_resend.lock().unwrap_or_else(PoisonError::into_inner).contains_key(tenant)
    }

    fn mark_for_resend(&self, tenant: &TenantId, messages: &[Message]) {
        let mut to_resend = self.to_resend.lock().unwrap_or_else(PoisonError::into_inner);
        let keys =
            messages.iter().map(|message| (message.kafka_topic.clone(), message.key.clone()));
        to_resend.entry(tenant.clone()).or_default().extend(keys);
    }

    /// Of no others any more: what there was to be sent again is noted as such.
    fn replace_resends(&self, tenant: &TenantId, messages: &[Message]) {
        self.to_resend.lock().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        if !messages.is_empty() {
            self.mark_for_resend(tenant, messages);
        }
    }

    async fn outgoing_messages<'a>(
        &self,
        messages: &'a [Message],
    ) -> Result<Vec<OutgoingMessage<'a>>, kafka::Error> {
        let mut outgoing = Vec::with_capacity(messages.len());
        for message in messages {
            self.sender.ensure_topic(&message.kafka_topic, self.config.topic_config).await?;
            let headers = message.headers.as_object().into_iter().flatten();
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            outgoing.push(OutgoingMessage {
                topic: &message.kafka_topic,
                key: message.key.clone(),
                headers: headers.map(|(name, value)| (name.clone(), text(value))).collect(),
                payload: &message.payload,
            });
        }
        Ok(outgoing)
    }
}
