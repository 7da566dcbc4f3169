//! The settings of a library: its size, its days and its seed.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

/// Events per patron before the first day: the initial loans with their renewals, recalls and fees. The
/// number is a mean over several seeds; a test checks it.
const INITIAL_EVENTS_PER_PATRON: f64 = 5.65;

/// Events per patron on a day of activity 1, measured in the same way.
const DAILY_EVENTS_PER_PATRON: f64 = 1.87;

/// The settings of a play. Equal settings give an equal history, to the byte.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The seed of the history.
    pub seed: u64,
    /// The number of patrons.
    pub patrons: u32,
    /// The number of days of 24 hours; the last day ends at [`Settings::midnight`].
    pub days: u32,
    /// No event is later. Ids depend on the end and the seed. Two plays of one history at different times
    /// have different ids, so their data in a service never mix.
    pub end: DateTime<Utc>,
    /// The activity of the days; 1 is an ordinary library.
    pub activity: f64,
    /// Whether loans and users are edited in ways that only storage publishes.
    pub edits: bool,
}

impl Settings {
    /// Returns one ordinary day of a library with 2000 patrons.
    pub fn new(seed: u64, end: DateTime<Utc>) -> Self {
        Self { seed, patrons: 2000, days: 1, end, activity: 1.0, edits: false }
    }

    /// Sets the number of patrons for about `events` events.
    #[must_use]
    pub fn with_patrons_for(mut self, events: u64) -> Self {
        let events_per_patron = INITIAL_EVENTS_PER_PATRON
            + DAILY_EVENTS_PER_PATRON * f64::from(self.days) * self.activity;
        // The conversion saturates for huge numbers; a library has at least one patron.
        self.patrons = ((events as f64 / events_per_patron) as u32).max(1);
        self
    }

    /// Sets the activity for about `events` events.
    #[must_use]
    pub fn with_activity_for(mut self, events: u64) -> Self {
        let patrons = f64::from(self.patrons.max(1));
        let daily_events = events as f64 / patrons - INITIAL_EVENTS_PER_PATRON;
        self.activity =
            (daily_events / (DAILY_EVENTS_PER_PATRON * f64::from(self.days.max(1)))).max(0.05);
        self
    }

    /// Returns the end of the last day: the last quarter of an hour at or before [`Settings::end`]. The
    /// library is in a time zone with midnight at this instant; zones differ by quarters.
    pub fn midnight(&self) -> DateTime<Utc> {
        self.end.duration_trunc(TimeDelta::minutes(15)).unwrap_or(self.end)
    }

    /// Returns the start of the first day. The history before it creates the initial loans.
    pub fn first_day(&self) -> DateTime<Utc> {
        self.midnight() - TimeDelta::days(i64::from(self.days))
    }

    /// Describes a time of the library's clock.
    pub fn time_in_library(&self, clock: DateTime<Utc>) -> String {
        let since = clock - self.first_day();
        if since < TimeDelta::zero() {
            return "before the first day".to_owned();
        }
        let (day, minute) = (since.num_days() + 1, since.num_minutes() % 1440);
        format!("day {day}, {:02}:{:02}", minute / 60, minute % 60)
    }
}
