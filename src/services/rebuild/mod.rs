//! Rebuilding what is known of patrons from a source, beside what is live (docs/decisions/0018).
//!
//! What the source says is laid out in a shadow (`read`), compared with what is known (`compare`),
//! and what differs is put right a few patrons at a time (`apply`). Nobody at a desk notices: until
//! a patron is put right the old answer holds, and from then on the new one (invariant I5 of
//! ARCHITECTURE.md).

mod apply;
mod approval;
mod compare;
mod connections;
mod context;
mod filter;
mod finish;
mod fold;
mod load;
mod plan;
mod queue;
mod read;
mod report;
mod request;
mod run_slot;
mod shared_topics;
mod storage_modules;
mod tokens;
mod topics;
mod worker;

pub use approval::ApprovalThreshold;
pub use context::RebuildConfig;
pub use report::{describe_patron, patron_json, rebuild_json};
pub use request::{InvalidRequest, RebuildRequest, RequestedRebuilds, Source};
pub use worker::Rebuilds;
