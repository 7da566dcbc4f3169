//! What may go wrong between a producer and Kafka, on demand. Faults change what is published and
//! when, never what is true.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Record;

/// How much goes wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// Chance of a record to be lost for good.
    pub lose: f64,
    /// Chance of a record to be published once more, the very same bytes.
    pub repeat: f64,
    /// Chance of a record to be held back and published long after its time.
    pub delay: f64,
    /// How many other records are published while one is held back, at most.
    pub delay_by: u64,
    /// Records are shuffled, over all topics, within windows of this size.
    pub reorder: u64,
}

impl Faults {
    /// Good weather.
    pub const NONE: Self = Self { lose: 0.0, repeat: 0.0, delay: 0.0, delay_by: 5000, reorder: 0 };

    /// Some of everything that must not matter: no losses.
    pub const MODEST: Self =
        Self { lose: 0.0, repeat: 0.02, delay: 0.01, delay_by: 1000, reorder: 40 };
}

/// A copy of a record comes within so many records.
const COPY_DELAY_RECORDS_MAX: u64 = 200;

/// Records that wait for their turn.
#[derive(Debug)]
pub(super) struct FaultQueue {
    faults: Faults,
    rng: ChaCha8Rng,
    /// Records taken in so far.
    accepted: u64,
    queue: BinaryHeap<DelayedRecord>,
}

impl FaultQueue {
    pub(super) fn new(faults: Faults, rng: ChaCha8Rng) -> Self {
        Self { faults, rng, accepted: 0, queue: BinaryHeap::new() }
    }

    /// Takes the next record in and decides when it goes out, if ever, and how often.
    pub(super) fn push(&mut self, record: Record) {
        self.accepted += 1;
        let Faults { lose, repeat, delay, delay_by, reorder } = self.faults;
        if self.rng.random_bool(lose) {
            return;
        }
        let mut turn = self.accepted + self.rng.random_range(0..=reorder);
        if self.rng.random_bool(delay) {
            turn += self.rng.random_range(delay_by / 5..=delay_by);
        }
        if self.rng.random_bool(repeat) {
            let later = turn + self.rng.random_range(1..=COPY_DELAY_RECORDS_MAX);
            self.enqueue(later, record.clone());
        }
        self.enqueue(turn, record);
    }

    /// A record whose turn it is.
    pub(super) fn pop_due(&mut self) -> Option<Record> {
        let due = self.queue.peek().is_some_and(|delayed| delayed.due_at <= self.accepted);
        if due { self.pop_any() } else { None }
    }

    /// The next record, although its turn may not have come: when nothing more is taken in.
    pub(super) fn pop_any(&mut self) -> Option<Record> {
        self.queue.pop().map(|delayed| delayed.record)
    }

    fn enqueue(&mut self, turn: u64, record: Record) {
        // Equal turns keep the order in which they were taken in.
        let order = self.accepted;
        self.queue.push(DelayedRecord { due_at: turn, sequence: order, record });
    }
}

#[derive(Debug)]
struct DelayedRecord {
    due_at: u64,
    sequence: u64,
    record: Record,
}

/// The heap gives its greatest first, so the earliest turn is the greatest.
impl Ord for DelayedRecord {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due_at, other.sequence).cmp(&(self.due_at, self.sequence))
    }
}

impl PartialOrd for DelayedRecord {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for DelayedRecord {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for DelayedRecord {}
