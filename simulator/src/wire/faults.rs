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
const COPY_WITHIN: u64 = 200;

/// Records that wait for their turn.
#[derive(Debug)]
pub(super) struct Weather {
    faults: Faults,
    chance: ChaCha8Rng,
    /// Records taken in so far.
    taken: u64,
    queue: BinaryHeap<Held>,
}

impl Weather {
    pub(super) fn new(faults: Faults, chance: ChaCha8Rng) -> Self {
        Self { faults, chance, taken: 0, queue: BinaryHeap::new() }
    }

    /// Takes the next record in and decides when it goes out, if ever, and how often.
    pub(super) fn take(&mut self, record: Record) {
        self.taken += 1;
        let Faults { lose, repeat, delay, delay_by, reorder } = self.faults;
        if self.chance.random_bool(lose) {
            return;
        }
        let mut turn = self.taken + self.chance.random_range(0..=reorder);
        if self.chance.random_bool(delay) {
            turn += self.chance.random_range(delay_by / 5..=delay_by);
        }
        if self.chance.random_bool(repeat) {
            let later = turn + self.chance.random_range(1..=COPY_WITHIN);
            self.hold(later, record.clone());
        }
        self.hold(turn, record);
    }

    /// A record whose turn it is.
    pub(super) fn give(&mut self) -> Option<Record> {
        let due = self.queue.peek().is_some_and(|held| held.turn <= self.taken);
        if due { self.give_any() } else { None }
    }

    /// The next record, although its turn may not have come: when nothing more is taken in.
    pub(super) fn give_any(&mut self) -> Option<Record> {
        self.queue.pop().map(|held| held.record)
    }

    fn hold(&mut self, turn: u64, record: Record) {
        // Equal turns keep the order in which they were taken in.
        let order = self.taken;
        self.queue.push(Held { turn, order, record });
    }
}

#[derive(Debug)]
struct Held {
    turn: u64,
    order: u64,
    record: Record,
}

/// The heap gives its greatest first, so the earliest turn is the greatest.
impl Ord for Held {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.turn, other.order).cmp(&(self.turn, self.order))
    }
}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Held {}
