//! Messages: pending patrons, the outbox and summary exports.

pub mod exports;
pub mod outbox;
pub mod pending_patrons;
