//! The source of randomness, and random values.

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

/// The only source of randomness: seeded, and equal on every machine.
pub(super) type SeededRng = ChaCha8Rng;

/// Returns an id of version 4, the only version that every FOLIO module accepts.
pub(super) fn new_id(rng: &mut SeededRng) -> Uuid {
    uuid::Builder::from_random_bytes(rng.random()).into_uuid()
}

/// Returns a random index, with a probability proportional to its weight.
pub(super) fn weighted_index(rng: &mut SeededRng, weights: &[u32]) -> usize {
    let mut remaining = rng.random_range(0..weights.iter().sum());
    for (index, weight) in weights.iter().enumerate() {
        if remaining < *weight {
            return index;
        }
        remaining -= weight;
    }
    unreachable!("the remainder is always less than the sum of the shares")
}
