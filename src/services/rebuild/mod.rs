//! Rebuilds of patron state from a source, next to the live state (docs/decisions/0018).
//!
//! `read` loads the source into a shadow schema. `compare` finds the differences from the stored state, and
//! `apply` writes them, a few patrons at a time. Before `apply` writes a patron, evaluations use the old
//! rows; afterwards they use the new rows (invariant I5 of ARCHITECTURE.md).

mod apply;
mod approval;
mod block_changes;
mod compare;
mod connections;
mod context;
mod diff;
mod error;
mod finish;
mod lease;
mod progress;
mod queue;
mod read;
mod report;
mod request;
mod run;
mod run_slot;
mod target_state;
mod tokens;
mod worker;

pub use report::{ItemDifference, PatronDifference, describe_patron, differences_of_patron};
pub use request::{InvalidRequest, RebuildRequest, RequestedRebuilds, Source};
pub use worker::Rebuilds;
