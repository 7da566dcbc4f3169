//! Sends a play to Kafka at its pace, and goes on with a trickle.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep, sleep_until};

use super::options::Pace;
use crate::clock::Clock;
use crate::console::Progress;
use crate::kafka::Publisher;
use crate::model::{Event, Settings};
use crate::stop::Stop;
use crate::wire::{Play, Step};

/// Between two looks at the progress.
const GLANCE: Duration = Duration::from_millis(100);

/// Other tasks get a turn after so many records at full speed.
const TURN: u64 = 256;

/// Publishes all that is left of the play and returns how many records that was. What happened
/// before the first day goes out at once, the days at their pace. A stop closes the play, so that
/// its truth is true of what was published.
pub(super) async fn all(
    play: &mut Play,
    publisher: &Publisher,
    pace: Pace,
    stop: &Stop,
    progress: &mut Progress,
) -> anyhow::Result<u64> {
    let settings = play.settings().clone();
    let mut days = None;
    let mut published = 0;
    while let Some(Step { clock, record }) = play.next() {
        if stop.is_asked_for() {
            play.close();
        } else if let (Pace::Times(times), true) = (pace, clock >= settings.first_day()) {
            let days = days.get_or_insert_with(|| Days {
                begun: Instant::now(),
                times,
                settings: &settings,
            });
            while let Some(now) = days.clock_before(clock).filter(|_| !stop.is_asked_for()) {
                progress.show(published, &settings.time_in_library(now));
                sleep_until(days.instant(clock).min(Instant::now() + GLANCE)).await;
            }
        }
        publisher.publish(&record).await?;
        published += 1;
        if published % TURN == 0 {
            progress.show(published, &settings.time_in_library(clock));
            tokio::task::yield_now().await;
        }
    }
    Ok(published)
}

/// The days as they pass outside.
struct Days<'a> {
    begun: Instant,
    times: f64,
    settings: &'a Settings,
}

impl Days<'_> {
    /// When the library's clock shows this.
    fn instant(&self, clock: DateTime<Utc>) -> Instant {
        let passed = (clock - self.settings.first_day()).to_std().unwrap_or_default();
        self.begun + passed.div_f64(self.times)
    }

    /// What the library's clock shows now, if that is before the given time.
    fn clock_before(&self, clock: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let left = self.instant(clock).checked_duration_since(Instant::now())?;
        let left = TimeDelta::from_std(left.mul_f64(self.times)).unwrap_or_default();
        (left > TimeDelta::zero()).then(|| clock - left)
    }
}

/// Publishes about so many events in a second, each at its true time, until it is time to stop.
pub(super) async fn trickle(
    play: &mut Play,
    publisher: &Publisher,
    per_second: f64,
    stop: &mut Stop,
    mut tell: impl FnMut(&Event, &Play),
) -> anyhow::Result<()> {
    let pause = Duration::from_secs_f64(1.0 / per_second.max(0.001));
    while !stop.is_asked_for() {
        for (event, records) in play.go_on(Clock::Wall.now()) {
            for record in &records {
                publisher.publish(record).await?;
            }
            tell(&event, play);
        }
        tokio::select! {
            () = sleep(pause) => {}
            () = stop.asked_for() => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_clock_of_the_library_runs_ahead_of_ours() {
        let end = "2026-09-15T00:00:00Z".parse().expect("this is a time");
        let settings = Settings::new(1, end);
        // An hour of the library passes in a second.
        let begun = Instant::now();
        let days = Days { begun, times: 3600.0, settings: &settings };
        let after = |hours| settings.first_day() + TimeDelta::hours(hours);
        assert_eq!(days.instant(after(12)), begun + Duration::from_secs(12));
        let clock = days.clock_before(after(12)).expect("it is not that late");
        assert!(clock >= after(0) && clock < after(6), "{clock}");
        let late = Days { begun: begun - Duration::from_secs(13), ..days };
        assert_eq!(late.clock_before(after(12)), None, "that time has passed");
    }
}
