//! All tests that need more than one module: properties of the pure core, the SQL against the pure core,
//! and stories. Stories run the real service with a real PostgreSQL and a real Kafka.
//!
//! `make test` provides both. All tests are one binary, so the linker runs once.
#![allow(clippy::unwrap_used, reason = "a panic fails the test")]

mod conformance;
mod core;
mod database;
mod repository;
mod stories;
mod support;
