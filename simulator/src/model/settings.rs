//! How large a library, how many days of it, and which story.

use chrono::{DateTime, DurationRound, TimeDelta, Utc};

/// Events that one patron causes before the days begin: what is on loan then, with its renewals,
/// recalls and fees. Measured over several seeds; a test watches it.
const INITIAL_EVENTS_PER_PATRON: f64 = 5.65;

/// Events that one patron causes on a day of ordinary activity. Measured likewise.
const DAILY_EVENTS_PER_PATRON: f64 = 1.87;

/// What to play. The same settings give the same story, to the byte.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Picks the story: who borrows what, who forgets it, who pays.
    pub seed: u64,
    /// People with a library card.
    pub patrons: u32,
    /// Days of circulation, each of 24 hours; the last one ends at [`Settings::midnight`].
    pub days: u32,
    /// No event is later than this. Ids are drawn from it and the seed, so that two plays of one
    /// story at different times are two different libraries and never meet in a service's data.
    pub end: DateTime<Utc>,
    /// How busy the days are; 1 is an ordinary library.
    pub activity: f64,
    /// Whether loans and users are edited in ways of which only storage tells.
    pub edits: bool,
}

impl Settings {
    /// One ordinary day of a library with 2000 patrons.
    pub fn new(seed: u64, end: DateTime<Utc>) -> Self {
        Self { seed, patrons: 2000, days: 1, end, activity: 1.0, edits: false }
    }

    /// As many patrons as it takes to come near `events`.
    #[must_use]
    pub fn with_patrons_for(mut self, events: u64) -> Self {
        let events_per_patron = INITIAL_EVENTS_PER_PATRON
            + DAILY_EVENTS_PER_PATRON * f64::from(self.days) * self.activity;
        // Saturates for absurd wishes; a library has at least one patron.
        self.patrons = ((events as f64 / events_per_patron) as u32).max(1);
        self
    }

    /// As busy as these patrons have to be to come near `events`.
    #[must_use]
    pub fn with_activity_for(mut self, events: u64) -> Self {
        let patrons = f64::from(self.patrons.max(1));
        let daily_events = events as f64 / patrons - INITIAL_EVENTS_PER_PATRON;
        self.activity =
            (daily_events / (DAILY_EVENTS_PER_PATRON * f64::from(self.days.max(1)))).max(0.05);
        self
    }

    /// The end of the last day. The library lies in whatever time zone it has just turned midnight
    /// in: the last quarter of an hour before [`Settings::end`], as zones differ by quarters.
    pub fn midnight(&self) -> DateTime<Utc> {
        self.end.duration_trunc(TimeDelta::minutes(15)).unwrap_or(self.end)
    }

    /// The beginning of the first day. What lies before it is how the stock on loan came about.
    pub fn first_day(&self) -> DateTime<Utc> {
        self.midnight() - TimeDelta::days(i64::from(self.days))
    }

    /// What a clock in the library shows, in words.
    pub fn time_in_library(&self, clock: DateTime<Utc>) -> String {
        let since = clock - self.first_day();
        if since < TimeDelta::zero() {
            return "before the first day".to_owned();
        }
        let (day, minute) = (since.num_days() + 1, since.num_minutes() % 1440);
        format!("day {day}, {:02}:{:02}", minute / 60, minute % 60)
    }
}
