//! The durations of evaluations in the last hour of this instance, by minute.

use std::{
    array,
    sync::atomic::{AtomicI64, AtomicU32, Ordering::Relaxed},
    time::Duration,
};

use chrono::{DateTime, Utc};

/// Number of minutes that are counted.
pub const MINUTES: usize = 60;

/// Number of ranges of durations. The last range has no upper bound.
const RANGES: usize = 46;

/// Upper bound of the first range in microseconds. Each bound is a third greater than the one before, so a percentile
/// is exact to a third, and the greatest bound is almost a minute.
const FIRST_BOUND_MICROS: f64 = 100.0;
const GROWTH: f64 = 4.0 / 3.0;

/// The counts of one minute.
struct Minute {
    /// The minute since the epoch; another minute starts with empty counts.
    number: AtomicI64,
    counts: [AtomicU32; RANGES],
}

/// The durations of evaluations of all tenants.
pub struct LatencyHistory {
    minutes: [Minute; MINUTES],
}

/// What is known of one minute.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct MinuteLatency {
    /// Number of evaluations.
    pub evaluations: u32,
    /// Upper bound of the 99th percentile in milliseconds; 0 without evaluations.
    pub p99_millis: f64,
}

impl Default for LatencyHistory {
    fn default() -> Self {
        let minute = |_| Minute {
            number: AtomicI64::new(-1),
            counts: array::from_fn(|_| AtomicU32::new(0)),
        };
        Self { minutes: array::from_fn(minute) }
    }
}

impl LatencyHistory {
    /// Counts an evaluation. Two threads that start a minute at once may lose some counts of it.
    pub fn record(&self, took: Duration, now: DateTime<Utc>) {
        let number = minute_of(now);
        let minute = &self.minutes[slot_of(number)];
        if minute.number.load(Relaxed) != number && minute.number.swap(number, Relaxed) != number {
            minute.counts.iter().for_each(|count| count.store(0, Relaxed));
        }
        minute.counts[range_of(took)].fetch_add(1, Relaxed);
    }

    /// Returns the last hour, oldest minute first; the last one is not over.
    pub fn last_hour(&self, now: DateTime<Utc>) -> [MinuteLatency; MINUTES] {
        let last = minute_of(now);
        let first = last - MINUTES as i64 + 1;
        array::from_fn(|index| {
            let number = first + index as i64;
            let minute = &self.minutes[slot_of(number)];
            if minute.number.load(Relaxed) == number {
                MinuteLatency::of(&minute.counts)
            } else {
                MinuteLatency::default()
            }
        })
    }
}

impl MinuteLatency {
    fn of(counts: &[AtomicU32; RANGES]) -> Self {
        let counts = counts.each_ref().map(|count| count.load(Relaxed));
        let evaluations: u32 = counts.iter().sum();
        let allowed_above = evaluations / 100;
        let mut above = 0;
        for (range, count) in counts.iter().enumerate().rev() {
            above += count;
            if above > allowed_above {
                let p99_millis = bound_micros(range) / 1_000.0;
                return Self { evaluations, p99_millis };
            }
        }
        Self::default()
    }
}

fn minute_of(now: DateTime<Utc>) -> i64 {
    now.timestamp().div_euclid(60)
}

fn slot_of(minute: i64) -> usize {
    // The remainder is from 0 to 59.
    minute.rem_euclid(MINUTES as i64) as usize
}

fn bound_micros(range: usize) -> f64 {
    FIRST_BOUND_MICROS * GROWTH.powi(i32::try_from(range).unwrap_or(i32::MAX))
}

fn range_of(took: Duration) -> usize {
    let micros = took.as_secs_f64() * 1e6;
    if micros <= FIRST_BOUND_MICROS {
        return 0;
    }
    let range = ((micros / FIRST_BOUND_MICROS).ln() / GROWTH.ln()).ceil();
    (range as usize).min(RANGES - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    #[test]
    fn percentile_is_the_bound_of_its_range() {
        let history = LatencyHistory::default();
        for _ in 0..99 {
            history.record(Duration::from_micros(900), at(60));
        }
        history.record(Duration::from_millis(50), at(119));
        let last = history.last_hour(at(100))[MINUTES - 1];
        assert_eq!(last.evaluations, 100);
        // One of a hundred may be slower.
        assert!((0.9..1.2).contains(&last.p99_millis), "{last:?}");
        history.record(Duration::from_millis(50), at(119));
        let last = history.last_hour(at(100))[MINUTES - 1];
        assert!((50.0..67.0).contains(&last.p99_millis), "{last:?}");
        for _ in 0..100 {
            history.record(Duration::from_secs(8), at(119));
        }
        let last = history.last_hour(at(100))[MINUTES - 1];
        assert_eq!(last.evaluations, 201);
        assert!((8_000.0..10_700.0).contains(&last.p99_millis), "{last:?}");
    }

    #[test]
    fn a_minute_of_an_earlier_hour_does_not_count() {
        let history = LatencyHistory::default();
        history.record(Duration::from_millis(1), at(0));
        history.record(Duration::from_millis(1), at(60));
        let evaluations = |now| history.last_hour(at(now)).map(|minute| minute.evaluations);
        assert_eq!(evaluations(60)[MINUTES - 2..], [1, 1]);
        assert_eq!(evaluations(3_600)[0], 1, "the second minute is the oldest one");
        assert_eq!(evaluations(3_600)[1..], [0; MINUTES - 1]);
        history.record(Duration::from_millis(1), at(3_600));
        assert_eq!(evaluations(3_600)[MINUTES - 1], 1, "its slot starts empty");
        assert_eq!(evaluations(7_260), [0; MINUTES]);
    }
}
