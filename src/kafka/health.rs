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

use super::assignment::{Assignment, PartitionCounts};

/// Written by the polling thread, the watchdog and the client that asks brokers, each its own part.
#[derive(Debug, Default)]
pub struct ConsumerStatus {
    health: Mutex<Health>,
    paused: AtomicBool,
    joined: AtomicBool,
    /// Polls that brought nothing although reading was not paused.
    idle_polls: AtomicU64,
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
    pub partitions: PartitionCounts,
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

impl ConsumerStatus {
    pub(super) fn new(assignment: Arc<Assignment>) -> Self {
        Self { assignment, ..Self::default() }
    }

    /// The last report.
    pub fn health(&self) -> Health {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let paused = self.paused.load(Ordering::Relaxed);
        let joined = self.joined.load(Ordering::Relaxed);
        Health { paused, joined, partitions: self.assignment.counts(), ..health }
    }

    /// Records not settled yet, of the partitions that are owned.
    pub fn lags(&self) -> BTreeMap<(String, i32), i64> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Polls that brought nothing although reading was not paused.
    pub(super) fn idle_polls(&self) -> u64 {
        self.idle_polls.load(Ordering::Relaxed)
    }

    pub(super) fn record_idle_poll(&self) {
        self.idle_polls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// What is not settled yet, by the watchdog.
    pub(super) fn set_lags(&self, lags: BTreeMap<(String, i32), i64>) {
        *self.lags.lock().unwrap_or_else(PoisonError::into_inner) = lags;
    }

    pub(super) fn set_joined(&self, joined: bool) {
        self.joined.store(joined, Ordering::Relaxed);
    }

    /// Takes over a client's statistics: JSON, of which a small part is read.
    pub(super) fn apply_statistics(&self, statistics: &[u8], now: DateTime<Utc>) {
        let Ok(report) = serde_json::from_slice::<Statistics>(statistics) else { return };
        let is_connected = |broker: &&BrokerStatistics| broker.nodeid >= 0 && broker.state == "UP";
        let brokers_up = report.brokers.values().filter(is_connected).count();
        *self.health.lock().unwrap_or_else(PoisonError::into_inner) =
            Health { reported_at: Some(now), brokers_up, ..Health::default() };
    }
}

#[derive(Deserialize)]
struct Statistics {
    brokers: HashMap<String, BrokerStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    nodeid: i32,
    state: String,
}
