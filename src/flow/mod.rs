//! Where the edges and the core meet. Only here are transactions begun and committed.

pub mod answer;
pub mod check;
pub mod housekeeping;
pub mod ingest;
pub mod policy;
pub mod tenants;
