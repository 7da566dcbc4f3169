//! The state of the connection to Kafka, for readiness and operators.

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

/// The shared state of the consumer. The polling thread, the watchdog and the broker client each
/// write their own part.
#[derive(Debug, Default)]
pub struct ConsumerStatus {
    health: Mutex<Health>,
    paused: AtomicBool,
    joined: AtomicBool,
    /// Polls without a record while reading was not paused.
    idle_polls: AtomicU64,
    assignment: Arc<Assignment>,
    lags: Mutex<BTreeMap<(String, i32), i64>>,
}

/// The last statistics of the broker client, with the state of the consumer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// When the client reported; `None` before its first report.
    pub reported_at: Option<DateTime<Utc>>,
    /// Brokers with a working connection.
    pub brokers_up: usize,
    /// `true` if the group has accepted this instance. Without any topic to read it stays `false`,
    /// which is normal for a new deployment before its first tenant.
    pub joined: bool,
    /// Numbers of this instance's partitions per stage.
    pub partitions: PartitionCounts,
    /// `true` if reading is paused because records cannot be stored.
    pub paused: bool,
}

impl Health {
    /// Returns why records do not flow, or `None` if they do.
    pub fn problem(&self) -> Option<&'static str> {
        if self.reported_at.is_none() {
            Some("the Kafka client is not connected yet")
        } else if self.brokers_up == 0 {
            Some("no broker responds")
        } else if self.paused {
            Some("reading is paused, because records cannot be stored")
        } else if self.partitions.stopped > 0 {
            Some("a partition is stopped, because too many of its records are bad")
        } else {
            None
        }
    }
}

impl ConsumerStatus {
    pub(super) fn new(assignment: Arc<Assignment>) -> Self {
        Self { assignment, ..Self::default() }
    }

    /// Returns the last report with the current state of the consumer.
    pub fn health(&self) -> Health {
        let health = self.health.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let paused = self.paused.load(Ordering::Relaxed);
        let joined = self.joined.load(Ordering::Relaxed);
        Health { paused, joined, partitions: self.assignment.counts(), ..health }
    }

    /// Returns the number of uncommitted records per owned partition.
    pub fn lags(&self) -> BTreeMap<(String, i32), i64> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns the number of polls without a record while reading was not paused.
    pub fn idle_polls(&self) -> u64 {
        self.idle_polls.load(Ordering::Relaxed)
    }

    pub(super) fn record_idle_poll(&self) {
        self.idle_polls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_paused(&self, paused: bool) {
        self.paused.store(paused, Ordering::Relaxed);
    }

    /// Sets the lags that the watchdog has computed.
    pub fn set_lags(&self, lags: BTreeMap<(String, i32), i64>) {
        *self.lags.lock().unwrap_or_else(PoisonError::into_inner) = lags;
    }

    pub(super) fn set_joined(&self, joined: bool) {
        self.joined.store(joined, Ordering::Relaxed);
    }

    /// Applies a client's statistics: JSON, of which a small part is parsed.
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
