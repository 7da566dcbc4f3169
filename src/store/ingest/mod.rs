//! What ingest writes besides the state of patrons: inbox, positions, dead letters and incidents.

pub mod dead_letters;
pub mod discarded_dead_letters;
pub mod event_history;
pub mod inbox;
pub mod inbox_tail;
pub mod incidents;
pub mod instance_reports;
pub mod positions;
