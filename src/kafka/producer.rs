//! The producer: it sends messages in order, waits for all replicas to acknowledge each, and avoids
//! duplicates of its own.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _, PurgeConfig},
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use tracing::info;

use super::{client, retention::SilentContext};
use crate::config::{KafkaConfig, TopicConfig};

/// Time limit for acknowledgements; after it the remaining messages count as unsent.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit of an admin request to the broker.
const ADMIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// `min.compaction.lag.ms` of compacted topics, which gives consumers a week to read every change.
const COMPACTION_LAG: Duration = Duration::from_secs(7 * 24 * 3600);

/// A message to send.
#[derive(Debug, Clone)]
pub struct OutgoingMessage<'a> {
    /// Full name of the topic.
    pub topic: &'a str,
    /// The key; messages with equal keys stay in order.
    pub key: String,
    /// Names and values of the headers.
    pub headers: Vec<(String, String)>,
    /// The value of the message, as JSON text.
    pub payload: &'a str,
}

type Producer = FutureProducer<SilentContext>;

/// The producer of all messages. It connects at the first message.
pub struct MessageProducer {
    settings: ClientConfig,
    admin: ClientConfig,
    /// `None` before the first use, and after a fatal error.
    producer: Mutex<Option<Producer>>,
    /// Names of topics that are known to exist.
    known_topics: Mutex<HashSet<String>>,
}

impl MessageProducer {
    /// Creates a producer without a connection.
    pub fn new(config: &KafkaConfig) -> Self {
        let admin = client::connection(config);
        let mut settings = admin.clone();
        for (key, value) in [
            ("enable.idempotence", "true"),
            // If a message fails, the client fails the following messages, too, to preserve the
            // order. An expired message would be an exception, so messages have no timeout of their
            // own; see `send`.
            ("enable.gapless.guarantee", "true"),
            ("message.timeout.ms", "0"),
            ("acks", "all"),
            ("linger.ms", "2"),
            ("compression.type", "lz4"),
            // The partitioner of the clients of other modules.
            ("partitioner", "murmur2_random"),
            ("topic.metadata.propagation.max.ms", "5000"),
        ] {
            settings.set(key, value);
        }
        Self { settings, admin, producer: Mutex::default(), known_topics: Mutex::default() }
    }

    fn producer(&self) -> Result<Producer, KafkaError> {
        let mut producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner);
        if producer.as_ref().is_some_and(|current| current.client().fatal_error().is_some()) {
            close(producer.take());
        }
        if let Some(current) = &*producer {
            return Ok(current.clone());
        }
        let created: Producer = self.settings.create_with_context(SilentContext)?;
        *producer = Some(created.clone());
        Ok(created)
    }

    /// Sends messages in order and waits for the acknowledgement of each. Returns the number of
    /// acknowledged messages from the first on, and the error of the next message. The caller has to
    /// resend the messages after the error.
    pub async fn send(&self, messages: &[OutgoingMessage<'_>]) -> (usize, Result<(), KafkaError>) {
        let producer = match self.producer() {
            Ok(producer) => producer,
            Err(error) => return (0, Err(error)),
        };
        let (mut deliveries, mut enqueue_error) = (Vec::with_capacity(messages.len()), None);
        for OutgoingMessage { topic, key, headers, payload } in messages {
            let names = OwnedHeaders::new_with_capacity(headers.len());
            let headers = headers.iter().fold(names, |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value) })
            });
            let record = FutureRecord::to(topic).key(key).payload(*payload).headers(headers);
            match producer.send_result(record) {
                Ok(delivery) => deliveries.push(delivery),
                Err((error, _)) => {
                    enqueue_error = Some(error);
                    break;
                }
            }
        }
        let (mut acknowledged, deadline) = (0, Instant::now() + DELIVERY_TIMEOUT);
        for delivery in deliveries {
            match timeout_at(deadline, delivery).await {
                Ok(Ok(Ok(_))) => acknowledged += 1,
                Ok(Ok(Err((error, _)))) => return (acknowledged, Err(error)),
                Ok(Err(_)) => return (acknowledged, Err(KafkaError::Canceled)),
                Err(_) => {
                    self.purge_queue();
                    let code = RDKafkaErrorCode::MessageTimedOut;
                    return (acknowledged, Err(KafkaError::MessageProduction(code)));
                }
            }
        }
        (acknowledged, enqueue_error.map_or(Ok(()), Err))
    }

    /// Drops all queued messages; the caller sends them again.
    fn purge_queue(&self) {
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(producer) = &producer {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
        close(producer);
    }

    /// Returns whether a topic exists.
    async fn topic_exists(&self, name: &str) -> Result<bool, KafkaError> {
        let (producer, topic) = (self.producer()?, name.to_owned());
        let lookup = spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&topic), ADMIN_REQUEST_TIMEOUT)?;
            Ok(metadata.topics().iter().any(|t| t.error().is_none() && !t.partitions().is_empty()))
        });
        lookup.await.unwrap_or(Ok(false))
    }

    /// Creates a topic unless it exists; an existing topic stays unchanged.
    pub async fn ensure_topic(&self, name: &str, config: TopicConfig) -> Result<(), KafkaError> {
        if self.known_topics.lock().unwrap_or_else(PoisonError::into_inner).contains(name) {
            return Ok(());
        }
        // A client that may write may lack the permission to create topics, so existence is checked
        // first.
        if self.topic_exists(name).await? {
            self.known_topics
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .insert(name.to_owned());
            return Ok(());
        }
        let admin: AdminClient<SilentContext> = self.admin.create_with_context(SilentContext)?;
        let lag = COMPACTION_LAG.as_millis().to_string();
        let replication = TopicReplication::Fixed(config.replication);
        let mut topic = NewTopic::new(name, config.partitions, replication);
        if config.compacted {
            topic = topic.set("cleanup.policy", "compact").set("min.compaction.lag.ms", &lag);
        }
        let options = AdminOptions::new().request_timeout(Some(ADMIN_REQUEST_TIMEOUT));
        let created = admin.create_topics([&topic], &options).await;
        // Dropping the admin client waits for the broker.
        std::thread::spawn(move || drop(admin));
        match created?.into_iter().next() {
            Some(Ok(_)) => info!(kafka.topic = name, ?config, "producer: created a topic"),
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => return Err(KafkaError::AdminOp(code)),
            None => return Err(KafkaError::AdminOpCreation(name.to_owned())),
        }
        self.known_topics.lock().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
        Ok(())
    }

    /// Removes a topic from the known topics, because the broker reported it missing.
    pub fn forget_topic(&self, topic: &str) {
        self.known_topics.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }
}

/// Returns whether a message fails at every attempt because of its size.
pub fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

/// Drops a producer on a separate thread, because the drop waits for queued messages.
fn close(producer: Option<Producer>) {
    std::thread::spawn(move || drop(producer));
}

impl Drop for MessageProducer {
    fn drop(&mut self) {
        close(self.producer.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
