//! The SQL on a real PostgreSQL, without Kafka.

mod cql;
mod inbox;
mod java_switch;
pub(crate) mod sql;
mod pruning;
mod schema_page;
mod start_offset;
