//! Decides whether a patron may borrow, renew or request, based on circulation and fee/fine events.
//!
//! A record passes the modules in this order:
//!
//! ```text
//! Kafka record > kafka/poll_loop > services/ingest/writer > event/decode > services/ingest
//!   [ store/ingest/inbox > patron/loan, patron/fee > store/state/merge ]
//!   > services/evaluation > blocks/evaluate > http/api/automated_blocks
//! ```
//!
//! The crate has three bands: edges (`kafka`, `store`, `okapi`, `oidc`, `http`, `console`), a pure core (`event`, `patron`,
//! `blocks`, `cql`: no `async`, no SQL, no clock), and `services`, which connects edges and core.
//! `tests/repository/boundaries.rs` checks the dependencies between the bands. `ARCHITECTURE.md` follows one event
//! through all modules.

pub mod kafka;

pub mod blocks;
pub mod cql;
pub mod event;
pub mod patron;

pub mod services;

pub mod console;
pub mod http;
pub mod oidc;
pub mod okapi;
pub mod store;

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod logging;
pub mod metrics;
