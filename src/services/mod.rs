//! Application services, which connect the edges with the core. Only services begin and commit
//! transactions.

pub mod block_events;
pub mod evaluation;
pub mod forecast;
pub mod freshness;
pub mod gauges;
pub mod ingest;
mod jobs;
pub mod maintenance;
pub mod metrics;
pub mod operator_actions;
pub mod rebuild;
pub mod retry_preview;
pub mod settings_check;
mod storage_page;
pub mod summary_export;
pub mod tenant_lifecycle;
pub mod tenants;
mod throttle;
