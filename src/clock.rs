//! The one wall clock. Everything else takes the time as a parameter.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, SubsecRound, Utc};

/// Tells the time to the millisecond, which is the resolution of every rule.
#[derive(Debug, Clone, Default)]
pub struct Clock {
    hands: Option<Arc<Mutex<DateTime<Utc>>>>,
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Self {
        Self::default()
    }

    /// A clock that stands still until it is set: for tests.
    pub fn standing_at(instant: DateTime<Utc>) -> Self {
        Self { hands: Some(Arc::new(Mutex::new(instant))) }
    }

    /// Sets a standing clock; the machine's clock can't be set.
    pub fn set(&self, instant: DateTime<Utc>) {
        if let Some(hands) = &self.hands {
            *hands.lock().unwrap_or_else(PoisonError::into_inner) = instant;
        }
    }

    /// The time.
    #[expect(clippy::disallowed_methods, reason = "this is the one place")]
    pub fn now(&self) -> DateTime<Utc> {
        let now = match &self.hands {
            Some(hands) => *hands.lock().unwrap_or_else(PoisonError::into_inner),
            None => Utc::now(),
        };
        now.trunc_subsecs(3)
    }
}
