//! When so many records of a partition are bad that the code must be wrong and not the data, the
//! partition stops, instead of being drained into dead letters (invariant I8 of ARCHITECTURE.md).

use std::collections::VecDeque;

/// The limits, for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadRecordLimit {
    /// Bad records in a row.
    pub consecutive: usize,
    /// Bad records among the last [`StopRule::WINDOW`].
    pub per_window: usize,
}

impl BadRecordLimit {
    /// How many records of a partition are looked back at.
    pub const WINDOW_RECORDS: usize = 1000;
}

/// What was seen of one partition since it was taken over, or resumed by an operator.
#[derive(Debug, Clone, Default)]
pub struct BadRecordWindow {
    consecutive: usize,
    /// The last records, the oldest first; `true` for a bad one.
    window: VecDeque<bool>,
    bad_records: usize,
}

impl BadRecordWindow {
    /// Takes note of a record, and tells whether the partition has to stop after it.
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

    /// A record that was noted as good turned out to be bad.
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

    /// After how many records the partition stops, if it does.
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
