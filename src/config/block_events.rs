//! Settings of the messages by which others learn of blocks.

use std::time::Duration;

use clap::Args;

use super::InvalidSettings;
use crate::{event::Collection, kafka::TopicConfig};

/// The settings as they come.
#[derive(Debug, Clone, Args)]
pub struct BlockEventsSettings {
    /// Tell others by Kafka of blocks that begin, change or end: true or false
    #[arg(long, env = "BLOCK_EVENTS", default_value = "false", global = true)]
    pub block_events: String,
    /// Tell also of limits that a patron has come near to, within so many percent; 0 tells nothing
    #[arg(long, env = "BLOCK_EVENTS_APPROACHING_PERCENT", default_value = "0", global = true)]
    pub block_events_approaching: String,
    /// Share of the time that looking at patrons may keep its connection to the database busy, in percent
    #[arg(long, env = "BLOCK_EVENTS_DB_SHARE_PERCENT", default_value = "40", global = true)]
    pub block_events_db_share_percent: String,
    /// Partitions of the topics for them that are made when a tenant is enabled
    #[arg(long, env = "BLOCK_EVENTS_PARTITIONS", default_value = "10", global = true)]
    pub block_events_partitions: String,
    /// Copies of each partition
    #[arg(long, env = "REPLICATION_FACTOR", default_value = "1", global = true)]
    pub replication_factor: String,
    /// Write the messages of all tenants to the topics of this tenant collection, such as ALL
    #[arg(long, env = "KAFKA_PRODUCER_TENANT_COLLECTION", default_value = "", global = true)]
    pub kafka_producer_tenant_collection: String,
    /// When a message that waits to be sent for so many seconds is an alarm
    #[arg(long, env = "OUTBOX_OVERDUE_SECONDS", default_value = "300", global = true)]
    pub outbox_overdue_seconds: String,
}

/// How others are told.
#[derive(Debug, Clone)]
pub struct BlockEventsConfig {
    /// Whether they are told of blocks.
    pub enabled: bool,
    /// Within so many percent a limit is near; 0 tells nothing of that.
    pub approaching_percent: u8,
    /// Share of the time, in percent, that looking at patrons may keep its connection busy.
    pub db_share_percent: u8,
    /// How topics are made.
    pub topic_config: TopicConfig,
    /// The collection whose topics the messages of all tenants go to.
    pub collection: Option<Collection>,
    /// When waiting to be sent takes too long.
    pub overdue_after: Duration,
}

impl BlockEventsSettings {
    pub(super) fn validate(&self, problems: &mut InvalidSettings) -> BlockEventsConfig {
        let of_all = "must be a number from 0 to 100";
        let share = "must be a number from 1 to 100";
        let name = self.kafka_producer_tenant_collection.trim();
        let collection = match name {
            "" => None,
            _ => problems.parse(
                "KAFKA_PRODUCER_TENANT_COLLECTION",
                name,
                Collection::RULE,
                Collection::parse,
            ),
        };
        BlockEventsConfig {
            enabled: problems.flag("BLOCK_EVENTS", &self.block_events),
            approaching_percent: problems.number(
                "BLOCK_EVENTS_APPROACHING_PERCENT",
                &self.block_events_approaching,
                of_all,
                0..=100,
            ),
            db_share_percent: problems.number(
                "BLOCK_EVENTS_DB_SHARE_PERCENT",
                &self.block_events_db_share_percent,
                share,
                1..=100,
            ),
            topic_config: TopicConfig {
                partitions: problems.number(
                    "BLOCK_EVENTS_PARTITIONS",
                    &self.block_events_partitions,
                    "must be a number from 1 to 1000",
                    1..=1000,
                ),
                replication: problems.number(
                    "REPLICATION_FACTOR",
                    &self.replication_factor,
                    "must be a number from 1 to 100",
                    1..=100,
                ),
                // Tenants may have patrons of the same id.
                compacted: collection.is_none(),
            },
            collection,
            overdue_after: Duration::from_secs(problems.number(
                "OUTBOX_OVERDUE_SECONDS",
                &self.outbox_overdue_seconds,
                "must be a number from 1 to 86400",
                1..=86_400,
            )),
        }
    }
}
