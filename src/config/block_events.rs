//! Settings of block events and of the outbox.

use std::time::Duration;

use clap::Args;

use super::InvalidSettings;
use crate::event::Collection;

/// The settings as text, before validation.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Block events")]
pub struct BlockEventsSettings {
    /// Publish a Kafka event when a block starts, changes or ends: true or false
    #[arg(long, env = "BLOCK_EVENTS", default_value = "false", global = true)]
    pub block_events: String,
    /// Publish approaching-limit events from this distance to a limit, in percent; 0 publishes none
    #[arg(long, env = "BLOCK_EVENTS_APPROACHING_PERCENT", default_value = "0", global = true)]
    pub block_events_approaching: String,
    /// Share of time in which the detect worker may use its database connection, in percent
    #[arg(long, env = "BLOCK_EVENTS_DB_SHARE_PERCENT", default_value = "40", global = true)]
    pub block_events_db_share_percent: String,
    /// Partitions of the block event topics that enabling a tenant creates
    #[arg(long, env = "BLOCK_EVENTS_PARTITIONS", default_value = "10", global = true)]
    pub block_events_partitions: String,
    /// Replicas of each partition of new topics
    #[arg(long, env = "REPLICATION_FACTOR", default_value = "1", global = true)]
    pub replication_factor: String,
    /// Tenant collection that receives the block events of all tenants, such as ALL; if empty, each tenant has
    /// its own topics
    #[arg(long, env = "KAFKA_PRODUCER_TENANT_COLLECTION", default_value = "", global = true)]
    pub kafka_producer_tenant_collection: String,
    /// Age in seconds at which the oldest unsent message counts as overdue
    #[arg(long, env = "OUTBOX_OVERDUE_SECONDS", default_value = "300", global = true)]
    pub outbox_overdue_seconds: String,
}

/// The validated settings of block events.
#[derive(Debug, Clone)]
pub struct BlockEventsConfig {
    /// Whether the service publishes block events.
    pub enabled: bool,
    /// Distance to a limit that publishes an approaching-limit event, 0 to 100 percent; 0 publishes none.
    pub approaching_percent: u8,
    /// Share of time in which the detect worker may use its database connection, 1 to 100 percent.
    pub db_share_percent: u8,
    /// Partitions, replicas and compaction of new topics.
    pub topic_config: TopicConfig,
    /// The tenant collection that receives the block events of all tenants; `None` for a topic per tenant.
    pub collection: Option<Collection>,
    /// Age at which the oldest unsent message counts as overdue, 1 to 86,400 seconds.
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
                // Patrons of different tenants may have equal ids, so a shared topic must not be compacted.
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
