//! Decides whether a patron may borrow, renew or request, from what circulation and fee/fine events
//! have told.
//!
//! The modules stand in the order in which a record meets them:
//!
//! ```text
//! Kafka record > kafka/consumer > event/decode > flow/ingest [ store/inbox > patron/loan, patron/fee
//!   > store/merge ] > blocks/evaluate > http/blocks
//! ```
//!
//! Three bands: edges (`kafka`, `store`, `okapi`, `http`), a pure core (`event`, `patron`, `blocks`,
//! `cql`: no `async`, no SQL, no clock) and `flow`, where they meet. `tests/boundaries.rs` holds them.
//! `ARCHITECTURE.md` follows one event through all of it.

pub mod kafka;

pub mod blocks;
pub mod cql;
pub mod event;
pub mod patron;

pub mod services;

pub mod http;
pub mod okapi;
pub mod store;

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod logging;
pub mod metrics;
