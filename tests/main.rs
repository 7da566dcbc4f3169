//! All tests that need more than one module: properties of the pure core, the SQL against the pure core,
//! and stories. Stories run the real service with a real PostgreSQL and a real Kafka.
//!
//! `make test` provides both. All tests are one binary, so the linker runs once.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod assignment;
mod boundaries;
mod citations;
mod conformance;
mod contract;
mod cql;
mod decoding;
mod evaluation;
mod fuzzing;
mod hazards;
mod identity;
mod inbox;
mod java_switch;
mod merging;
mod mutants_list;
mod progress;
mod pruning;
mod reconciling;
mod schema_page;
mod schemas;
mod settings_page;
mod simulation;
mod sql;
mod start_offset;
mod stories;
mod support;
mod vocabulary;
