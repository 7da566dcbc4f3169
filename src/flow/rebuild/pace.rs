//! The share of the time that a rebuild may keep the database busy: the rest is the desk's.

use std::time::{Duration, Instant};

use tokio::time::sleep;

/// Waits after each step so long that steps take no more than their share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Between 0 and 1.
    share: f64,
}

impl Pace {
    /// For a share in percent, 1 to 100.
    pub(super) fn of_percent(percent: u8) -> Self {
        Self { share: f64::from(percent.clamp(1, 100)) / 100.0 }
    }

    /// To be waited for after a step that began then.
    pub(super) async fn keep(self, began: Instant) {
        let pause = began.elapsed().mul_f64(1.0 / self.share - 1.0);
        if pause > Duration::from_millis(1) {
            sleep(pause).await;
        }
    }
}
