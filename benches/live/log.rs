//! The topics of one measurement, and a producer for them.

use std::time::Duration;

use patron_blocks::{event::Kind, kafka::delivery::ConsumedRecord};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use uuid::Uuid;

use crate::fixture::{TENANT, engines::variable};

/// The number of partitions of each topic; records are assigned to them in turn.
pub(crate) const PARTITIONS: i32 = 4;

pub(crate) struct Log {
    pub(crate) environment: String,
    admin: AdminClient<DefaultClientContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
}

pub(crate) fn topic(environment: &str, kind: Kind) -> String {
    topic_of(environment, TENANT, kind)
}

fn topic_of(environment: &str, tenant: &str, kind: Kind) -> String {
    format!("{environment}.{tenant}.{}.{}", kind.producer(), kind.name())
}

fn bootstrap() -> String {
    format!("{}:{}", variable("KAFKA_HOST"), variable("KAFKA_PORT"))
}

impl Log {
    /// Creates the topics of the tenant. The producer lingers this many milliseconds.
    pub(crate) async fn make(linger: u32) -> Self {
        let log = Self::connect(linger);
        log.create_topics(TENANT, PARTITIONS).await;
        log
    }

    /// Creates a log without topics.
    pub(crate) fn connect(linger: u32) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", bootstrap());
        let admin: AdminClient<_> = client.create().expect("an admin client");
        client.set("linger.ms", linger.to_string());
        let environment = format!("live-{}", Uuid::new_v4().simple());
        Self { environment, admin, producer: client.create().expect("a producer") }
    }

    /// Creates the topics of a tenant.
    pub(crate) async fn create_topics(&self, tenant: &str, partitions: i32) {
        let names = Kind::ALL.map(|kind| topic_of(&self.environment, tenant, kind));
        let topics =
            names.each_ref().map(|n| NewTopic::new(n, partitions, TopicReplication::Fixed(1)));
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let made = self.admin.create_topics(&topics, &options).await.expect("Kafka responds");
        for topic in made {
            topic.expect("a new topic");
        }
    }

    /// Returns a consumer of all topics from their beginning, without a group.
    pub(crate) fn reader(&self) -> BaseConsumer {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", bootstrap()).set("group.id", "none");
        client.set("enable.auto.commit", "false").set("fetch.wait.max.ms", "100");
        let reader: BaseConsumer = client.create().expect("a consumer");
        let mut all = TopicPartitionList::new();
        for kind in Kind::ALL {
            for partition in 0..PARTITIONS {
                let at = Offset::Beginning;
                let topic = topic(&self.environment, kind);
                all.add_partition_offset(&topic, partition, at).expect("an offset");
            }
        }
        reader.assign(&all).expect("the broker accepts the partitions");
        reader
    }

    pub(crate) async fn remove(self) {
        self.remove_topics(TENANT).await;
    }

    /// Deletes the topics of a tenant.
    pub(crate) async fn remove_topics(&self, tenant: &str) {
        let names = Kind::ALL.map(|kind| topic_of(&self.environment, tenant, kind));
        let names = names.each_ref().map(String::as_str);
        let _ = self.admin.delete_topics(&names, &AdminOptions::new()).await;
    }

    /// Sends a record to this partition.
    pub(crate) fn send(&self, kind: Kind, partition: i32, payload: &[u8]) {
        let topic = topic(&self.environment, kind);
        let tenant = Header { key: "folio.tenantId", value: Some(TENANT) };
        let headers = OwnedHeaders::new().insert(tenant);
        let record = BaseRecord::<(), _>::to(&topic).payload(payload).partition(partition);
        let mut record = record.headers(headers);
        while let Err((error, refused)) = self.producer.send(record) {
            let full = KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull);
            assert_eq!(error, full, "the broker accepts the records");
            self.producer.flush(Duration::from_secs(60)).expect("the broker accepts the records");
            record = refused;
        }
    }

    /// Sends prepared records and waits for the broker's acknowledgements.
    pub(crate) fn send_all(&self, events: &[ConsumedRecord]) {
        for (n, ConsumedRecord { record, topic, .. }) in events.iter().enumerate() {
            let payload = record.payload.as_deref().expect("a payload");
            self.send(topic.kind, n as i32 % PARTITIONS, payload);
        }
        self.flush();
    }

    pub(crate) fn flush(&self) {
        self.producer.flush(Duration::from_secs(60)).expect("the broker accepts the records");
    }
}
