//! Loan policies: how long an item is lent, and how long after that nobody complains.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

/// Time after the due date in which a loan is not yet treated as overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GracePeriod {
    /// How many intervals. Policies may say 0, which is no grace at all.
    pub duration: i64,
    /// The unit.
    pub interval_id: Interval,
}

/// Units of a grace period, spelled as FOLIO spells them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Interval {
    Minutes,
    Hours,
    Days,
    Weeks,
    Months,
}

impl GracePeriod {
    /// A grace period of `duration` intervals.
    pub const fn new(duration: i64, interval_id: Interval) -> Self {
        Self { duration, interval_id }
    }
}

/// What a patron takes home decides, with the patron's group, which policy applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Material {
    Book,
    Film,
    CourseReserve,
    Laptop,
}

/// Time for which an item is lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Period {
    /// Counted from the minute of the check-out.
    Hours(i64),
    /// Until the end of the day so many days later.
    Days(i64),
}

impl Period {
    pub(super) fn length(self) -> TimeDelta {
        match self {
            Self::Hours(hours) => TimeDelta::hours(hours),
            Self::Days(days) => TimeDelta::days(days),
        }
    }
}

/// A loan policy.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoanPolicy {
    pub(super) period: Period,
    /// As the policy states it, so possibly of duration 0.
    pub(super) grace: Option<GracePeriod>,
    pub(super) renewals: u8,
}

const fn books(days: i64, grace: Option<GracePeriod>) -> LoanPolicy {
    LoanPolicy { period: Period::Days(days), grace, renewals: 3 }
}

/// Books, one policy for each patron group in the order of [`super::people::GROUPS`].
const BOOKS: [LoanPolicy; 5] = [
    books(21, Some(GracePeriod::new(2, Interval::Days))),
    books(35, Some(GracePeriod::new(1, Interval::Weeks))),
    books(90, Some(GracePeriod::new(1, Interval::Months))),
    books(28, None),
    books(14, Some(GracePeriod::new(0, Interval::Days))),
];

const FILM: LoanPolicy = LoanPolicy {
    period: Period::Days(7),
    grace: Some(GracePeriod::new(36, Interval::Hours)),
    renewals: 1,
};
const COURSE_RESERVE: LoanPolicy = LoanPolicy {
    period: Period::Hours(4),
    grace: Some(GracePeriod::new(10, Interval::Minutes)),
    renewals: 1,
};
const LAPTOP: LoanPolicy = LoanPolicy {
    period: Period::Hours(24),
    grace: Some(GracePeriod::new(2, Interval::Hours)),
    renewals: 0,
};

/// The policy under which a member of the group at this place borrows this material.
pub(super) fn policy(group: usize, material: Material) -> LoanPolicy {
    match material {
        Material::Book => BOOKS[group],
        Material::Film => FILM,
        Material::CourseReserve => COURSE_RESERVE,
        Material::Laptop => LAPTOP,
    }
}
