//! The log of a story: its own topics, and records with the headers of real producers.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use patron_blocks::event::Kind;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{
        AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier,
        TopicReplication,
    },
    client::DefaultClientContext,
    consumer::{BaseConsumer, CommitMode, Consumer},
    message::{Header, Headers as _, OwnedHeaders},
    producer::{FutureProducer, FutureRecord, Producer as _},
};
use uuid::Uuid;

use crate::support::{
    engines::optional_variable,
    world::{TENANT, until},
};

/// Returns the replication factor of each topic: that of the configured cluster, or one.
fn replication_factor() -> TopicReplication<'static> {
    let copies = optional_variable("REPLICATION_FACTOR");
    TopicReplication::Fixed(copies.map_or(1, |copies| copies.parse().expect("a number of copies")))
}

pub(crate) struct Log {
    bootstrap: String,
    environment: String,
    admin: AdminClient<DefaultClientContext>,
    /// A recreated topic needs a new producer, because a client trusts the later leader epochs of the
    /// deleted topic.
    producer: Mutex<FutureProducer>,
    /// The offset after the last record published, by topic and partition.
    end_offsets: Mutex<HashMap<(String, i32), i64>>,
    topics: Mutex<Vec<String>>,
}

/// A record from a topic that the service writes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ConsumedMessage {
    pub(crate) key: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) value: serde_json::Value,
}

/// A record with a topic, headers, payload and timestamp that the story chooses.
pub(crate) struct OutgoingRecord<'a> {
    pub(crate) topic: String,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) payload: Option<&'a [u8]>,
    pub(crate) timestamp: Option<i64>,
}

fn producer(bootstrap: &str) -> FutureProducer {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", bootstrap);
    client.set("linger.ms", "2").set("compression.type", "gzip");
    client.set("message.max.bytes", "3000000");
    client.create().expect("a producer")
}

impl Log {
    fn producer(&self) -> FutureProducer {
        self.producer.lock().expect("no panic").clone()
    }

    pub(crate) async fn new(bootstrap: &str, environment: &str) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", bootstrap);
        let admin = client.create().expect("an admin client");
        let log = Self {
            bootstrap: bootstrap.to_owned(),
            environment: environment.to_owned(),
            admin,
            producer: Mutex::new(producer(bootstrap)),
            end_offsets: Mutex::default(),
            topics: Mutex::default(),
        };
        log.create_topics(Kind::ALL.map(|kind| log.topic(TENANT, kind)).to_vec()).await;
        log
    }

    /// Returns the names of all topics created so far.
    pub(crate) fn topics(&self) -> Vec<String> {
        self.topics.lock().expect("no panic").clone()
    }

    pub(crate) fn environment(&self) -> &str {
        &self.environment
    }

    pub(crate) fn topic(&self, tenant: &str, kind: Kind) -> String {
        format!("{}.{tenant}.{}.{}", self.environment, kind.producer(), kind.name())
    }

    pub(crate) async fn create_topics(&self, names: Vec<String>) {
        self.create_topics_with(names, &[]).await;
    }

    pub(crate) async fn create_topics_with(&self, names: Vec<String>, settings: &[(&str, &str)]) {
        let topic = |name| {
            let topic = NewTopic::new(name, 2, replication_factor());
            settings.iter().fold(topic, |topic, (setting, value)| topic.set(setting, value))
        };
        let topics: Vec<_> = names.iter().map(|name| topic(name.as_str())).collect();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let made = self.admin.create_topics(&topics, &options).await.expect("Kafka responds");
        made.into_iter().for_each(|topic| {
            topic.expect("a new topic");
        });
        self.topics.lock().expect("no panic").extend(names);
    }

    /// Deletes a topic and creates an empty topic with the same name.
    pub(crate) async fn recreate_topic(&self, topic: &str) {
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let deleted = self.admin.delete_topics(&[topic], &options).await.expect("Kafka responds");
        deleted.into_iter().for_each(|topic| {
            topic.expect("the topic existed");
        });
        // The broker finishes a deletion some time after its response.
        let again = NewTopic::new(topic, 2, replication_factor());
        while self.admin.create_topics([&again], &options).await.expect("Kafka responds")[0]
            .is_err()
        {
            tokio::task::yield_now().await;
        }
        *self.producer.lock().expect("no panic") = producer(&self.bootstrap);
        // The broker also deletes the old log late, and accepts and loses earlier records. The loop
        // waits for empty partitions.
        let written: Vec<i32> = {
            let ends = self.end_offsets.lock().expect("no panic");
            ends.keys().filter(|(of, _)| of == topic).map(|(_, partition)| *partition).collect()
        };
        until("the new topic is empty", async || {
            let producer = self.producer();
            let span =
                |n: &i32| producer.client().fetch_watermarks(topic, *n, Duration::from_secs(20));
            written.iter().all(|partition| span(partition) == Ok((0, 0)))
        })
        .await;
        self.end_offsets.lock().expect("no panic").retain(|(of, _), _| of != topic);
    }

    /// Deletes a topic permanently.
    pub(crate) async fn delete_topic(&self, topic: &str) {
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let deleted = self.admin.delete_topics(&[topic], &options).await.expect("Kafka responds");
        deleted.into_iter().for_each(|topic| {
            topic.expect("the topic existed");
        });
        self.end_offsets.lock().expect("no panic").retain(|(of, _), _| of != topic);
    }

    /// Deletes the records before an offset, as retention does.
    pub(crate) async fn delete_records_before(&self, topic: &str, partition: i32, before: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(before)).expect("an offset");
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        self.admin.delete_records(&offsets, &options).await.expect("the records are deleted");
    }

    /// Sets the group's offset, as an operator does with Kafka's own tool while no instance runs.
    pub(crate) async fn set_group_offset(&self, topic: &str, partition: i32, to: i64) {
        let mut offsets = TopicPartitionList::new();
        offsets.add_partition_offset(topic, partition, Offset::Offset(to)).expect("an offset");
        let group = self.group_client();
        let moved = tokio::task::spawn_blocking(move || group.commit(&offsets, CommitMode::Sync));
        moved.await.expect("no panic").expect("the group is empty and can be moved");
    }

    /// Returns a client that reads the group's offsets and stays outside the group.
    pub(crate) fn group_client(&self) -> BaseConsumer {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.bootstrap);
        client.set("group.id", self.group_name());
        client.create().expect("a consumer")
    }

    fn group_name(&self) -> String {
        format!("{}.cg.patron-blocks", self.environment)
    }

    /// Sets the session timeout of the group's members, for the consumer protocol.
    pub(crate) async fn set_session_timeout(&self, time: Duration) {
        let (group, time) = (self.group_name(), time.as_millis().to_string());
        let alter = AlterConfig::new(ResourceSpecifier::Group(&group));
        let alter = alter.set("consumer.session.timeout.ms", &time);
        let altered = self.admin.alter_configs([&alter], &AdminOptions::new()).await;
        altered.expect("Kafka responds").into_iter().for_each(|group| {
            group.expect("the group belongs to the test");
        });
    }

    /// Raises the number of a topic's partitions, and waits until the producer knows them.
    pub(crate) async fn add_partitions(&self, topic: &str, number: usize) {
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let more = NewPartitions::new(topic, number);
        let made = self.admin.create_partitions([&more], &options).await.expect("Kafka responds");
        made.into_iter().for_each(|topic| {
            topic.expect("the topic belongs to the test");
        });
        let known = || {
            let topic =
                self.producer().client().fetch_metadata(Some(topic), Duration::from_secs(20));
            topic.expect("Kafka responds").topics()[0].partitions().len()
        };
        while known() < number {
            tokio::task::yield_now().await;
        }
    }

    /// Sets the retention of all topics so far to a week, in segments of a day.
    pub(crate) async fn set_retention_of_a_week(&self) {
        let names = self.topics();
        let alter = |name| {
            let topic = AlterConfig::new(ResourceSpecifier::Topic(name));
            topic.set("retention.ms", "604800000").set("segment.ms", "86400000")
        };
        let topics: Vec<_> = names.iter().map(|name| alter(name.as_str())).collect();
        let altered = self.admin.alter_configs(&topics, &AdminOptions::new()).await;
        altered.expect("Kafka responds").into_iter().for_each(|topic| {
            topic.expect("the topic belongs to the test");
        });
    }

    pub(crate) async fn delete_topics(&self) {
        let names = self.topics();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let _ = self.admin.delete_topics(&names, &AdminOptions::new()).await;
    }

    /// Publishes to the tenant's topic as a real producer does, with a random key.
    pub(crate) async fn publish(&self, kind: Kind, payload: &[u8]) {
        self.send(OutgoingRecord {
            topic: self.topic(TENANT, kind),
            headers: vec![("folio.tenantId", TENANT), ("x-okapi-token", "a.secret.token")],
            payload: Some(payload),
            timestamp: None,
        })
        .await;
    }

    /// Publishes many records at once.
    pub(crate) async fn send_all<'a>(&self, drafts: impl Iterator<Item = OutgoingRecord<'a>>) {
        futures_util::future::join_all(drafts.map(|draft| self.send(draft))).await;
    }

    /// Publishes records to one partition, in their order.
    pub(crate) async fn send_all_to_partition<'a>(
        &self,
        partition: i32,
        drafts: impl Iterator<Item = OutgoingRecord<'a>>,
    ) {
        for draft in drafts {
            self.send_to_partition(partition, draft).await;
        }
    }

    pub(crate) async fn send(&self, draft: OutgoingRecord<'_>) {
        let at = self.send_untracked(draft).await;
        self.record_end_offset(at);
    }

    /// Publishes a record to one partition of its topic.
    pub(crate) async fn send_to_partition(&self, partition: i32, draft: OutgoingRecord<'_>) {
        let at = self.deliver(draft, Some(partition)).await;
        self.record_end_offset(at);
    }

    /// Publishes many large records with keys, in groups of 20. Compression would take longer than
    /// everything else.
    pub(crate) async fn send_uncompressed<'a>(
        &self,
        mut drafts: impl Iterator<Item = (String, OutgoingRecord<'a>)>,
    ) {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.bootstrap).set("message.max.bytes", "3000000");
        let producer: FutureProducer = client.create().expect("a producer");
        loop {
            let some: Vec<_> = drafts.by_ref().take(20).collect();
            if some.is_empty() {
                return;
            }
            let sent =
                some.iter().map(|(key, draft)| Self::deliver_with(&producer, key, draft, None));
            let sent = futures_util::future::join_all(sent).await;
            sent.into_iter().for_each(|at| self.record_end_offset(at));
        }
    }

    fn record_end_offset(&self, at: (String, i32, i64)) {
        let mut ends = self.end_offsets.lock().expect("no panic");
        let end = ends.entry((at.0, at.1)).or_default();
        *end = (*end).max(at.2 + 1);
    }

    /// Publishes a record without recording its end offset, because no position will cover the record.
    pub(crate) async fn send_untracked(&self, draft: OutgoingRecord<'_>) -> (String, i32, i64) {
        self.deliver(draft, None).await
    }

    async fn deliver(
        &self,
        draft: OutgoingRecord<'_>,
        partition: Option<i32>,
    ) -> (String, i32, i64) {
        let key = Uuid::new_v4().to_string();
        Self::deliver_with(&self.producer(), &key, &draft, partition).await
    }

    async fn deliver_with(
        producer: &FutureProducer,
        key: &str,
        draft: &OutgoingRecord<'_>,
        partition: Option<i32>,
    ) -> (String, i32, i64) {
        let mut headers = OwnedHeaders::new();
        for (key, value) in &draft.headers {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let mut record = FutureRecord::to(&draft.topic).key(key).headers(headers);
        record.payload = draft.payload;
        record.partition = partition;
        record.timestamp = draft.timestamp;
        let sent = producer.send(record, Duration::from_secs(30)).await;
        let delivery = sent.map_err(|(error, _)| error).expect("the producer accepts the record");
        (draft.topic.clone(), delivery.partition, delivery.offset)
    }

    /// Returns all records of a topic with key, headers and value, in the order of each partition.
    pub(crate) fn read_topic(&self, topic: &str) -> Vec<ConsumedMessage> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.bootstrap).set("group.id", "none");
        let reader: BaseConsumer = client.create().expect("a consumer");
        let metadata = reader.fetch_metadata(Some(topic), Duration::from_secs(20));
        let metadata = metadata.expect("Kafka responds");
        let (mut parts, mut left) = (TopicPartitionList::new(), HashMap::new());
        for partition in metadata.topics()[0].partitions() {
            let span = reader.fetch_watermarks(topic, partition.id(), Duration::from_secs(20));
            let (start, end) = span.expect("a partition");
            if start < end {
                parts.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("so");
                left.insert(partition.id(), end);
            }
        }
        reader.assign(&parts).expect("the record can be read");
        let mut messages = Vec::new();
        while !left.is_empty() {
            let Some(Ok(message)) = reader.poll(Duration::from_millis(100)) else { continue };
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            let header = |header: Header<'_, &[u8]>| {
                (header.key.to_owned(), text(header.value.unwrap_or_default()))
            };
            messages.push(ConsumedMessage {
                key: text(message.key().unwrap_or_default()),
                headers: headers.map(header).collect(),
                value: serde_json::from_slice(message.payload().unwrap_or_default())
                    .expect("the value is JSON"),
            });
            left.retain(|of, end| *of != message.partition() || message.offset() + 1 < *end);
        }
        messages
    }

    /// Returns a consumer that reads these topics from their beginning.
    pub(crate) fn subscribe(&self, topics: &[&str]) -> BaseConsumer {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", &self.bootstrap);
        client.set("group.id", Uuid::new_v4().to_string()).set("auto.offset.reset", "earliest");
        let consumer: BaseConsumer = client.create().expect("a consumer");
        consumer.subscribe(topics).expect("topics can be subscribed to");
        consumer
    }

    pub(crate) fn end_offsets(&self) -> HashMap<(String, i32), i64> {
        self.end_offsets.lock().expect("no panic").clone()
    }
}
