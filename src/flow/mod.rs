//! Where the edges and the core meet. Only here are transactions begun and committed.

pub mod answer;
mod batch;
pub mod callbacks;
pub mod check;
mod ending;
pub mod gauges;
pub mod housekeeping;
pub mod incidents;
pub mod ingest;
pub mod iteration;
pub mod ledger;
pub mod outcome;
mod pace;
pub mod policy;
pub mod rebuild;
pub mod redrive;
mod share_size;
pub mod standing;
pub mod stop_rule;
pub mod switch;
pub mod takeover;
pub mod telling;
pub mod tenant_jobs;
pub mod tenants;
pub mod user_topics;
pub mod wakes;
