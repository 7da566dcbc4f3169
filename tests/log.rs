//! The story's part of the log: topics of its own, and records with real producers' headers.

use std::{collections::HashMap, sync::Mutex, time::Duration};

use patron_blocks::event::Kind;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    message::{Header, OwnedHeaders},
    producer::{FutureProducer, FutureRecord},
};
use uuid::Uuid;

use crate::world::TENANT;

pub(crate) struct Log {
    environment: String,
    admin: AdminClient<DefaultClientContext>,
    producer: FutureProducer,
    /// The offset after the last record published, by topic and partition.
    ends: Mutex<HashMap<(String, i32), i64>>,
    topics: Mutex<Vec<String>>,
}

/// A record that a story shapes itself.
pub(crate) struct Draft<'a> {
    pub(crate) topic: String,
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    pub(crate) payload: Option<&'a [u8]>,
    pub(crate) timestamp: Option<i64>,
}

impl Log {
    pub(crate) async fn new(bootstrap: &str, environment: &str) -> Self {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", bootstrap);
        let admin = client.create().expect("an admin client");
        client.set("linger.ms", "2").set("compression.type", "gzip");
        client.set("message.max.bytes", "3000000");
        let log = Self {
            environment: environment.to_owned(),
            admin,
            producer: client.create().expect("a producer"),
            ends: Mutex::default(),
            topics: Mutex::default(),
        };
        log.make(Kind::ALL.map(|kind| log.topic(TENANT, kind)).to_vec()).await;
        log
    }

    pub(crate) fn environment(&self) -> &str {
        &self.environment
    }

    pub(crate) fn topic(&self, tenant: &str, kind: Kind) -> String {
        format!("{}.{tenant}.{}.{}", self.environment, kind.producer(), kind.name())
    }

    pub(crate) async fn make(&self, names: Vec<String>) {
        let topics: Vec<_> =
            names.iter().map(|name| NewTopic::new(name, 2, TopicReplication::Fixed(1))).collect();
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(20)));
        let made = self.admin.create_topics(&topics, &options).await.expect("Kafka is there");
        made.into_iter().for_each(|topic| {
            topic.expect("a new topic");
        });
        self.topics.lock().expect("no panic").extend(names);
    }

    pub(crate) async fn end(&self) {
        let names = self.topics.lock().expect("no panic").clone();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let _ = self.admin.delete_topics(&names, &AdminOptions::new()).await;
    }

    /// Publishes to the tenant's topic as a real producer does, with a random key.
    pub(crate) async fn publish(&self, kind: Kind, payload: &[u8]) {
        self.send(Draft {
            topic: self.topic(TENANT, kind),
            headers: vec![("folio.tenantId", TENANT), ("x-okapi-token", "a.secret.token")],
            payload: Some(payload),
            timestamp: None,
        })
        .await;
    }

    /// Many at once.
    pub(crate) async fn send_all<'a>(&self, drafts: impl Iterator<Item = Draft<'a>>) {
        futures_util::future::join_all(drafts.map(|draft| self.send(draft))).await;
    }

    pub(crate) async fn send(&self, draft: Draft<'_>) {
        let at = self.place(draft).await;
        self.reached(at);
    }

    /// Publishes to one of a topic's two partitions.
    pub(crate) async fn send_to(&self, partition: i32, draft: Draft<'_>) {
        let at = self.deliver(draft, Some(partition)).await;
        self.reached(at);
    }

    fn reached(&self, at: (String, i32, i64)) {
        let mut ends = self.ends.lock().expect("no panic");
        let end = ends.entry((at.0, at.1)).or_default();
        *end = (*end).max(at.2 + 1);
    }

    /// Publishes without waiting for it to be settled: for records that leave no position.
    pub(crate) async fn place(&self, draft: Draft<'_>) -> (String, i32, i64) {
        self.deliver(draft, None).await
    }

    async fn deliver(&self, draft: Draft<'_>, partition: Option<i32>) -> (String, i32, i64) {
        let key = Uuid::new_v4().to_string();
        let mut headers = OwnedHeaders::new();
        for (key, value) in draft.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let mut record = FutureRecord::to(&draft.topic).key(&key).headers(headers);
        record.payload = draft.payload;
        record.partition = partition;
        record.timestamp = draft.timestamp;
        let sent = self.producer.send(record, Duration::from_secs(30)).await;
        let delivery = sent.map_err(|(error, _)| error).expect("the record is taken");
        (draft.topic, delivery.partition, delivery.offset)
    }

    pub(crate) fn ends(&self) -> HashMap<(String, i32), i64> {
        self.ends.lock().expect("no panic").clone()
    }
}
