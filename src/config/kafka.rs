//! Settings of the Kafka connection, the consumer group and ingest.

use std::time::Duration;

use clap::{ArgAction, Args};

use super::{
    SecurityConfig,
    parse::{bounded, choice, flag, kib, non_empty, number, port, valid, wait},
};
use crate::event::Environment;

/// The settings of the Kafka connection, the consumer group and ingest.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaConfig {
    /// Host of a Kafka broker
    #[arg(long = "kafka-host", env = "KAFKA_HOST")]
    #[arg(default_value = "localhost", value_parser = non_empty())]
    pub broker_host: String,
    /// Port of that broker
    #[arg(long = "kafka-port", env = "KAFKA_PORT", default_value = "9092", value_parser = port())]
    pub broker_port: u16,
    /// Name of the deployment; first part of topic names and of the consumer group
    #[arg(long, env = "ENV")]
    #[arg(default_value = "", value_parser = valid(
        "must consist of letters, digits, dots, underscores and hyphens",
        part_of_topic
    ))]
    pub env: String,
    /// Read mod-pubsub's own topics as well: true or false
    #[arg(long = "kafka-pubsub-topics", env = "KAFKA_PUBSUB_TOPICS")]
    #[arg(default_value = "false", value_parser = flag(), action = ArgAction::Set)]
    pub pubsub_topics: bool,
    /// Time after which the group drops a silent instance, in milliseconds
    #[arg(long = "kafka-session-timeout", env = "KAFKA_CONSUMER_SESSION_TIMEOUT_MS")]
    #[arg(default_value = "10000", value_parser = wait())]
    pub session_timeout: Duration,
    /// Interval of heartbeats to the group, in milliseconds; less than the session time-out
    #[arg(long = "kafka-heartbeat-interval", env = "KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS")]
    #[arg(default_value = "3000", value_parser = wait())]
    pub heartbeat_interval: Duration,
    /// Interval of the search for new topics, in milliseconds; enabling a tenant searches at once
    #[arg(long = "kafka-metadata-max-age", env = "KAFKA_CONSUMER_METADATA_MAX_AGE_MS")]
    #[arg(default_value = "30000", value_parser = wait())]
    pub metadata_max_age: Duration,
    /// Protocol of the consumer group: classic, or consumer for Kafka 4 (KIP-848); all instances use the
    /// same value
    #[arg(long = "kafka-group-protocol", env = "KAFKA_GROUP_PROTOCOL")]
    #[arg(default_value = "classic", value_parser = choice([
        ("classic", GroupProtocol::Classic),
        ("consumer", GroupProtocol::Consumer),
    ]))]
    pub group_protocol: GroupProtocol,
    /// Memory of records that the Kafka client fetches ahead, in KiB
    #[arg(long = "kafka-prefetch", env = "KAFKA_PREFETCH_KIB")]
    #[arg(default_value = "8192", value_parser = kib())]
    pub prefetch_kib: u32,
    /// Memory of records that wait for a writer, in KiB
    #[arg(long = "ingest-buffer", env = "INGEST_BUFFER_KIB", help_heading = "Ingest")]
    #[arg(default_value = "16384", value_parser = kib())]
    pub buffer_kib: u32,
    // Above the default, latency grows faster than throughput (docs/decisions/0005).
    /// Records per transaction, at most
    #[arg(long = "ingest-batch-max", env = "INGEST_BATCH_MAX", help_heading = "Ingest")]
    #[arg(default_value = "2000", value_parser = number::<usize>(1..=20_000))]
    pub batch_records_max: usize,
    // Above the default, more writers gain little (docs/decisions/0005).
    /// Writers, 1 to 8, at most DB_MAXPOOLSIZE minus 2; each uses its own database connection and partitions
    #[arg(long = "ingest-writers", env = "INGEST_WRITERS", help_heading = "Ingest")]
    #[arg(default_value = "2", value_parser = number::<u32>(1..=8))]
    pub writers: u32,
    /// Encryption and authentication of Kafka connections
    #[command(flatten)]
    pub security: SecurityConfig,
    /// Number of bad records at which a partition stops
    #[command(flatten)]
    pub bad_record_limit: BadRecordLimit,
}

/// Protocol by which the consumer group assigns partitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupProtocol {
    /// The members assign partitions by the cooperative sticky strategy.
    Classic,
    /// The broker assigns partitions (KIP-848); requires Kafka 4.
    Consumer,
}

/// The limits for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Args)]
#[command(next_help_heading = "Ingest")]
pub struct BadRecordLimit {
    /// Consecutive bad records that stop a partition
    #[arg(long = "bad-record-limit-consecutive", env = "BAD_RECORD_LIMIT_CONSECUTIVE")]
    #[arg(default_value = "100", value_parser = number::<usize>(1..=1_000_000))]
    pub consecutive: usize,
    /// Bad records among the last 1000 that stop a partition; 1001 disables the rule
    #[arg(long = "bad-record-limit-per-1000", env = "BAD_RECORD_LIMIT_PER_1000")]
    #[arg(default_value = "500")]
    #[arg(value_parser = bounded::<usize>("number", 1..=1001, "; 1001 disables the rule"))]
    pub per_window: usize,
}

impl BadRecordLimit {
    /// Number of records of a partition in the window.
    pub const WINDOW_RECORDS: usize = 1000;
}

impl KafkaConfig {
    /// Returns host and port of the broker that the clients connect to first.
    pub fn bootstrap_servers(&self) -> String {
        format!("{}:{}", self.broker_host, self.broker_port)
    }

    /// Returns the first part of topic names, and the selection of topics to read.
    pub fn environment(&self) -> Environment {
        Environment::new(Some(&self.env)).with_pubsub(self.pubsub_topics)
    }
}

fn part_of_topic(text: &str) -> Option<String> {
    let is_legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    text.chars().all(is_legal).then(|| text.to_owned())
}
