//! The recorder of this process's metrics, and the text that `/metrics` returns.
//!
//! Each module declares its own counters and histograms. `register_metrics` of each layer creates them when
//! the service starts, so a counter with a fixed set of labels exists from the start with value zero.

use std::{
    collections::HashSet,
    sync::{LazyLock, PoisonError, RwLock},
    time::Duration,
};

use metrics::{Counter, Histogram, Unit};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

use crate::event::TenantId;

/// Interval of the upkeep, which runs even if no request reads the metrics.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Lifetime of a gauge after its last update.
const GAUGE_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Upper bounds in seconds, for batches and for the time from an event to its visibility.
const LATENCY_BUCKETS_SECONDS: [f64; 14] =
    [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0, 3600.0];

/// Upper bounds of the number of records in a batch.
const BATCH_BUCKETS_RECORDS: [f64; 8] = [1.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0];

/// The recorder of the process, installed at the first use.
static RECORDER: LazyLock<Recorder> = LazyLock::new(Recorder::install);

/// The installed recorder, and the tenants with hidden metrics.
pub struct Recorder {
    handle: PrometheusHandle,
    /// Tenants that were enabled once and are disabled now.
    hidden_tenants: RwLock<HashSet<TenantId>>,
}

/// Returns the recorder of the process.
pub fn recorder() -> &'static Recorder {
    &RECORDER
}

/// Creates a counter without labels.
pub fn counter(name: &'static str, help: &'static str) -> Counter {
    describe_counter(name, help);
    metrics::counter!(name)
}

/// Creates a counter for each value of a label.
pub fn counters<const N: usize>(
    name: &'static str,
    help: &'static str,
    label: &'static str,
    values: [&'static str; N],
) -> [Counter; N] {
    describe_counter(name, help);
    values.map(|value| metrics::counter!(name, label => value))
}

/// Describes a counter with several labels, or with a label of unknown values.
pub fn describe_counter(name: &'static str, help: &'static str) {
    LazyLock::force(&RECORDER);
    metrics::describe_counter!(name, help);
}

/// Creates a histogram.
pub fn histogram(name: &'static str, unit: Unit, help: &'static str) -> Histogram {
    LazyLock::force(&RECORDER);
    metrics::describe_histogram!(name, unit, help);
    metrics::histogram!(name)
}

impl Recorder {
    fn install() -> Self {
        let bounds = |suffix: &str| Matcher::Suffix(suffix.to_owned());
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(bounds("_seconds"), &LATENCY_BUCKETS_SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(bounds("_records"), &BATCH_BUCKETS_RECORDS)
            })
            .expect("both lists of bounds are constants and not empty")
            // Idle gauges expire, for example the lag of a revoked partition.
            .idle_timeout(MetricKindMask::GAUGE, Some(GAUGE_IDLE_TIMEOUT))
            .install_recorder()
            .expect("no other part of this program installs a recorder");
        Self { handle, hidden_tenants: RwLock::default() }
    }

    /// Returns all metrics in the text format of Prometheus, without lines of hidden tenants.
    pub fn render(&self) -> String {
        let text = self.handle.render();
        let hidden = self.hidden_tenants.read().unwrap_or_else(PoisonError::into_inner);
        let labels: Vec<String> = hidden.iter().map(|id| format!("tenant=\"{id}\"")).collect();
        if labels.is_empty() {
            return text;
        }
        let is_visible = |line: &&str| !labels.iter().any(|label| line.contains(label.as_str()));
        text.lines().filter(is_visible).flat_map(|line| [line, "\n"]).collect()
    }

    /// Hides or shows the metrics of a tenant, because the exporter never drops a counter. Callers
    /// pass only tenants that were enabled, so the set stays no larger than the set of counters.
    pub fn set_hidden(&self, tenant: &TenantId, hide: bool) {
        let mut hidden = self.hidden_tenants.write().unwrap_or_else(PoisonError::into_inner);
        if hide {
            hidden.insert(tenant.clone());
        } else {
            hidden.remove(tenant);
        }
    }

    /// Returns whether a tenant's metrics are hidden.
    pub fn is_hidden(&self, tenant: &TenantId) -> bool {
        self.hidden_tenants.read().unwrap_or_else(PoisonError::into_inner).contains(tenant)
    }

    /// Compacts recorded values to free memory; see [`UPKEEP_INTERVAL`].
    pub fn run_upkeep(&self) {
        self.handle.run_upkeep();
    }
}
