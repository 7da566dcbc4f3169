//! Grace periods of loans (docs/contract/evaluation.md#4-overdue).

use std::cmp::min;

/// Longest grace period in minutes, ten thousand years; longer ones are cut. The maximum limits every
/// computed instant to the range of PostgreSQL and `chrono`.
const GRACE_MINUTES_MAX: i64 = 10_000 * 366 * 1440;

const MINUTES_PER_DAY: i64 = 1440;

/// The grace period of a loan as of its check-out; a changed due date does not change it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Grace {
    /// Number of units, greater than 0.
    pub duration: i32,
    /// Unit of [`Grace::duration`].
    pub unit: GraceUnit,
}

/// The interval ids of FOLIO's loan policies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GraceUnit {
    /// 1 minute.
    Minutes,
    /// 60 minutes.
    Hours,
    /// 1,440 minutes.
    Days,
    /// 10,080 minutes.
    Weeks,
    /// 44,640 minutes: a month is 31 days.
    Months,
}

impl GraceUnit {
    /// All units, shortest first.
    pub const ALL: [Self; 5] = [Self::Minutes, Self::Hours, Self::Days, Self::Weeks, Self::Months];

    /// Returns the unit with this interval id.
    pub fn parse(interval_id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|unit| unit.name() == interval_id)
    }

    /// Returns the interval id.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minutes => "Minutes",
            Self::Hours => "Hours",
            Self::Days => "Days",
            Self::Weeks => "Weeks",
            Self::Months => "Months",
        }
    }

    fn minutes(self) -> i64 {
        match self {
            Self::Minutes => 1,
            Self::Hours => 60,
            Self::Days => MINUTES_PER_DAY,
            Self::Weeks => 7 * MINUTES_PER_DAY,
            Self::Months => 31 * MINUTES_PER_DAY,
        }
    }
}

impl Grace {
    /// Returns the period in minutes, cut to the maximum.
    pub fn minutes(self) -> i64 {
        min(i64::from(self.duration) * self.unit.minutes(), GRACE_MINUTES_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grace_units_follow_the_contract_up_to_the_maximum() {
        let minutes = |duration, unit| Grace { duration, unit }.minutes();
        let units = GraceUnit::ALL.map(|unit| minutes(1, unit));
        assert_eq!(units, [1, 60, 1_440, 10_080, 44_640]);
        assert_eq!(minutes(118_000, GraceUnit::Months), 5_267_520_000);
        assert_eq!(minutes(118_100, GraceUnit::Months), 5_270_400_000);
        assert_eq!(minutes(i32::MAX, GraceUnit::Weeks), 5_270_400_000);
    }
}
