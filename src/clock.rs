//! The only wall clock of the service. All other code receives the time as a parameter.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serializer;

/// A clock with a resolution of one millisecond, like every rule about time.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    fixed: Option<Arc<Mutex<DateTime<Utc>>>>,
}

impl Clock {
    /// Returns the clock of the host.
    pub fn system() -> Self {
        Self::default()
    }

    /// Returns a clock for tests that only moves when it is set.
    pub fn fixed_at(instant: DateTime<Utc>) -> Self {
        Self { fixed: Some(Arc::new(Mutex::new(instant))) }
    }

    /// Sets a test clock; has no effect on the clock of the host.
    pub fn set(&self, instant: DateTime<Utc>) {
        if let Some(hands) = &self.fixed {
            *hands.lock().unwrap_or_else(PoisonError::into_inner) = instant;
        }
    }

    /// Returns the current time, truncated to milliseconds.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> DateTime<Utc> {
        let now = match &self.fixed {
            Some(hands) => *hands.lock().unwrap_or_else(PoisonError::into_inner),
            None => Utc::now(),
        };
        now.trunc_subsecs(3)
    }
}

/// The first and the last instant of the years 1 to 9999, in milliseconds since the Unix epoch.
const FORMATTABLE_MILLIS: [i64; 2] = [-62_135_596_800_000, 253_402_300_799_999];

/// Formats an instant for clients (docs/contract/http-api.md#13-dates):
/// `2026-09-14T21:59:59.000+00:00`. An instant outside the years 1 to 9999 becomes the nearest
/// instant within.
pub fn format_instant(instant: DateTime<Utc>) -> String {
    let [first, last] = FORMATTABLE_MILLIS;
    let milliseconds = instant.timestamp_millis().clamp(first, last);
    let instant = DateTime::from_timestamp_millis(milliseconds).unwrap_or(instant);
    instant.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

/// Serializes an instant like [`format_instant`].
pub fn serialize<S: Serializer>(instant: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format_instant(*instant))
}

/// Serializes an optional instant like [`serialize`]; `None` becomes null.
pub fn serialize_option<S: Serializer>(
    instant: &Option<DateTime<Utc>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match instant {
        Some(instant) => serialize(instant, to),
        None => to.serialize_none(),
    }
}
