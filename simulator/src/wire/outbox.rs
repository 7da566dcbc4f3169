//! The storage module's outbox: what it tells of a loan is written with the loan, or not at all, and sent by a
//! relay that comes by every now and then. The relay may be killed at any moment: what it has sent and not yet
//! noted as sent is sent again.

use std::collections::VecDeque;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Record;

/// Messages that the relay takes at a time, at most.
const BATCH: usize = 50;

/// It comes by after so many messages, at most.
const SELDOM: u32 = 30;

/// Chance of the relay to be killed while it sends.
const KILLED: f64 = 0.1;

/// Messages in their order.
#[derive(Debug)]
pub(super) struct Outbox {
    chance: ChaCha8Rng,
    /// Written and not noted as sent.
    new: VecDeque<Record>,
    /// On their way.
    sent: VecDeque<Record>,
    comes_by_in: u32,
}

impl Outbox {
    pub(super) fn new(chance: ChaCha8Rng) -> Self {
        Self { chance, new: VecDeque::new(), sent: VecDeque::new(), comes_by_in: SELDOM }
    }

    /// Writes what is told of a change, as part of the change.
    pub(super) fn write(&mut self, record: Record) {
        self.new.push_back(record);
        self.comes_by_in = self.comes_by_in.saturating_sub(1);
    }

    /// The next message that leaves, if the relay has come by.
    pub(super) fn next(&mut self) -> Option<Record> {
        if self.sent.is_empty() && self.comes_by_in == 0 {
            self.relay();
        }
        self.sent.pop_front()
    }

    /// The next message, whether the relay would have come by yet or not.
    pub(super) fn next_of_all(&mut self) -> Option<Record> {
        while self.sent.is_empty() && !self.new.is_empty() {
            self.relay();
        }
        self.sent.pop_front()
    }

    fn relay(&mut self) {
        self.comes_by_in = self.chance.random_range(1..=SELDOM);
        let batch = self.new.len().min(BATCH);
        if self.chance.random_bool(KILLED) {
            // In the middle: none of them is noted as sent.
            let sent = self.chance.random_range(0..=batch);
            self.sent.extend(self.new.iter().take(sent).cloned());
        } else {
            self.sent.extend(self.new.drain(..batch));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::wire::chance_for;

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
        let mut outbox = Outbox::new(chance_for(5, 3));
        let mut sent = vec![];
        for number in 0..5000 {
            outbox.write(message(number));
            sent.extend(std::iter::from_fn(|| outbox.next()).take(2).map(|m| m.timestamp_ms));
        }
        sent.extend(std::iter::from_fn(|| outbox.next_of_all()).map(|m| m.timestamp_ms));
        let mut seen = BTreeSet::new();
        let first: Vec<i64> = sent.iter().copied().filter(|number| seen.insert(*number)).collect();
        assert_eq!(first, (0..5000).collect::<Vec<_>>());
        assert!(sent.len() > 5100, "killed too seldom: {}", sent.len());
    }
}
