//! What is known of the connection to Kafka, for readiness and operators.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::assignment::{Assignment, Counts};

/// Shared with the polling thread, which alone writes it.
#[derive(Debug, Default)]
pub struct Status {
    health: Mutex<Health>,
    paused: AtomicBool,
    /// Polls that brought nothing although reading was not paused.
    idle: AtomicU64,
    assignment: Arc<Assignment>,
    lags: Mutex<BTreeMap<(String, i32), i64>>,
}

/// The client's last report about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// When the client reported; `None` before its first report.
    pub reported_at: Option<DateTime<Utc>>,
    /// Brokers with a working connection.
    pub brokers_up: usize,
    /// Whether the group has let this instance in. It does not while there is no topic to read, which
    /// is no trouble: a new deployment has none before its first tenant.
    pub joined: bool,
    /// Partitions that this instance owns.
    pub partitions: Counts,
    /// Whether reading is paused because the records can't be stored.
    pub paused: bool,
}

impl Health {
    /// Why records are not flowing, if they are not.
    pub fn problem(&self) -> Option<&'static str> {
        if self.reported_at.is_none() {
            Some("not connected yet")
        } else if self.brokers_up == 0 {
            Some("no broker answers")
        } else if self.paused {
            Some("paused, because records can't be stored")
        } else if self.partitions.stopped > 0 {
            Some("a partition has stopped: too many of its records are bad")
        } else {
            None
        }
    }
}

impl Status {
    pub(super) fn new(assignment: Arc<Assignment>) -> Self {
        Self { assignment, ..Self::default() }
    }

    /// The last report.
    pub fn health(&self) -> Health {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let paused = self.paused.load(Ordering::Relaxed);
        Health { paused, partitions: self.assignment.counts(), ..health }
    }

    /// Records not settled yet, of the partitions that are owned.
    pub fn lags(&self) -> BTreeMap<(String, i32), i64> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Polls that brought nothing although reading was not paused.
    pub(super) fn idle(&self) -> u64 {
        self.idle.load(Ordering::Relaxed)
    }

    pub(super) fn note_idle(&self) {
        self.idle.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Takes over the client's statistics: JSON, of which three small parts are read.
    pub(super) fn report(&self, statistics: &[u8], now: DateTime<Utc>) {
        let Ok(read) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let mut lags = BTreeMap::new();
        for (topic, told) in read.topics {
            for partition in told.partitions.values() {
                let Partition { partition, consumer_lag_stored } = *partition;
                if self.assignment.era(&topic, partition).is_some() && consumer_lag_stored >= 0 {
                    lags.insert((topic.clone(), partition), consumer_lag_stored);
                }
            }
        }
        *self.lags.lock().unwrap_or_else(PoisonError::into_inner) = lags;
        let real = |broker: &&Broker| broker.nodeid >= 0 && broker.state == "UP";
        let brokers_up = read.brokers.values().filter(real).count();
        let joined = read.cgrp.is_some_and(|group| group.join_state == "steady");
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) =
            Health { reported_at: Some(now), brokers_up, joined, ..Health::default() };
    }
}

#[derive(Deserialize)]
struct Statistics {
    brokers: HashMap<String, Broker>,
    cgrp: Option<Group>,
    #[serde(default)]
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    partitions: HashMap<String, Partition>,
}

#[derive(Deserialize)]
struct Partition {
    partition: i32,
    consumer_lag_stored: i64,
}

#[derive(Deserialize)]
struct Group {
    join_state: String,
}

#[derive(Deserialize)]
struct Broker {
    nodeid: i32,
    state: String,
}
