//! The outbox of loan storage. A message is stored in the transaction of its loan, and a relay sends the
//! stored messages from time to time. If the relay is killed, the next relay sends the unrecorded messages
//! again.

use std::collections::VecDeque;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Record;

/// The maximum number of messages that the relay reads at a time.
const BATCH_RECORDS_MAX: usize = 50;

/// The maximum number of messages between two runs of the relay.
const RELAY_INTERVAL_RECORDS_MAX: u32 = 30;

/// The probability that the relay is killed during a run.
const KILL_PROBABILITY: f64 = 0.1;

/// The messages in the order of writing.
#[derive(Debug)]
pub(super) struct Outbox {
    rng: ChaCha8Rng,
    /// The messages without a record that they were sent.
    unsent: VecDeque<Record>,
    /// The messages that the relay has sent.
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

    /// Stores the message of a change with the change.
    pub(super) fn write(&mut self, record: Record) {
        self.unsent.push_back(record);
        self.records_until_relay = self.records_until_relay.saturating_sub(1);
    }

    /// Returns the next sent message. If the interval is over, the relay runs first.
    pub(super) fn next(&mut self) -> Option<Record> {
        if self.sent.is_empty() && self.records_until_relay == 0 {
            self.run_relay();
        }
        self.sent.pop_front()
    }

    /// Returns the next message and runs the relay regardless of the interval.
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
            // The relay is killed during its run, so it records none of its messages as sent.
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
    fn messages_are_sent_in_order_with_duplicates() {
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
        assert!(sent.len() > 5100, "the relay was killed too rarely: {}", sent.len());
    }
}
