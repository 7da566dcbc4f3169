//! The share of the time that long work may keep the database busy: the rest is the desk's.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::sleep;

/// So much may be done in one go after a time without: more is not noticed by anybody who waits for one answer.
const BURST: Duration = Duration::from_millis(500);

/// Waits after steps so long that all steps take no more than their share.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// Between 0 and 1.
    share: f64,
    owed: Arc<Mutex<Owed>>,
}

/// How long the database was kept busy beyond the share, as of an instant.
#[derive(Debug)]
struct Owed {
    time: Duration,
    at: Instant,
}

impl Pace {
    /// For a share in percent, 1 to 100.
    pub(super) fn of_percent(percent: u8) -> Self {
        let owed = Owed { time: Duration::ZERO, at: Instant::now() };
        Self { share: f64::from(percent.clamp(1, 100)) / 100.0, owed: Arc::new(Mutex::new(owed)) }
    }

    /// To be waited for after a step that began then.
    pub(super) async fn keep(&self, began: Instant) {
        let pause = self.pause(began, Instant::now());
        if pause > Duration::from_millis(1) {
            sleep(pause).await;
        }
    }

    fn pause(&self, began: Instant, now: Instant) -> Duration {
        let mut owed = self.owed.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(owed.at);
        let busy = owed.time + now.saturating_duration_since(began);
        *owed = Owed { time: busy.saturating_sub(passed.mul_f64(self.share)), at: now };
        owed.time.saturating_sub(BURST).div_f64(self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_take_their_share_and_no_more_but_for_what_is_done_in_one_go() {
        for percent in [10, 50, 100] {
            let pace = Pace::of_percent(percent);
            let (began, step) = (Instant::now(), Duration::from_millis(40));
            let (mut now, mut busy) = (began, Duration::ZERO);
            for _ in 0..1000 {
                let end = now + step;
                busy += step;
                now = end + pace.pause(now, end);
            }
            let share = busy.as_secs_f64() / (now - began).as_secs_f64();
            let wanted = f64::from(percent) / 100.0;
            assert!((wanted..wanted * 1.15).contains(&(share + 1e-6)), "{percent}: {share}");
        }
    }

    #[test]
    fn nobody_waits_after_a_time_without_a_step() {
        let pace = Pace::of_percent(50);
        let mut now = Instant::now();
        for _ in 0..10 {
            let end = now + Duration::from_millis(300);
            assert_eq!(pace.pause(now, end), Duration::ZERO);
            now = end + Duration::from_secs(1);
        }
    }
}
