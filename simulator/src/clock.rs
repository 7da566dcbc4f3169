//! The only module that reads the wall clock.

use chrono::{DateTime, SubsecRound, Utc};

/// The source of the present instant: the wall clock, or a fixed instant for tests.
#[derive(Debug, Clone, Copy)]
pub enum Clock {
    /// The clock of the machine.
    Wall,
    /// Always this instant.
    Fixed(DateTime<Utc>),
}

impl Clock {
    /// Returns the present instant in whole milliseconds, the resolution of every time in FOLIO's events.
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
