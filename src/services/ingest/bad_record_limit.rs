//! The bad record limit. If so many records of a partition are bad that the code must be wrong, the
//! partition stops. Otherwise all of its records would become dead letters (invariant I8 of
//! ARCHITECTURE.md).

use std::collections::VecDeque;

use crate::config::BadRecordLimit;

/// The last records of one partition since its start, or since an operator resumed it.
#[derive(Debug, Clone, Default)]
pub struct BadRecordWindow {
    consecutive: usize,
    /// The last records, oldest first; `true` for a bad record.
    window: VecDeque<bool>,
    bad_records: usize,
}

impl BadRecordWindow {
    /// Adds a record and returns whether the partition has to stop after it.
    pub fn record(&mut self, is_bad: bool, limit: BadRecordLimit) -> bool {
        if self.window.len() == BadRecordLimit::WINDOW_RECORDS
            && self.window.pop_front() == Some(true)
        {
            self.bad_records -= 1;
        }
        self.window.push_back(is_bad);
        self.bad_records += usize::from(is_bad);
        self.consecutive = if is_bad { self.consecutive + 1 } else { 0 };
        self.is_exceeded(limit)
    }

    /// Counts a record as bad that was added as good. Returns whether the partition has to stop.
    pub fn record_refused(&mut self, limit: BadRecordLimit) -> bool {
        self.bad_records += 1;
        self.consecutive += 1;
        if let Some(last_good) = self.window.iter_mut().rev().find(|bad| !**bad) {
            *last_good = true;
        }
        self.is_exceeded(limit)
    }

    fn is_exceeded(&self, limit: BadRecordLimit) -> bool {
        self.consecutive >= limit.consecutive || self.bad_records >= limit.per_window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: BadRecordLimit = BadRecordLimit { consecutive: 100, per_window: 500 };

    /// Returns the number of records after which the partition stops, if it stops.
    fn stops_after(records: impl IntoIterator<Item = bool>) -> Option<usize> {
        let mut watch = BadRecordWindow::default();
        records.into_iter().position(|bad| watch.record(bad, LIMIT)).map(|at| at + 1)
    }

    #[test]
    fn hundred_consecutive_bad_records_stop_the_partition() {
        assert_eq!(stops_after([true; 200]), Some(100));
        let mut almost = vec![true; 99];
        almost.push(false);
        assert_eq!(stops_after(almost.repeat(1)), None);
    }

    #[test]
    fn half_bad_records_of_the_window_stop_the_partition() {
        assert_eq!(stops_after((0..5000).map(|n| n % 2 == 0)), Some(999));
        assert_eq!(stops_after((0..5000).map(|n| n % 5 < 2)), None);
    }

    #[test]
    fn records_outside_the_window_are_forgotten() {
        let burst = |n: usize| n % 2000 < 400 && n % 5 != 4;
        assert_eq!(stops_after((0..20_000).map(burst)), None);
    }

    #[test]
    fn refused_records_count_as_bad() {
        let mut watch = BadRecordWindow::default();
        assert!(!watch.record(false, LIMIT));
        assert!((1..100).all(|_| !watch.record_refused(LIMIT)));
        assert!(watch.record_refused(LIMIT));
    }
}
