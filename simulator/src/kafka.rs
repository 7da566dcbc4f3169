//! Publishing to a Kafka broker. If the broker is unavailable for a while, publishing waits and every event
//! arrives.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, bail};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::{ClientContext, DefaultClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer};
use tokio::time::{Instant, sleep};

use crate::wire::{Record, Topic};

/// The time for which a record may wait for its broker.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(300);

/// The time between two looks at a full queue or at missing acknowledgements.
const POLL_INTERVAL: Duration = Duration::from_millis(5);

/// Creates the missing topics like FOLIO's modules. Their records never expire, because the play publishes
/// events that are weeks old in the library.
pub async fn create_topics(
    bootstrap: &str,
    topics: &[Topic],
    replication: i32,
) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = client(bootstrap)
        .create()
        .with_context(|| format!("no admin client for Kafka at {bootstrap}"))?;
    let wanted: Vec<NewTopic<'_>> = topics
        .iter()
        .map(|topic| {
            let replication = TopicReplication::Fixed(replication);
            NewTopic::new(&topic.name, topic.partitions, replication).set("retention.ms", "-1")
        })
        .collect();
    let timeout = Some(Duration::from_secs(20));
    let options = AdminOptions::new().request_timeout(timeout).operation_timeout(timeout);
    let results = admin
        .create_topics(&wanted, &options)
        .await
        .with_context(|| format!("Kafka at {bootstrap} did not respond about topics"))?;
    for result in results {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, error)) => bail!("topic {topic} could not be created: {error}"),
        }
    }
    Ok(())
}

/// A Kafka producer with counts of acknowledged and failed records.
pub struct Publisher {
    bootstrap: String,
    producer: ThreadedProducer<DeliveryContext>,
    delivery_counts: Arc<DeliveryCounts>,
}

#[derive(Default)]
struct DeliveryCounts {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    first_failure: OnceLock<String>,
}

struct DeliveryContext(Arc<DeliveryCounts>);

impl ClientContext for DeliveryContext {}

impl ProducerContext for DeliveryContext {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        match result {
            Ok(_) => {
                self.0.acknowledged.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.0.failed.fetch_add(1, Ordering::Relaxed);
                let _ = self.0.first_failure.set(error.to_string());
            }
        }
    }
}

impl Publisher {
    /// Returns a producer with the settings of FOLIO's own: idempotent, gzip, a short linger.
    pub fn new(bootstrap: &str) -> anyhow::Result<Self> {
        let delivery_counts = Arc::new(DeliveryCounts::default());
        let producer = producer(bootstrap, &delivery_counts)?;
        Ok(Self { bootstrap: bootstrap.to_owned(), producer, delivery_counts })
    }

    /// Replaces the producer, like a restarted module. A producer caches topics and their leaders; a
    /// recreated topic has other leaders. The caller must flush the old producer first.
    pub fn recreate_producer(&mut self) -> anyhow::Result<()> {
        self.producer = producer(&self.bootstrap, &self.delivery_counts)?;
        Ok(())
    }

    /// Queues a record. If the queue is full, the call waits.
    pub async fn publish(&self, record: &Record) -> anyhow::Result<()> {
        let headers = OwnedHeaders::new_with_capacity(record.headers.len());
        let headers = record.headers.iter().fold(headers, |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value.as_bytes()) })
        });
        let mut outgoing = BaseRecord::to(&record.topic)
            .key(&record.key)
            .payload(&record.payload)
            .timestamp(record.timestamp_ms)
            .headers(headers);
        loop {
            match self.producer.send(outgoing) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), returned)) => {
                    outgoing = returned;
                    sleep(POLL_INTERVAL).await;
                }
                Err((error, _)) => {
                    return Err(error)
                        .context(format!("a record for {} was rejected", record.topic));
                }
            }
        }
    }

    /// Waits until the broker has acknowledged or rejected every record, at most for `timeout`. Returns the
    /// number of acknowledged records. An unacknowledged record is an error.
    pub async fn flush(&self, timeout: Duration) -> anyhow::Result<u64> {
        let deadline = Instant::now() + timeout;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            sleep(POLL_INTERVAL).await;
        }
        let unacknowledged = self.producer.in_flight_count();
        let failed = self.delivery_counts.failed.load(Ordering::Relaxed);
        if failed > 0 {
            let why = self
                .delivery_counts
                .first_failure
                .get()
                .map_or("no reason reported", String::as_str);
            bail!("{failed} records were not delivered; reason of the first: {why}");
        }
        if unacknowledged > 0 {
            bail!("{unacknowledged} records were not acknowledged in {} s", timeout.as_secs());
        }
        Ok(self.delivery_counts.acknowledged.load(Ordering::Relaxed))
    }

    /// The time for which a record may wait for its broker.
    pub const FLUSH_TIMEOUT: Duration = MESSAGE_TIMEOUT;
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").finish_non_exhaustive()
    }
}

fn producer(
    bootstrap: &str,
    delivery_counts: &Arc<DeliveryCounts>,
) -> anyhow::Result<ThreadedProducer<DeliveryContext>> {
    client(bootstrap)
        .set("enable.idempotence", "true")
        .set("compression.type", "gzip")
        // On such similar records, level 1 compresses as well as gzip's default level at half the work.
        .set("compression.level", "1")
        .set("linger.ms", "20")
        .set("partitioner", "murmur2_random")
        .set("message.timeout.ms", MESSAGE_TIMEOUT.as_millis().to_string())
        .set("queue.buffering.max.messages", "50000")
        .set("queue.buffering.max.kbytes", "65536")
        .create_with_context(DeliveryContext(Arc::clone(delivery_counts)))
        .with_context(|| format!("no producer for Kafka at {bootstrap}"))
}

fn client(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", bootstrap).set("client.id", "simulator");
    config
}

#[cfg(test)]
mod tests {
    use rdkafka::Message;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::message::Headers;
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::model::Settings;
    use crate::wire::{Faults, Play, Wire};

    /// Returns the record of a consumed message, for the comparison with the published record.
    fn read(message: &impl Message) -> Record {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("the bytes are text");
        let headers = message.headers().expect("the record has headers").iter();
        // A header name of a record is `'static`, so the names are looked up in a list of known names.
        let known = ["folio.tenantId", "x-okapi-tenant", "x-okapi-url", "x-okapi-token"];
        let known = known.into_iter().chain(["x-okapi-request-id", "x-okapi-user-id"]);
        Record {
            topic: message.topic().into(),
            key: text(message.key().expect("the record has a key")),
            headers: known
                .zip(headers)
                .map(|(name, header)| {
                    assert_eq!(name, header.key);
                    (name, text(header.value.expect("the header has a value")).into())
                })
                .collect(),
            timestamp_ms: message.timestamp().to_millis().expect("the record has a time"),
            payload: message.payload().expect("the record has a value").to_vec(),
        }
    }

    #[tokio::test]
    async fn consumer_reads_every_published_record() {
        let cluster = MockCluster::new(1).expect("a mock cluster starts");
        let bootstrap = cluster.bootstrap_servers();
        let wire = Wire::new("mock", "northlib");
        for topic in wire.topics() {
            cluster.create_topic(&topic.name, topic.partitions, 1).expect("the topic is created");
        }
        let end = "2026-09-15T00:00:00Z".parse().expect("the text is a time");
        let settings = Settings { patrons: 30, ..Settings::new(4, end) };
        let (mut sent, _) = Play::in_memory(&settings, &wire, Faults::MODEST);

        let publisher = Publisher::new(&bootstrap).expect("the producer is created");
        for record in &sent {
            publisher.publish(record).await.expect("the record is queued");
        }
        let acknowledged = publisher.flush(Duration::from_secs(30)).await;
        assert_eq!(acknowledged.expect("every record is acknowledged"), sent.len() as u64);

        let mut config = client(&bootstrap);
        let config = config.set("group.id", "reader").set("group.protocol", "consumer");
        let consumer: BaseConsumer =
            config.set("auto.offset.reset", "earliest").create().expect("the consumer is created");
        let topics = wire.topics();
        let names: Vec<&str> = topics.iter().map(|topic| topic.name.as_str()).collect();
        consumer.subscribe(&names).expect("topics can be subscribed to");
        let deadline = Instant::now() + Duration::from_secs(30);
        let mut got = vec![];
        while got.len() < sent.len() && Instant::now() < deadline {
            let message = consumer.poll(Duration::from_millis(100));
            got.extend(message.and_then(Result::ok).map(|message| read(&message)));
        }
        let order = |one: &Record| (one.timestamp_ms, one.payload.clone());
        sent.sort_by_key(order);
        got.sort_by_key(order);
        assert_eq!(got, sent);
    }
}
