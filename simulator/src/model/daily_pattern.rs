//! The distribution of activities over the hours of a day.

use chrono::TimeDelta;
use rand::Rng;

use super::random::{SeededRng, weighted_index};

/// The activities with different hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DailyPattern {
    /// Returns: many in the morning, when the book drop is emptied, then a few.
    Returns,
    /// Visits with check-outs: most around lunch.
    Lending,
    /// Work of the staff.
    StaffWork,
    /// Online actions of patrons.
    Online,
}

impl DailyPattern {
    /// Returns the hours of the day with their weights.
    const fn hours(self) -> &'static [(i64, u32)] {
        match self {
            Self::Returns => &[(8, 9), (9, 8), (10, 4), (13, 2), (15, 2), (17, 3), (20, 1)],
            Self::Lending => &[(9, 2), (10, 3), (11, 5), (12, 9), (13, 8), (15, 4), (18, 3)],
            Self::StaffWork => &[(9, 4), (10, 5), (11, 4), (13, 3), (14, 5), (15, 4), (16, 2)],
            Self::Online => &[(7, 2), (12, 2), (18, 4), (19, 5), (20, 6), (21, 5), (22, 3)],
        }
    }

    /// Returns a random time of day, counted from midnight.
    pub(super) fn time_of_day(self, rng: &mut SeededRng) -> TimeDelta {
        let hours = self.hours();
        let weights: [u32; 7] = std::array::from_fn(|at| hours[at].1);
        let (hour, _) = hours[weighted_index(rng, &weights)];
        TimeDelta::milliseconds(hour * 3_600_000 + rng.random_range(0..3_600_000))
    }
}
