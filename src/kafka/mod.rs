//! Kafka: one polling thread reads, lanes queue the records for writers, and the poller stores
//! offsets only of durable records. Only this module uses `rdkafka`.
//!
//! The modules `assignment` and `lane` are free of `rdkafka`, so the simulation can drive them with
//! its own broker.

mod admin;
pub mod assignment;
mod channels;
mod consumer;
mod health;
pub mod lane;
mod message;
pub mod offsets;
mod poll_loop;
mod probe;
mod producer;
pub mod progress;
pub mod replay;
pub mod retention;
mod takeover;
mod user_topics;
mod watchdog;

pub use admin::BrokerClient;
pub use consumer::{Consumer, start};
pub use health::{ConsumerStatus, Health};
pub use probe::{ProbeResults, RecordProbe};
pub use producer::{MessageProducer, OutgoingMessage, TopicConfig, is_too_large};
pub use user_topics::UserTopics;

/// The error of the Kafka client.
pub use rdkafka::error::KafkaError as Error;
