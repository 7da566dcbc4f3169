//! When so many records of a partition are bad that the code must be wrong and not the data, the
//! partition stops, instead of being drained into dead letters (invariant I8).

use std::collections::VecDeque;

/// The limits, for one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StopRule {
    /// Bad records in a row.
    pub in_a_row: usize,
    /// Bad records among the last [`StopRule::WINDOW`].
    pub of_window: usize,
}

impl StopRule {
    /// How many records of a partition are looked back at.
    pub const WINDOW: usize = 1000;
}

/// What was seen of one partition since it was taken over, or resumed by an operator.
#[derive(Debug, Clone, Default)]
pub struct Watch {
    run: usize,
    /// The last records, the oldest first; `true` for a bad one.
    window: VecDeque<bool>,
    bad: usize,
}

impl Watch {
    /// Takes note of a record, and tells whether the partition has to stop after it.
    pub fn note(&mut self, bad: bool, rule: StopRule) -> bool {
        if self.window.len() == StopRule::WINDOW && self.window.pop_front() == Some(true) {
            self.bad -= 1;
        }
        self.window.push_back(bad);
        self.bad += usize::from(bad);
        self.run = if bad { self.run + 1 } else { 0 };
        self.breaks(rule)
    }

    /// A record that was noted as good turned out to be bad.
    pub fn note_refused(&mut self, rule: StopRule) -> bool {
        self.bad += 1;
        self.run += 1;
        if let Some(last_good) = self.window.iter_mut().rev().find(|bad| !**bad) {
            *last_good = true;
        }
        self.breaks(rule)
    }

    fn breaks(&self, rule: StopRule) -> bool {
        self.run >= rule.in_a_row || self.bad >= rule.of_window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: StopRule = StopRule { in_a_row: 100, of_window: 500 };

    /// After how many records the partition stops, if it does.
    fn stops_after(records: impl IntoIterator<Item = bool>) -> Option<usize> {
        let mut watch = Watch::default();
        records.into_iter().position(|bad| watch.note(bad, RULE)).map(|at| at + 1)
    }

    #[test]
    fn a_hundred_in_a_row_stop_it_and_ninety_nine_do_not() {
        assert_eq!(stops_after([true; 200]), Some(100));
        let mut almost = vec![true; 99];
        almost.push(false);
        assert_eq!(stops_after(almost.repeat(1)), None);
    }

    #[test]
    fn half_of_the_last_thousand_stop_it_and_less_do_not() {
        assert_eq!(stops_after((0..5000).map(|n| n % 2 == 0)), Some(999));
        assert_eq!(stops_after((0..5000).map(|n| n % 5 < 2)), None);
    }

    #[test]
    fn what_is_older_than_the_window_is_forgotten() {
        let burst = |n: usize| n % 2000 < 400 && n % 5 != 4;
        assert_eq!(stops_after((0..20_000).map(burst)), None);
    }

    #[test]
    fn records_that_the_database_refuses_count_as_well() {
        let mut watch = Watch::default();
        assert!(!watch.note(false, RULE));
        assert!((1..100).all(|_| !watch.note_refused(RULE)));
        assert!(watch.note_refused(RULE));
    }
}
