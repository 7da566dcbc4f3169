//! Application services, which connect the edges with the core. Only services begin and commit
//! transactions.

pub mod answer;
mod batch;
pub mod block_events;
pub mod callbacks;
pub mod check;
mod ending;
pub mod gauges;
pub mod housekeeping;
pub mod incidents;
pub mod ingest;
pub mod iteration;
pub mod ledger;
mod lifecycle;
mod module_writes;
pub mod outcome;
mod pace;
pub mod parked;
pub mod policy;
pub mod rebuild;
pub mod redrive;
mod share_size;
pub mod single_events;
pub mod standing;
pub mod stop_rule;
pub mod switch;
pub mod takeover;
pub mod tenant_jobs;
pub mod tenants;
pub mod user_topics;
pub mod wakes;
