//! Metrics of the consumer.

use std::sync::LazyLock;

use metrics::Counter;

use crate::metrics::{counter, counters};

static METRICS: LazyLock<ConsumerMetrics> = LazyLock::new(ConsumerMetrics::register);

/// The counters of the consumer.
pub(super) struct ConsumerMetrics {
    /// Pauses of reading because records could not be stored.
    pub(super) pauses: Counter,
    /// Partitions that the group assigned.
    pub(super) assigned: Counter,
    /// Partitions that the group revoked.
    pub(super) revoked: Counter,
}

/// Returns the metrics of the consumer.
pub(super) fn metrics() -> &'static ConsumerMetrics {
    &METRICS
}

/// Creates the counters of the consumer.
pub fn register_metrics() {
    LazyLock::force(&METRICS);
}

impl ConsumerMetrics {
    fn register() -> Self {
        let [assigned, revoked] = counters(
            "patron_blocks_rebalanced_partitions_total",
            "Partitions that the consumer group assigned or revoked",
            "event",
            ["assigned", "revoked"],
        );
        let pauses = counter(
            "patron_blocks_pauses_total",
            "Pauses of reading because records could not be stored",
        );
        Self { pauses, assigned, revoked }
    }
}
