//! The interface of operators, and the endpoints of the process.

pub(super) mod admin;
pub(super) mod dead_letters;
pub(super) mod exports;
pub(super) mod ingest;
pub(crate) mod rebuild_bodies;
pub(super) mod rebuilds;
