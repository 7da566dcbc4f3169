//! Faults between a producer and Kafka. Faults change the published records and their time; the truth stays
//! the same.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::Record;

/// The probability and the size of each fault.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Faults {
    /// The probability that a record is lost.
    pub lose: f64,
    /// The probability that a record is published twice, byte for byte.
    pub repeat: f64,
    /// The probability that a record is published much later than its event.
    pub delay: f64,
    /// The maximum delay of a record, in other published records.
    pub delay_by: u64,
    /// The size of the window in which records of all topics are shuffled.
    pub reorder: u64,
}

impl Faults {
    /// No faults.
    pub const NONE: Self = Self { lose: 0.0, repeat: 0.0, delay: 0.0, delay_by: 5000, reorder: 0 };

    /// A moderate rate of every fault that the service must tolerate; no record is lost.
    pub const MODEST: Self =
        Self { lose: 0.0, repeat: 0.02, delay: 0.01, delay_by: 1000, reorder: 40 };
}

/// The maximum distance of a duplicate from its record, in records.
const COPY_DELAY_RECORDS_MAX: u64 = 200;

/// A queue of records that applies the faults.
#[derive(Debug)]
pub(super) struct FaultQueue {
    faults: Faults,
    rng: ChaCha8Rng,
    /// The number of records pushed so far.
    accepted: u64,
    queue: BinaryHeap<DelayedRecord>,
}

impl FaultQueue {
    pub(super) fn new(faults: Faults, rng: ChaCha8Rng) -> Self {
        Self { faults, rng, accepted: 0, queue: BinaryHeap::new() }
    }

    /// Adds a record and decides how often and when the record leaves the queue.
    pub(super) fn push(&mut self, record: Record) {
        self.accepted += 1;
        let Faults { lose, repeat, delay, delay_by, reorder } = self.faults;
        if self.rng.random_bool(lose) {
            return;
        }
        let mut due_at = self.accepted + self.rng.random_range(0..=reorder);
        if self.rng.random_bool(delay) {
            due_at += self.rng.random_range(delay_by / 5..=delay_by);
        }
        if self.rng.random_bool(repeat) {
            let later = due_at + self.rng.random_range(1..=COPY_DELAY_RECORDS_MAX);
            self.enqueue(later, record.clone());
        }
        self.enqueue(due_at, record);
    }

    /// Returns a record that is due.
    pub(super) fn pop_due(&mut self) -> Option<Record> {
        let due = self.queue.peek().is_some_and(|delayed| delayed.due_at <= self.accepted);
        if due { self.pop_any() } else { None }
    }

    /// Returns the next record, due or not. The play uses it after the last push.
    pub(super) fn pop_any(&mut self) -> Option<Record> {
        self.queue.pop().map(|delayed| delayed.record)
    }

    fn enqueue(&mut self, due_at: u64, record: Record) {
        // Records with an equal due position leave in the order of their arrival.
        let order = self.accepted;
        self.queue.push(DelayedRecord { due_at, sequence: order, record });
    }
}

#[derive(Debug)]
struct DelayedRecord {
    due_at: u64,
    sequence: u64,
    record: Record,
}

/// A `BinaryHeap` pops its greatest element, so the earliest record compares as the greatest.
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
