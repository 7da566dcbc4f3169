//! Kafka: one polling thread reads, lanes queue the records for writers, and the poller stores
//! offsets only of durable records. Only this module uses `rdkafka`.
//!
//! The modules `assignment`, `delivery`, `offsets` and `progress` are free of `rdkafka`, so the simulation
//! can drive them with its own broker.

mod admin;
pub mod assignment;
mod client;
mod client_context;
mod consumer;
pub mod delivery;
mod health;
mod message;
mod metrics;
pub mod offsets;
mod poll_loop;
mod probe;
mod producer;
pub mod progress;
pub mod replay;
pub mod retention;
mod user_topics;

pub use admin::BrokerClient;
pub use consumer::{Consumer, ConsumerParts, start};
pub use health::{ConsumerStatus, Health};
pub use metrics::register_metrics;
pub use probe::{ProbeResults, RecordProbe};
pub use producer::{MessageProducer, OutgoingMessage, is_too_large};
pub use user_topics::UserTopics;

/// The error of the Kafka client.
pub use rdkafka::error::KafkaError as Error;
