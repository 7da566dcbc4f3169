//! The one wall clock. Everything else takes the time as a parameter.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SubsecRound, Utc};
use serde::Serializer;

/// Tells the time to the millisecond, which is the resolution of every rule.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    fixed: Option<Arc<Mutex<DateTime<Utc>>>>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until it is set: for tests.
    pub fn fixed_at(instant: DateTime<Utc>) -> Self {
        Self { fixed: Some(Arc::new(Mutex::new(instant))) }
    }

    /// Sets a standing clock; the machine's clock can't be set.
    pub fn set(&self, instant: DateTime<Utc>) {
        if let Some(hands) = &self.fixed {
            *hands.lock().unwrap_or_else(PoisonError::into_inner) = instant;
        }
    }

    /// The time.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> DateTime<Utc> {
        let now = match &self.fixed {
            Some(hands) => *hands.lock().unwrap_or_else(PoisonError::into_inner),
            None => Utc::now(),
        };
        now.trunc_subsecs(3)
    }
}

/// The first and the last instant of the years that four digits can write: years 1 to 9999.
const FORMATTABLE_MILLIS: [i64; 2] = [-62_135_596_800_000, 253_402_300_799_999];

/// An instant as clients read it (docs/contract/http-api.md#13-dates):
/// `2026-09-14T21:59:59.000+00:00`. What is beyond the years that they read is as far as those go.
pub fn format_instant(instant: DateTime<Utc>) -> String {
    let [first, last] = FORMATTABLE_MILLIS;
    let milliseconds = instant.timestamp_millis().clamp(first, last);
    let instant = DateTime::from_timestamp_millis(milliseconds).unwrap_or(instant);
    instant.format("%Y-%m-%dT%H:%M:%S%.3f+00:00").to_string()
}

/// [`written`], for a member of what is answered as JSON.
pub fn serialize<S: Serializer>(instant: &DateTime<Utc>, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&format_instant(*instant))
}

/// As [`serialize`], for a member that may be null.
pub fn serialize_option<S: Serializer>(
    instant: &Option<DateTime<Utc>>,
    to: S,
) -> Result<S::Ok, S::Error> {
    match instant {
        Some(instant) => serialize(instant, to),
        None => to.serialize_none(),
    }
}
