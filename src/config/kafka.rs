//! Settings of the Kafka connection, the consumer group and ingest.

use std::time::Duration;

use clap::Args;

use super::{InvalidSettings, SecurityConfig, SecuritySettings};
use crate::event::Environment;

/// The settings as text, before validation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Kafka")]
pub struct KafkaSettings {
    /// Host of a Kafka broker
    #[arg(long, env = "KAFKA_HOST", default_value = "localhost", global = true)]
    pub kafka_host: String,
    /// Port of that broker
    #[arg(long, env = "KAFKA_PORT", default_value = "9092", global = true)]
    pub kafka_port: String,
    /// Name of the deployment; first part of topic names and of the consumer group
    #[arg(long, env = "ENV", default_value = "", global = true)]
    pub env: String,
    /// Read mod-pubsub's own topics as well: true or false
    #[arg(long, env = "KAFKA_PUBSUB_TOPICS", default_value = "false", global = true)]
    pub kafka_pubsub_topics: String,
    /// Time after which the group drops a silent instance, in milliseconds
    #[arg(long, env = "KAFKA_CONSUMER_SESSION_TIMEOUT_MS", default_value = "10000", global = true)]
    pub kafka_session_timeout: String,
    /// Interval of heartbeats to the group, in milliseconds; less than the session time-out
    #[arg(
        long,
        env = "KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS",
        default_value = "3000",
        global = true
    )]
    pub kafka_heartbeat_interval: String,
    /// Interval of the search for new topics, in milliseconds; enabling a tenant searches at once
    #[arg(
        long,
        env = "KAFKA_CONSUMER_METADATA_MAX_AGE_MS",
        default_value = "30000",
        global = true
    )]
    pub kafka_metadata_max_age: String,
    /// Protocol of the consumer group: classic, or consumer for Kafka 4 (KIP-848); all instances use the
    /// same value
    #[arg(long, env = "KAFKA_GROUP_PROTOCOL", default_value = "classic", global = true)]
    pub kafka_group_protocol: String,
    /// Memory of records that the Kafka client fetches ahead, in KiB
    #[arg(long, env = "KAFKA_PREFETCH_KIB", default_value = "8192", global = true)]
    pub kafka_prefetch: String,
    /// Memory of records that wait for a writer, in KiB
    #[arg(
        long,
        env = "INGEST_BUFFER_KIB",
        help_heading = "Ingest",
        default_value = "16384",
        global = true
    )]
    pub ingest_buffer: String,
    /// Records per transaction, at most
    #[arg(
        long,
        env = "INGEST_BATCH_MAX",
        help_heading = "Ingest",
        default_value = "2000",
        global = true
    )]
    pub ingest_batch_max: String,
    /// Writers, 1 to 8, at most DB_MAXPOOLSIZE minus 2; each uses its own database connection and partitions
    #[arg(
        long,
        env = "INGEST_WRITERS",
        help_heading = "Ingest",
        default_value = "2",
        global = true
    )]
    pub ingest_writers: String,
    /// Encryption and authentication of Kafka connections
    #[command(flatten)]
    pub security: SecuritySettings,
    /// Consecutive bad records that stop a partition
    #[arg(
        long,
        env = "BAD_RECORD_LIMIT_CONSECUTIVE",
        help_heading = "Ingest",
        default_value = "100",
        global = true
    )]
    pub bad_record_limit_consecutive: String,
    /// Bad records among the last 1000 that stop a partition; 1001 disables the rule
    #[arg(
        long,
        env = "BAD_RECORD_LIMIT_PER_1000",
        help_heading = "Ingest",
        default_value = "500",
        global = true
    )]
    pub bad_record_limit_per_1000: String,
}

/// The validated settings of the Kafka connection, the consumer group and ingest.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `host:port`.
    pub bootstrap_servers: String,
    /// Encryption and authentication of connections.
    pub security: SecurityConfig,
    /// First part of topic names, and the selection of topics to read.
    pub environment: Environment,
    /// Time after which the group drops a silent instance.
    pub session_timeout: Duration,
    /// Interval of heartbeats to the group; less than the session time-out.
    pub heartbeat_interval: Duration,
    /// Interval of the search for new topics.
    pub metadata_max_age: Duration,
    /// Protocol of the consumer group.
    pub group_protocol: GroupProtocol,
    /// Memory of records that the client fetches ahead, in KiB.
    pub prefetch_kib: u32,
    /// Memory of records that wait for a writer, in KiB.
    pub buffer_kib: u32,
    /// Records per transaction, 1 to 20,000. Above the default, latency grows faster than throughput
    /// (docs/decisions/0005).
    pub batch_records_max: usize,
    /// Writers, 1 to 8. Above the default, more writers gain little (docs/decisions/0005).
    pub writers: u32,
    /// Number of bad records at which a partition stops.
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
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRecordLimit {
    /// Bad records in a row.
    pub consecutive: usize,
    /// Bad records among the last [`BadRecordLimit::WINDOW_RECORDS`].
    pub per_window: usize,
}

impl BadRecordLimit {
    /// Number of records of a partition in the window.
    pub const WINDOW_RECORDS: usize = 1000;
}

impl KafkaSettings {
    pub(super) fn validate(&self, problems: &mut InvalidSettings) -> KafkaConfig {
        let host = problems.non_empty("KAFKA_HOST", &self.kafka_host);
        let port = problems.port("KAFKA_PORT", &self.kafka_port);
        let usable = |text: &str| {
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            text.chars().all(legal).then(|| Environment::new(Some(text)))
        };
        let rule = "must consist of letters, digits, dots, underscores and hyphens";
        let config = KafkaConfig {
            bootstrap_servers: format!("{host}:{port}"),
            security: self.security.validate(problems),
            environment: problems
                .parse("ENV", &self.env, rule, usable)
                .unwrap_or_else(|| Environment::new(None))
                .with_pubsub(problems.flag("KAFKA_PUBSUB_TOPICS", &self.kafka_pubsub_topics)),
            session_timeout: problems
                .milliseconds("KAFKA_CONSUMER_SESSION_TIMEOUT_MS", &self.kafka_session_timeout),
            heartbeat_interval: problems.milliseconds(
                "KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS",
                &self.kafka_heartbeat_interval,
            ),
            metadata_max_age: problems
                .milliseconds("KAFKA_CONSUMER_METADATA_MAX_AGE_MS", &self.kafka_metadata_max_age),
            group_protocol: problems
                .parse(
                    "KAFKA_GROUP_PROTOCOL",
                    &self.kafka_group_protocol,
                    "must be classic or consumer",
                    |text| match text {
                        "classic" => Some(GroupProtocol::Classic),
                        "consumer" => Some(GroupProtocol::Consumer),
                        _ => None,
                    },
                )
                .unwrap_or(GroupProtocol::Classic),
            prefetch_kib: problems.kib("KAFKA_PREFETCH_KIB", &self.kafka_prefetch),
            buffer_kib: problems.kib("INGEST_BUFFER_KIB", &self.ingest_buffer),
            batch_records_max: problems.number(
                "INGEST_BATCH_MAX",
                &self.ingest_batch_max,
                "must be a number from 1 to 20000",
                1..=20_000,
            ),
            writers: problems.number(
                "INGEST_WRITERS",
                &self.ingest_writers,
                "must be a number from 1 to 8",
                1..=8,
            ),
            bad_record_limit: BadRecordLimit {
                consecutive: problems.number(
                    "BAD_RECORD_LIMIT_CONSECUTIVE",
                    &self.bad_record_limit_consecutive,
                    "must be a number from 1 to 1000000",
                    1..=1_000_000,
                ),
                per_window: problems.number(
                    "BAD_RECORD_LIMIT_PER_1000",
                    &self.bad_record_limit_per_1000,
                    "must be a number from 1 to 1001; 1001 disables the rule",
                    1..=1001,
                ),
            },
        };
        problems.parse(
            "KAFKA_CONSUMER_HEARTBEAT_INTERVAL_MS",
            &self.kafka_heartbeat_interval,
            "must be less than KAFKA_CONSUMER_SESSION_TIMEOUT_MS",
            |_| (config.heartbeat_interval < config.session_timeout).then_some(()),
        );
        config
    }
}
