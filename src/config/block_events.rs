//! Settings of block events and of the outbox.

use std::time::Duration;

use clap::{ArgAction, Args, builder::TypedValueParser as _};

use super::parse::{Optional, flag, number, optional};
use crate::event::Collection;

/// The settings of block events.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Block events")]
pub struct BlockEventsConfig {
    /// Publish a Kafka event when a block starts, changes or ends: true or false
    #[arg(long = "block-events", env = "BLOCK_EVENTS")]
    #[arg(default_value = "false", value_parser = flag(), action = ArgAction::Set)]
    pub enabled: bool,
    /// Publish approaching-limit events from this distance to a limit, in percent; 0 publishes none
    #[arg(long = "block-events-approaching", env = "BLOCK_EVENTS_APPROACHING_PERCENT")]
    #[arg(default_value = "0", value_parser = number::<u8>(0..=100))]
    pub approaching_percent: u8,
    /// Share of time in which the detect worker may use its database connection, in percent
    #[arg(long = "block-events-db-share-percent", env = "BLOCK_EVENTS_DB_SHARE_PERCENT")]
    #[arg(id = "block_events_db_share_percent", default_value = "40")]
    #[arg(value_parser = number::<u8>(1..=100))]
    pub db_share_percent: u8,
    /// Partitions of the block event topics that enabling a tenant creates
    #[arg(long = "block-events-partitions", env = "BLOCK_EVENTS_PARTITIONS")]
    #[arg(default_value = "10", value_parser = number::<i32>(1..=1000))]
    pub partitions: i32,
    /// Replicas of each partition of new topics
    #[arg(long = "replication-factor", env = "REPLICATION_FACTOR")]
    #[arg(default_value = "1", value_parser = number::<i32>(1..=100))]
    pub replication: i32,
    /// Tenant collection that receives the block events of all tenants, such as ALL; if empty, each tenant has
    /// its own topics
    #[arg(long = "kafka-producer-tenant-collection", env = "KAFKA_PRODUCER_TENANT_COLLECTION")]
    #[arg(default_value = "", value_parser = optional(Collection::RULE, Collection::parse))]
    pub collection: Optional<Collection>,
    /// Age in seconds at which the oldest unsent message counts as overdue
    #[arg(long = "outbox-overdue-seconds", env = "OUTBOX_OVERDUE_SECONDS")]
    #[arg(default_value = "300", value_parser = number::<u64>(1..=86_400).map(Duration::from_secs))]
    pub overdue_after: Duration,
}

/// The settings of a topic that the module creates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicConfig {
    /// Number of partitions.
    pub partitions: i32,
    /// Number of replicas per partition.
    pub replication: i32,
    /// `true` if compaction retains only the newest message per key.
    pub compacted: bool,
}

impl BlockEventsConfig {
    /// Returns the settings of a new topic. Patrons of different tenants may have equal ids, so a shared
    /// topic is not compacted.
    pub fn topic_config(&self) -> TopicConfig {
        TopicConfig {
            partitions: self.partitions,
            replication: self.replication,
            compacted: self.collection.is_none(),
        }
    }
}
