//! The interfaces that existing clients call.

pub(super) mod automated_blocks;
pub(super) mod collection;
pub(super) mod conditions;
pub(super) mod events;
pub(crate) mod limits;
pub(crate) mod settings_writer;
pub(super) mod synchronization;
pub(super) mod tenant_jobs;
pub(super) mod user_summary;
