//! Loan policies: the loan period, the grace period and the renewals.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

/// The time after the due date in which a loan is not yet treated as overdue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GracePeriod {
    /// The number of intervals; 0 means no grace.
    pub duration: i64,
    /// The unit.
    pub interval_id: Interval,
}

/// The units of a grace period, in FOLIO's spelling.
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
    /// Returns a grace period of `duration` intervals.
    pub const fn new(duration: i64, interval_id: Interval) -> Self {
        Self { duration, interval_id }
    }
}

/// The kind of an item; with the patron's group it determines the loan policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Material {
    Book,
    Film,
    CourseReserve,
    Laptop,
}

/// The loan period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Period {
    /// Hours, from the minute of the check-out.
    Hours(i64),
    /// Days; the loan is due at the end of the last day.
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

/// The rules of a loan.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoanPolicy {
    pub(super) period: Period,
    /// The grace period of the policy, possibly of duration 0.
    pub(super) grace: Option<GracePeriod>,
    pub(super) renewals: u8,
}

const fn books(days: i64, grace: Option<GracePeriod>) -> LoanPolicy {
    LoanPolicy { period: Period::Days(days), grace, renewals: 3 }
}

/// The policies for books, one per patron group in the order of [`super::people::GROUPS`].
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

/// Returns the policy for the material and the group with this index.
pub(super) fn policy(group: usize, material: Material) -> LoanPolicy {
    match material {
        Material::Book => BOOKS[group],
        Material::Film => FILM,
        Material::CourseReserve => COURSE_RESERVE,
        Material::Laptop => LAPTOP,
    }
}
