//! Overdue arithmetic (docs/contract/evaluation.md#4-overdue): whole minutes, no time zone, no
//! daylight saving.

use chrono::{DateTime, TimeDelta, Utc};

use crate::event::Grace;

const MINUTES_PER_DAY: i64 = 1440;

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

/// Returns the first instant at which a loan is more than `days` overdue, apart from its grace period; `None` if
/// no calendar has the instant.
pub fn more_than_days_from(due_date: DateTime<Utc>, days: i64) -> Option<DateTime<Utc>> {
    let minutes = days.checked_mul(MINUTES_PER_DAY)?.checked_add(1)?;
    due_date.checked_add_signed(TimeDelta::try_minutes(minutes)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::GraceUnit;

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
    fn longest_grace_stays_inside_the_calendar() {
        let grace = Grace { duration: i32::MAX, unit: GraceUnit::Months };
        let due = "9999-12-31T23:59:59.999Z".parse().unwrap();
        assert!(overdue_from(due, Some(grace)) > due);
    }
}
