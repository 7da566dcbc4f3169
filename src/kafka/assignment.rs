//! Which partitions this instance owns at the moment.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use rdkafka::TopicPartitionList;

/// The partitions that the group has assigned to this instance. Each assignment of a partition is an
/// era of its own: what was read in an earlier one must not move the offset of a later one.
#[derive(Debug, Default)]
pub(super) struct Assignment(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    owned: HashMap<String, HashMap<i32, Era>>,
    last_era: u64,
}

/// One uninterrupted ownership of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Era(u64);

impl Assignment {
    pub(super) fn add(&self, partitions: &TopicPartitionList) {
        let mut state = self.lock();
        state.last_era += 1;
        let era = Era(state.last_era);
        for element in partitions.elements() {
            let of_topic = state.owned.entry(element.topic().to_owned()).or_default();
            of_topic.insert(element.partition(), era);
        }
    }

    pub(super) fn remove(&self, partitions: &TopicPartitionList) {
        let mut state = self.lock();
        for element in partitions.elements() {
            if let Some(of_topic) = state.owned.get_mut(element.topic()) {
                of_topic.remove(&element.partition());
                if of_topic.is_empty() {
                    state.owned.remove(element.topic());
                }
            }
        }
    }

    pub(super) fn clear(&self) {
        self.lock().owned.clear();
    }

    /// The era in which the partition is owned now.
    pub(super) fn era(&self, topic: &str, partition: i32) -> Option<Era> {
        self.lock().owned.get(topic)?.get(&partition).copied()
    }

    /// How many partitions are owned.
    pub(super) fn len(&self) -> usize {
        self.lock().owned.values().map(HashMap::len).sum()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
