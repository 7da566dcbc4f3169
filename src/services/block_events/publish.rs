//! The publish worker: sends the outbox of a tenant in order. At most one instance publishes for a tenant at
//! a time.

use std::sync::PoisonError;

use tracing::debug;

use super::BlockEvents;
use crate::{
    event::TenantId,
    kafka::{self, OutgoingMessage},
    services::{metrics::metrics, tenants::Tenant},
    store::{
        self,
        messages::{
            outbox::{self, Message},
            pending_patrons::{self, WorkerLock},
        },
        tenants,
    },
};

/// Maximum number of messages that are sent before the worker waits for the broker's acknowledgements.
const BATCH_MESSAGES_MAX: i64 = 2000;

/// The cause for which messages remain in the outbox.
#[derive(Debug, thiserror::Error)]
pub(super) enum PublishError {
    /// A database statement failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The broker did not acknowledge a message.
    #[error("could not send messages")]
    Broker(#[source] kafka::Error),
}

impl BlockEvents {
    /// Publishes the next messages of a tenant, and records every acknowledgement, even if a later message
    /// fails. After a crash, an instance sends the unrecorded messages again; consumers recognise them by id.
    /// Returns `true` if more may remain.
    pub(super) async fn publish_batch(&self, tenant: &Tenant) -> Result<bool, PublishError> {
        let schema = &tenant.schema;
        if !self.resend_marked(tenant).await? {
            return Ok(false);
        }
        let mut tx = store::begin(&self.publish_db).await?;
        if !pending_patrons::try_lock_worker(&mut tx, &tenant.id, WorkerLock::Publish).await? {
            return Ok(false);
        }
        // During the send, the transaction has the worker lock only. Changes and removal of the tenant
        // therefore do not wait for the broker.
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
        // If this instance is frozen here, another instance may get the lock, and these messages arrive late.
        self.mark_for_resend(&tenant.id, &messages);
        let (acknowledged, outcome) = self.sender.send(&outgoing).await;
        let sent: Vec<i64> =
            messages.iter().take(acknowledged).map(|message| message.sequence).collect();
        outbox::set_sent(&mut tx, schema, &sent).await?;
        store::commit(tx).await?;
        // This instance had the lock until the acknowledgements were recorded. The other messages may still
        // arrive.
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

    /// Marks the newest message of each doubtful key for another send. Returns `false` if another instance
    /// has the lock, or if the tenant is disabled.
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
        // From here on the database has the marks.
        self.replace_resends(&tenant.id, &[]);
        Ok(true)
    }

    /// Returns the keys of a tenant for which an older message may have arrived after a newer message.
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

    /// Replaces the tenant's resend list with `messages`; the database has recorded the old list.
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
            self.sender.ensure_topic(&message.kafka_topic, self.config.topic_config()).await?;
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
