//! The throttle of long jobs: it limits their share of database time, so that requests stay fast.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::time::sleep;

/// Work that may run in one burst after idle time; a waiting request hardly notices a burst of this
/// length.
const BURST_MAX: Duration = Duration::from_millis(500);

/// A limiter that pauses after each step, so that all steps together use at most their share of time.
#[derive(Debug, Clone)]
pub(super) struct Throttle {
    /// Share of time, between 0 and 1.
    share: f64,
    debt: Arc<Mutex<Debt>>,
}

/// Database time used beyond the share, at an instant.
#[derive(Debug)]
struct Debt {
    time: Duration,
    as_of: Instant,
}

impl Throttle {
    /// Creates a throttle for a share of 1 to 100 percent.
    pub(super) fn from_percent(percent: u8) -> Self {
        let debt = Debt { time: Duration::ZERO, as_of: Instant::now() };
        Self { share: f64::from(percent.clamp(1, 100)) / 100.0, debt: Arc::new(Mutex::new(debt)) }
    }

    /// Sleeps after a step that started at `began`, as long as the share requires.
    pub(super) async fn rest_after(&self, began: Instant) {
        let pause = self.pause(began, Instant::now());
        if pause > Duration::from_millis(1) {
            sleep(pause).await;
        }
    }

    fn pause(&self, began: Instant, now: Instant) -> Duration {
        let mut debt = self.debt.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = now.saturating_duration_since(debt.as_of);
        let busy = debt.time + now.saturating_duration_since(began);
        *debt = Debt { time: busy.saturating_sub(passed.mul_f64(self.share)), as_of: now };
        debt.time.saturating_sub(BURST_MAX).div_f64(self.share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_take_their_share_of_time() {
        for percent in [10, 50, 100] {
            let throttle = Throttle::from_percent(percent);
            let (began, step) = (Instant::now(), Duration::from_millis(40));
            let (mut now, mut busy) = (began, Duration::ZERO);
            for _ in 0..1000 {
                let end = now + step;
                busy += step;
                now = end + throttle.pause(now, end);
            }
            let share = busy.as_secs_f64() / (now - began).as_secs_f64();
            let wanted = f64::from(percent) / 100.0;
            assert!((wanted..wanted * 1.15).contains(&(share + 1e-6)), "{percent}: {share}");
        }
    }

    #[test]
    fn no_pause_after_idle_time() {
        let throttle = Throttle::from_percent(50);
        let mut now = Instant::now();
        for _ in 0..10 {
            let end = now + Duration::from_millis(300);
            assert_eq!(throttle.pause(now, end), Duration::ZERO);
            now = end + Duration::from_secs(1);
        }
    }
}
