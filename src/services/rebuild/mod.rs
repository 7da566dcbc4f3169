//! Rebuilds of patron state from a source, next to the live state (docs/decisions/0018).
//!
//! `read` loads the source into a shadow schema. `compare` finds the differences from the stored state, and
//! `apply` writes them, a few patrons at a time. Before `apply` writes a patron, evaluations use the old
//! rows; afterwards they use the new rows (invariant I5 of ARCHITECTURE.md).

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
