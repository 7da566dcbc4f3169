//! The one place that reads the wall clock.

use chrono::{DateTime, SubsecRound, Utc};

/// Where "now" comes from: the wall, or a test that wants to decide it.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The machine's own clock.
    Wall,
    /// Always this instant.
    Fixed(DateTime<Utc>),
}

impl Clock {
    /// The present instant in whole milliseconds, the resolution of every time in FOLIO's events.
    pub fn now(self) -> DateTime<Utc> {
        let now = match self {
            Self::Wall => wall(),
            Self::Fixed(at) => at,
        };
        now.trunc_subsecs(3)
    }
}

#[expect(clippy::disallowed_methods, reason = "the simulator's only look at the wall clock")]
fn wall() -> DateTime<Utc> {
    Utc::now()
}
