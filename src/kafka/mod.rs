//! Kafka: one polling thread reads, a few lanes carry the records to writers, and offsets are stored
//! only for what is durable. Nothing else names `rdkafka`.
//!
//! `assignment` and `lane` know nothing of it either: the simulation drives them by a broker of its own.

pub mod assignment;
mod broker;
mod consumer;
pub mod lane;
mod look;
mod poller;
pub mod progress;
pub mod reader;
mod record;
pub mod retention;
mod sender;
mod status;
mod takeover;
mod user_topics;
mod watchdog;

pub use broker::Broker;
pub use consumer::{Consumer, start};
pub use look::{Look, Looked};
pub use sender::{Outgoing, Sender, Shape, is_too_large};
pub use status::{Health, Status};
pub use user_topics::UserTopics;

/// Why the Kafka client could not be made.
pub use rdkafka::error::KafkaError as Error;
