//! Sending: messages to the log, each acknowledged by all replicas, in order, and not twice by us.

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

use super::{consumer, retention::SilentContext};
use crate::config::KafkaConfig;

/// How long messages may wait for their acknowledgement before they count as not sent.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the broker may take to make a topic.
const ADMIN_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// What is overwritten by something newer of the same key stays for so long: whoever reads every change has time.
const COMPACTION_LAG: Duration = Duration::from_secs(7 * 24 * 3600);

/// A message to be sent.
#[derive(Debug, Clone)]
pub struct OutgoingMessage<'a> {
    /// Full name of the topic.
    pub topic: &'a str,
    /// The key: messages of one key stay in order.
    pub key: String,
    /// Names and values of headers.
    pub headers: Vec<(String, String)>,
    /// The value.
    pub payload: &'a str,
}

/// How a topic of ours is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// Partitions.
    pub partitions: i32,
    /// Copies of each.
    pub replication: i32,
    /// Whether the newest message of each key stays for ever, and others go.
    pub compacted: bool,
}

type Producer = FutureProducer<SilentContext>;

/// Sends messages. Connects when there is something to send.
pub struct MessageProducer {
    settings: ClientConfig,
    admin: ClientConfig,
    /// None until it is needed, and after it has failed for good.
    producer: Mutex<Option<Producer>>,
    /// Topics that are known to be there.
    known_topics: Mutex<HashSet<String>>,
}

impl MessageProducer {
    /// Knows where, and connects to nobody yet.
    pub fn new(config: &KafkaConfig) -> Self {
        let admin = consumer::connection(config);
        let mut settings = admin.clone();
        for (key, value) in [
            ("enable.idempotence", "true"),
            // What follows a message that can't be sent is not sent either: it has to come after it. That
            // does not hold for one that waits for too long, so none does; see `send`.
            ("enable.gapless.guarantee", "true"),
            ("message.timeout.ms", "0"),
            ("acks", "all"),
            ("linger.ms", "2"),
            ("compression.type", "lz4"),
            // As the clients of other modules choose the partition of a key.
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

    /// Sends messages in this order and waits for the broker's word on each. Tells how many were acknowledged,
    /// from the first on, and what became of the next one; those after it have to be sent again.
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

    /// Forgets what waits to be sent: it is offered again.
    fn purge_queue(&self) {
        let producer = self.producer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(producer) = &producer {
            producer.purge(PurgeConfig::default().queue().inflight());
        }
        close(producer);
    }

    /// Whether a topic is there.
    async fn topic_exists(&self, name: &str) -> Result<bool, KafkaError> {
        let (producer, topic) = (self.producer()?, name.to_owned());
        let lookup = spawn_blocking(move || {
            let metadata = producer.client().fetch_metadata(Some(&topic), ADMIN_REQUEST_TIMEOUT)?;
            Ok(metadata.topics().iter().any(|t| t.error().is_none() && !t.partitions().is_empty()))
        });
        lookup.await.unwrap_or(Ok(false))
    }

    /// Makes a topic, unless it is there: then it stays as it is.
    pub async fn ensure_topic(&self, name: &str, config: TopicConfig) -> Result<(), KafkaError> {
        if self.known_topics.lock().unwrap_or_else(PoisonError::into_inner).contains(name) {
            return Ok(());
        }
        // Who may write need not have leave to make topics.
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
        // Dropping it waits for the broker.
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

    /// A topic was not there after all.
    pub fn forget_topic(&self, topic: &str) {
        self.known_topics.lock().unwrap_or_else(PoisonError::into_inner).remove(topic);
    }
}

/// Whether a message can't be sent, however often it is tried.
pub fn is_too_large(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge)
}

/// Dropping a producer waits for what it has still to send: not on a thread that others wait for.
fn close(producer: Option<Producer>) {
    std::thread::spawn(move || drop(producer));
}

impl Drop for MessageProducer {
    fn drop(&mut self) {
        close(self.producer.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}
