//! Rebuilding what is known of patrons from a source, beside what is live (docs/decisions/0018).
//!
//! What the source says is laid out in a shadow (`read`), compared with what is known (`compare`),
//! and what differs is put right a few patrons at a time (`apply`). Nobody at a desk notices: until a
//! patron is put right the old answer holds, and from then on the new one (invariant I5).

mod apply;
mod ask;
mod caution;
mod compare;
mod connections;
mod end;
mod fold;
mod jobs;
mod lay;
mod plan;
mod queue;
mod read;
mod report;
mod storage;
mod together;
mod tokens;
mod topics;
mod turn;
mod wanted;
mod work;

pub use ask::{Ask, Asked, Refused, Source};
pub use caution::Bound;
pub use jobs::Rebuilds;
pub use report::{patron as told_patron, rebuild as told_rebuild, words};
pub use work::Setting;
