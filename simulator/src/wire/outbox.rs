//! The storage module's outbox: what it tells of a loan is written with the loan, or not at all, and sent by a
//! relay that comes by every now and then. The relay may be killed at any moment: what it has sent and not yet
//! noted as sent is sent again.

use std::collections::VecDeque;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Record;

/// Messages that the relay takes at a time, at most.
const BATCH_RECORDS_MAX: usize = 50;

/// It comes by after so many messages, at most.
const RELAY_INTERVAL_RECORDS_MAX: u32 = 30;

/// Chance of the relay to be killed while it sends.
const KILL_PROBABILITY: f64 = 0.1;

/// Messages in their order.
#[derive(Debug)]
pub(super) struct Outbox {
    rng: ChaCha8Rng,
    /// Written and not noted as sent.
    unsent: VecDeque<Record>,
    /// On their way.
    sent: VecDeque<Record>,
    records_until_relay: u32,
}

impl Outbox {
    pub(super) fn new(rng: ChaCha8Rng) -> Self {
        Self {
            rng,
            unsent: VecDeque::new(),
            sent: VecDeque::new(),
            records_until_relay: RELAY_INTERVAL_RECORDS_MAX,
        }
    }

    /// Writes what is told of a change, as part of the change.
    pub(super) fn write(&mut self, record: Record) {
        self.unsent.push_back(record);
        self.records_until_relay = self.records_until_relay.saturating_sub(1);
    }

    /// The next message that leaves, if the relay has come by.
    pub(super) fn next(&mut self) -> Option<Record> {
        if self.sent.is_empty() && self.records_until_relay == 0 {
            self.run_relay();
        }
        self.sent.pop_front()
    }

    /// The next message, whether the relay would have come by yet or not.
    pub(super) fn flush_next(&mut self) -> Option<Record> {
        while self.sent.is_empty() && !self.unsent.is_empty() {
            self.run_relay();
        }
        self.sent.pop_front()
    }

    fn run_relay(&mut self) {
        self.records_until_relay = self.rng.random_range(1..=RELAY_INTERVAL_RECORDS_MAX);
        let batch = self.unsent.len().min(BATCH_RECORDS_MAX);
        if self.rng.random_bool(KILL_PROBABILITY) {
            // In the middle: none of them is noted as sent.
            let sent = self.rng.random_range(0..=batch);
            self.sent.extend(self.unsent.iter().take(sent).cloned());
        } else {
            self.sent.extend(self.unsent.drain(..batch));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::rng_for;

    fn message(number: i64) -> Record {
        Record {
            topic: "t".into(),
            key: String::new(),
            headers: vec![],
            timestamp_ms: number,
            payload: vec![],
        }
    }

    #[test]
    fn everything_is_sent_in_its_order_and_some_of_it_again() {
        let mut outbox = Outbox::new(rng_for(5, 3));
        let mut sent = vec![];
        for number in 0..5000 {
            outbox.write(message(number));
            sent.extend(std::iter::from_fn(|| outbox.next()).take(2).map(|m| m.timestamp_ms));
        }
        sent.extend(std::iter::from_fn(|| outbox.flush_next()).map(|m| m.timestamp_ms));
        let mut seen = BTreeSet::new();
        let first: Vec<i64> = sent.iter().copied().filter(|number| seen.insert(*number)).collect();
        assert_eq!(first, (0..5000).collect::<Vec<_>>());
        assert!(sent.len() > 5100, "killed too seldom: {}", sent.len());
    }
}
