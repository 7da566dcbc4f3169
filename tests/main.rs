//! All tests that need more than one module: properties of the pure core, the SQL against the pure
//! core, and stories through the real service with a real PostgreSQL and a real Kafka.
//!
//! `make test` provides both. One binary, so that everything links once.
#![allow(clippy::unwrap_used, reason = "a test that panics has failed, which is its work")]

mod assignment;
mod boundaries;
mod conformance;
mod contract;
mod cql;
mod decoding;
mod evaluation;
mod fuzzing;
mod hazards;
mod identity;
mod inbox;
mod merging;
mod progress;
mod pruning;
mod reconciling;
mod schemas;
mod scopes;
mod simulation;
mod sql;
mod stories;
mod switching;
mod takeover;

// What tests are made with.
mod binary;
mod consumer;
mod engines;
mod facts;
mod history;
mod java;
mod log;
mod proxy;
mod raw;
mod shelf;
mod told;
mod users;
mod watch;
mod world;
