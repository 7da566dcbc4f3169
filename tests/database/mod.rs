//! The SQL on a real PostgreSQL, without Kafka.

mod cql;
mod deadlocks;
mod inbox;
mod java_switch;
mod pruning;
mod schema_page;
pub(crate) mod sql;
mod start_offset;
