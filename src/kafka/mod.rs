//! Kafka: one polling thread reads, a few lanes carry the records to writers, and offsets are stored
//! only for what is durable. Nothing else names `rdkafka`.
//!
//! `assignment` and `lane` know nothing of it either: the simulation drives them by a broker of its own.

mod admin;
pub mod assignment;
mod consumer;
mod health;
pub mod lane;
mod message;
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

/// Why the Kafka client could not be made.
pub use rdkafka::error::KafkaError as Error;
