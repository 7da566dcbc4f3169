//! Kafka: one polling thread reads, a few lanes carry the records to writers, and offsets are stored
//! only for what is durable. Nothing else names `rdkafka`.

mod assignment;
mod consumer;
mod lane;
mod poller;
pub mod retention;
mod status;

pub use consumer::{Consumer, start};
pub use status::{Health, Status};

/// Why the Kafka client could not be made.
pub use rdkafka::error::KafkaError as Error;
