//! Overdue arithmetic (docs/contract/evaluation.md#4-overdue): whole minutes, no time zone, no
//! daylight saving.

use std::cmp::min;

use chrono::{DateTime, TimeDelta, Utc};

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

/// Returns the instant from which a loan is overdue: one minute after the end of its grace period.
pub fn overdue_from(due_date: DateTime<Utc>, grace: Option<Grace>) -> DateTime<Utc> {
    due_date + TimeDelta::minutes(grace.map_or(0, Grace::minutes) + 1)
}

/// Returns the whole minutes since the due date once the grace period is over; 0 before.
pub fn overdue_minutes(due_date: DateTime<Utc>, grace: Option<Grace>, now: DateTime<Utc>) -> i64 {
    if now < overdue_from(due_date, grace) { 0 } else { (now - due_date).num_minutes() }
}

/// Returns the days overdue; each begun day counts.
pub fn overdue_days(due_date: DateTime<Utc>, grace: Option<Grace>, now: DateTime<Utc>) -> i64 {
    let minutes = overdue_minutes(due_date, grace, now);
    minutes / MINUTES_PER_DAY + i64::from(minutes % MINUTES_PER_DAY > 0)
}

/// Returns the first instant after `now` at which an overdue loan is one more day overdue.
pub fn next_overdue_day(due_date: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
    let days = overdue_days(due_date, None, now);
    due_date + TimeDelta::minutes(days * MINUTES_PER_DAY + 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(ms).unwrap()
    }

    proptest! {
        /// The original rule of docs/contract/evaluation.md#4-overdue: whole minutes since the due date, if
        /// they exceed the grace period.
        #[test]
        fn overdue_from_matches_the_original_rule(
            due in 0..4_000_000_000_000_i64,
            duration in 1..100_i32,
            unit in proptest::sample::select(GraceUnit::ALL.to_vec()),
            since in -100_000_000_000..100_000_000_000_i64,
        ) {
            let grace = Grace { duration, unit };
            let now = at(due + since);
            let minutes = (now - at(due)).num_minutes();
            let overdue = if now > at(due) && minutes > grace.minutes() { minutes } else { 0 };
            prop_assert_eq!(overdue_minutes(at(due), Some(grace), now), overdue);
            prop_assert_eq!(overdue_from(at(due), Some(grace)) <= now, overdue > 0);
            let days = overdue_days(at(due), Some(grace), now);
            prop_assert_eq!(days, (overdue as f64 / 1440.0).ceil() as i64);
            let at_due = at(due);
            let next = next_overdue_day(at_due, now);
            prop_assert!(next > now);
            let days = |at| overdue_days(at_due, None, at);
            prop_assert_eq!(days(next), days(now) + 1);
            prop_assert_eq!(days(next - TimeDelta::milliseconds(1)), days(now));
        }
    }

    #[test]
    fn grace_units_follow_the_contract_up_to_the_maximum() {
        let minutes = |duration, unit| Grace { duration, unit }.minutes();
        let units = GraceUnit::ALL.map(|unit| minutes(1, unit));
        assert_eq!(units, [1, 60, 1_440, 10_080, 44_640]);
        assert_eq!(minutes(118_000, GraceUnit::Months), 5_267_520_000);
        assert_eq!(minutes(118_100, GraceUnit::Months), 5_270_400_000);
        assert_eq!(minutes(i32::MAX, GraceUnit::Weeks), 5_270_400_000);
    }

    #[test]
    fn longest_grace_stays_inside_the_calendar() {
        let grace = Grace { duration: i32::MAX, unit: GraceUnit::Months };
        let due = "9999-12-31T23:59:59.999Z".parse().unwrap();
        assert!(overdue_from(due, Some(grace)) > due);
    }
}
