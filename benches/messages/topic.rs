//! The topics of the service, their content, and the pending work before publication.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use patron_blocks::store::Db;
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    admin::{AdminClient, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer as _},
};
use serde_json::Value;
use sqlx::AssertSqlSafe;

use crate::fixture::{TENANT, engines::variable, schema};

const PUBLISH_TIMEOUT: Duration = Duration::from_secs(600);

pub(crate) fn client() -> ClientConfig {
    let mut client = ClientConfig::new();
    let bootstrap = format!("{}:{}", variable("KAFKA_HOST"), variable("KAFKA_PORT"));
    client.set("bootstrap.servers", bootstrap);
    client
}

pub(crate) fn blocks(environment: &str) -> String {
    format!("{environment}.{TENANT}.patron-blocks.automated-block")
}

pub(crate) async fn make(names: &[String]) {
    let admin: AdminClient<DefaultClientContext> = client().create().expect("an admin client");
    let topics: Vec<_> =
        names.iter().map(|name| NewTopic::new(name, 10, TopicReplication::Fixed(1))).collect();
    for made in admin.create_topics(&topics, &Default::default()).await.expect("Kafka responds") {
        made.expect("a new topic");
    }
}

pub(crate) async fn remove(names: &[String]) {
    let admin: AdminClient<DefaultClientContext> = client().create().expect("an admin client");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let _ = admin.delete_topics(&names, &Default::default()).await;
}

/// Calls `on_message` with key and value of every message in a topic.
pub(crate) fn read(topic: &str, mut on_message: impl FnMut(String, Value)) {
    let reader: BaseConsumer = client().set("group.id", "none").create().expect("a consumer");
    let wait = Duration::from_secs(20);
    let metadata = reader.fetch_metadata(Some(topic), wait).expect("Kafka responds");
    let (mut parts, mut left) = (TopicPartitionList::new(), HashMap::new());
    for partition in metadata.topics()[0].partitions() {
        let (start, end) = reader.fetch_watermarks(topic, partition.id(), wait).expect("a span");
        if start < end {
            parts.add_partition_offset(topic, partition.id(), Offset::Beginning).expect("so");
            left.insert(partition.id(), end);
        }
    }
    reader.assign(&parts).expect("the partitions can be assigned");
    while !left.is_empty() {
        let Some(Ok(message)) = reader.poll(wait) else { continue };
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        let payload = message.payload().unwrap_or_default();
        on_message(key, serde_json::from_slice(payload).expect("the value is JSON"));
        left.retain(|of, end| *of != message.partition() || message.offset() + 1 < *end);
    }
}

pub(crate) async fn count(db: &Db, sql: &str) -> i64 {
    let sql = sql.replace("{schema}", schema().name());
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(db).await.expect("a number")
}

/// Returns the number of sent messages.
pub(crate) async fn sent(db: &Db) -> i64 {
    count(db, "select count(*) from {schema}.message_outbox where status = 'SENT'").await
}

/// Waits until no patron and no message is pending and at least `at_least` messages are sent. Returns the
/// elapsed time.
pub(crate) async fn until_published(db: &Db, sent_min: i64) -> Duration {
    const PENDING: &str = "select (select count(*) from {schema}.pending_patron)
        + (select count(*) from {schema}.pending_group)
        + (select count(*) from {schema}.published_patron where reevaluate_at <= now())
        + (select count(*) from {schema}.message_outbox where status = 'NEW')";
    let began = Instant::now();
    let mut poll = tokio::time::interval(Duration::from_millis(20));
    while began.elapsed() < PUBLISH_TIMEOUT {
        poll.tick().await;
        if count(db, PENDING).await == 0 && sent(db).await >= sent_min {
            return began.elapsed();
        }
    }
    panic!("not all messages are published after {} s", PUBLISH_TIMEOUT.as_secs());
}
