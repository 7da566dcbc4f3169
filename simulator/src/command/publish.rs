//! Publishes a play to Kafka at its pace, and then a trickle of events.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep, sleep_until};

use super::options::Pace;
use crate::clock::Clock;
use crate::desk::Desk;
use crate::kafka::Publisher;
use crate::model::{Event, Settings};
use crate::pause::Pause;
use crate::stop::StopSignal;
use crate::terminal::Progress;
use crate::wire::{Play, Step};

/// The time between two progress updates.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The number of records at full speed after which the task yields.
const YIELD_RECORDS: u64 = 256;

/// Publishes the rest of the play and returns the number of published records. The events before the first
/// day are published at once, the days at their pace. A stop closes the play, so that the truth matches the
/// published records. A pause starts between two records; every published record is acknowledged first, and
/// a new producer continues after the pause.
pub(super) async fn all(
    play: &mut Play,
    publisher: &mut Publisher,
    pace: Pace,
    (stop, pause): (&StopSignal, &Pause),
    progress: &mut Progress,
) -> anyhow::Result<u64> {
    let settings = play.settings().clone();
    let mut days = None;
    let mut published = 0;
    while let Some(Step { clock, record }) = play.next() {
        if stop.is_requested() {
            play.close();
        } else if let (Pace::Times(times), true) = (pace, clock >= settings.first_day()) {
            let days = days.get_or_insert_with(|| Days {
                started_at: Instant::now(),
                times,
                settings: &settings,
            });
            let is_interrupted = |_: &DateTime<Utc>| stop.is_requested() || pause.is_requested();
            while let Some(now) = days.clock_before(clock).filter(|now| !is_interrupted(now)) {
                progress.show(published, &settings.time_in_library(now));
                sleep_until(days.instant(clock).min(Instant::now() + PROGRESS_INTERVAL)).await;
            }
        }
        if pause.is_requested() {
            acknowledge_pause(pause, publisher, stop).await?;
        }
        publisher.publish(&record).await?;
        published += 1;
        if published % YIELD_RECORDS == 0 {
            progress.show(published, &settings.time_in_library(clock));
            tokio::task::yield_now().await;
        }
    }
    Ok(published)
}

async fn acknowledge_pause(
    pause: &Pause,
    publisher: &mut Publisher,
    stop: &StopSignal,
) -> anyhow::Result<()> {
    publisher.flush(Publisher::FLUSH_TIMEOUT).await?;
    let mut stop = stop.clone();
    tokio::select! {
        () = pause.acknowledge() => publisher.recreate_producer(),
        () = stop.requested() => Ok(()),
    }
}

/// The mapping between the library's clock and real time.
struct Days<'a> {
    started_at: Instant,
    times: f64,
    settings: &'a Settings,
}

impl Days<'_> {
    /// Returns the real instant of a time of the library's clock.
    fn instant(&self, clock: DateTime<Utc>) -> Instant {
        let passed = (clock - self.settings.first_day()).to_std().unwrap_or_default();
        self.started_at + passed.div_f64(self.times)
    }

    /// Returns the present time of the library's clock, if it is before `clock`.
    fn clock_before(&self, clock: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let remaining = self.instant(clock).checked_duration_since(Instant::now())?;
        let remaining = TimeDelta::from_std(remaining.mul_f64(self.times)).unwrap_or_default();
        (remaining > TimeDelta::zero()).then(|| clock - remaining)
    }
}

/// Publishes about this many events per second, each at its real time, until a stop is requested. Performs the
/// transactions of the desk as soon as they are requested.
pub(super) async fn trickle(
    play: &mut Play,
    publisher: &Publisher,
    (per_second, desk): (f64, &Desk),
    stop: &mut StopSignal,
    mut on_event: impl FnMut(&Event, &Play),
) -> anyhow::Result<()> {
    let pause = Duration::from_secs_f64(1.0 / per_second.max(0.001));
    let mut requested = None;
    while !stop.is_requested() {
        let now = Clock::Wall.now();
        let events = match requested.take() {
            Some(transaction) => play.perform(transaction, now),
            None => play.advance_to(now),
        };
        for (event, records) in events {
            for record in &records {
                publisher.publish(record).await?;
            }
            on_event(&event, play);
        }
        tokio::select! {
            () = sleep(pause) => {}
            transaction = desk.next() => requested = Some(transaction),
            () = stop.requested() => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;
    use crate::wire::{Faults, Wire};

    #[tokio::test]
    async fn pause_leaves_no_unacknowledged_record() {
        let cluster = MockCluster::new(1).expect("a mock cluster starts");
        let wire = Wire::new("mock", "northlib");
        for topic in wire.topics() {
            cluster.create_topic(&topic.name, topic.partitions, 1).expect("the topic is created");
        }
        let end = "2026-09-15T00:00:00Z".parse().expect("the text is a time");
        let settings = Settings { patrons: 500, ..Settings::new(4, end) };
        let mut play = Play::new(&settings, &wire, Faults::NONE);
        let mut publisher =
            Publisher::new(&cluster.bootstrap_servers()).expect("the producer is created");

        let (stop, pause, mut progress) =
            (StopSignal::never(), Pause::default(), Progress::start());
        let signals = (&stop, &pause);
        // `all` is polled first, so some records are queued when the pause is requested. Their producer is
        // dropped after the pause, and it would lose its unacknowledged records.
        let published = all(&mut play, &mut publisher, Pace::Max, signals, &mut progress);
        let request = async {
            pause.request().await;
            pause.release();
        };
        let (published, ()) = tokio::join!(published, request);
        let published = published.expect("every record is queued");
        assert!(published > 2 * YIELD_RECORDS, "{published}");
        let acknowledged = publisher.flush(Duration::from_secs(30)).await;
        assert_eq!(acknowledged.expect("every record is acknowledged"), published);
    }

    #[tokio::test]
    async fn library_clock_runs_faster_than_real_time() {
        let end = "2026-09-15T00:00:00Z".parse().expect("the text is a time");
        let settings = Settings::new(1, end);
        // An hour of the library takes a second.
        let started_at = Instant::now();
        let days = Days { started_at, times: 3600.0, settings: &settings };
        let after = |hours| settings.first_day() + TimeDelta::hours(hours);
        assert_eq!(days.instant(after(12)), started_at + Duration::from_secs(12));
        let clock = days.clock_before(after(12)).expect("the instant lies in the future");
        assert!(clock >= after(0) && clock < after(6), "{clock}");
        let late = Days { started_at: started_at - Duration::from_secs(13), ..days };
        assert_eq!(late.clock_before(after(12)), None, "the instant has passed");
    }
}
