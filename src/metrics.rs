//! Counters and histograms of this instance for `/metrics`. Gauges, which need a query of the
//! database or the broker, are in `services/gauges.rs`.
//!
//! Counters with a fixed set of labels exist from the start, with value zero.

use std::{
    collections::HashSet,
    sync::{LazyLock, PoisonError, RwLock},
    time::Duration,
};

use chrono::{DateTime, Utc};
use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_util::MetricKindMask;

use crate::{
    event::{Event, IdentifiedBy, Kind, Reason, TenantId, TimedBy},
    okapi::{CallOutcome, Module},
    services::{answer::AnswerSource, housekeeping::PrunedCounts, outcome::BatchCounts},
    store::incidents,
};

/// Interval of the upkeep, which runs even if no request reads the metrics.
pub const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Lifetime of a gauge after its last update.
const GAUGE_IDLE_TIMEOUT: Duration = Duration::from_secs(300);

/// Upper bounds in seconds, for batches and for the time from an event to its visibility.
const LATENCY_BUCKETS_SECONDS: [f64; 14] =
    [0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0, 3600.0];

/// Upper bounds of the number of records in a batch.
const BATCH_BUCKETS_RECORDS: [f64; 8] = [1.0, 10.0, 50.0, 100.0, 500.0, 1000.0, 2000.0, 5000.0];

/// The metrics of the process, created at the first use.
static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The handles of all counters and histograms.
pub struct Metrics {
    handle: PrometheusHandle,
    applied: Counter,
    duplicates: Counter,
    tenant_disabled: Counter,
    tombstones: Counter,
    skipped: Counter,
    events: [Counter; Kind::ALL.len()],
    identified: [Counter; IdentifiedBy::ALL.len()],
    timed: [Counter; TimedBy::ALL.len()],
    incidents: [Counter; incidents::IncidentKind::ALL.len()],
    batch_records: Histogram,
    batch_seconds: Histogram,
    event_latency_seconds: Histogram,
    /// Retries of batches.
    pub retries: Counter,
    /// Pauses of reading because records could not be stored.
    pub pauses: Counter,
    /// Partitions that the group assigned.
    pub assigned: Counter,
    /// Partitions that the group revoked.
    pub revoked: Counter,
    /// Records that rebuilds have read from topics.
    pub replayed: Counter,
    reevaluated_patrons: Counter,
    written_messages: Counter,
    /// Messages that the broker has acknowledged.
    pub sent_messages: Counter,
    /// Summaries that exports have published.
    pub published_summaries: Counter,
    /// Requests with a gateway other than the pinned gateway.
    pub other_gateway_requests: Counter,
    pruned_rows: [Counter; 4],
    evaluations: [Counter; AnswerSource::ALL.len()],
    module_calls: [[Counter; CallOutcome::ALL.len()]; Module::ALL.len()],
    /// Tenants with hidden metrics: they were enabled once and are disabled now.
    hidden_tenants: RwLock<HashSet<TenantId>>,
}

/// Returns the metrics of the process.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

impl Metrics {
    fn new() -> Self {
        let bounds = |suffix: &str| Matcher::Suffix(suffix.to_owned());
        let handle = PrometheusBuilder::new()
            .set_buckets_for_metric(bounds("_seconds"), &LATENCY_BUCKETS_SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(bounds("_records"), &BATCH_BUCKETS_RECORDS)
            })
            .expect("the list of bounds is not empty")
            // Idle gauges expire, for example the lag of a revoked partition.
            .idle_timeout(MetricKindMask::GAUGE, Some(GAUGE_IDLE_TIMEOUT))
            .install_recorder()
            .expect("no other part of this program installs a recorder");
        describe();
        for kind in Kind::ALL {
            for reason in Reason::ALL {
                dead_letter_counter(kind, reason).increment(0);
            }
        }
        let record =
            |outcome: &'static str| counter!("patron_blocks_records_total", "outcome" => outcome);
        let rebalanced = |event: &'static str| counter!("patron_blocks_rebalanced_partitions_total", "event" => event);
        Self {
            handle,
            applied: record("applied"),
            duplicates: record("duplicate"),
            tenant_disabled: record("tenant_disabled"),
            tombstones: record("tombstone"),
            skipped: record("skipped"),
            events: Kind::ALL.map(|k| counter!("patron_blocks_events_total", "kind" => k.name())),
            identified: IdentifiedBy::ALL
                .map(|by| counter!("patron_blocks_events_identified_total", "by" => by.name())),
            timed: TimedBy::ALL
                .map(|by| counter!("patron_blocks_events_timed_total", "by" => by.name())),
            incidents: incidents::IncidentKind::ALL
                .map(|kind| counter!("patron_blocks_incidents_total", "kind" => kind.name())),
            batch_records: histogram!("patron_blocks_batch_records"),
            batch_seconds: histogram!("patron_blocks_batch_seconds"),
            event_latency_seconds: histogram!("patron_blocks_event_latency_seconds"),
            retries: counter!("patron_blocks_retries_total"),
            pauses: counter!("patron_blocks_pauses_total"),
            replayed: counter!("patron_blocks_replayed_records_total"),
            reevaluated_patrons: counter!("patron_blocks_patrons_reevaluated_total"),
            written_messages: counter!("patron_blocks_outbox_written_total"),
            sent_messages: counter!("patron_blocks_outbox_sent_total"),
            published_summaries: counter!("patron_blocks_summaries_published_total"),
            other_gateway_requests: counter!("patron_blocks_other_gateway_requests_total"),
            assigned: rebalanced("assigned"),
            revoked: rebalanced("revoked"),
            pruned_rows: ["inbox", "loan", "fee_fine", "dead_letter"]
                .map(|table| counter!("patron_blocks_pruned_rows_total", "table" => table)),
            evaluations: AnswerSource::ALL
                .map(|basis| counter!("patron_blocks_evaluations_total", "basis" => basis.name())),
            module_calls: Module::ALL
                .map(|module| CallOutcome::ALL.map(|outcome| module_counter(module, outcome))),
            hidden_tenants: RwLock::default(),
        }
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

    /// Records a durable batch.
    pub fn record_batch(&self, records: usize, took: Duration, tally: BatchCounts) {
        self.batch_records.record(records as f64);
        self.batch_seconds.record(took.as_secs_f64());
        let add = |counter: &Counter, number: usize| counter.increment(number as u64);
        add(&self.applied, tally.applied);
        add(&self.duplicates, tally.duplicates);
        add(&self.tenant_disabled, tally.tenant_disabled);
        add(&self.tombstones, tally.tombstones);
        add(&self.skipped, tally.skipped);
    }

    /// Records a durable event, new or duplicate.
    pub fn record_event(&self, event: &Event, recorded: Option<DateTime<Utc>>, now: DateTime<Utc>) {
        self.events[event.fact.kind() as usize].increment(1);
        self.identified[event.identified_by as usize].increment(1);
        self.timed[event.timed_by as usize].increment(1);
        let since = recorded.and_then(|recorded| (now - recorded).to_std().ok());
        self.event_latency_seconds.record(since.unwrap_or_default().as_secs_f64());
    }

    /// Counts a dead letter.
    pub fn record_dead_letter(&self, kind: Kind, reason: Reason) {
        dead_letter_counter(kind, reason).increment(1);
    }

    /// Counts a tenant batch by outcome, if metrics have a label per tenant.
    pub fn record_tenant_batch(&self, tenant: &TenantId, tally: BatchCounts) {
        for (outcome, number) in [
            ("applied", tally.applied),
            ("duplicate", tally.duplicates),
            ("dead_letter", tally.dead_letters),
        ] {
            let tenant = tenant.to_string();
            let counter = counter!("patron_blocks_tenant_records_total", "tenant" => tenant, "outcome" => outcome);
            counter.increment(number as u64);
        }
    }

    /// Counts an incident that was raised while no such incident was open.
    pub fn record_incident(&self, kind: incidents::IncidentKind) {
        self.incidents[kind as usize].increment(1);
    }

    /// Counts an evaluation by its answer source.
    pub fn record_evaluation(&self, basis: AnswerSource) {
        self.evaluations[basis as usize].increment(1);
    }

    /// Counts a call of another module, including a call that an open breaker rejected.
    pub fn record_module_call(&self, module: Module, outcome: CallOutcome) {
        self.module_calls[module as usize][outcome as usize].increment(1);
    }

    /// Counts evaluated patrons, and messages written to the outbox.
    pub fn record_reevaluation(&self, patrons: usize, messages: usize) {
        self.reevaluated_patrons.increment(patrons as u64);
        self.written_messages.increment(messages as u64);
    }

    /// Counts rows that housekeeping deleted.
    pub fn record_pruned(&self, pruned: PrunedCounts) {
        let rows = [pruned.inbox, pruned.loans, pruned.fees_fines, pruned.dead_letters];
        for (counter, rows) in self.pruned_rows.iter().zip(rows) {
            counter.increment(rows);
        }
    }
}

fn dead_letter_counter(kind: Kind, reason: Reason) -> Counter {
    counter!("patron_blocks_dead_letters_total", "kind" => kind.name(), "reason" => reason.name())
}

fn module_counter(module: Module, outcome: CallOutcome) -> Counter {
    let labels = [("module", module.name()), ("outcome", outcome.name())];
    counter!("patron_blocks_module_calls_total", &labels)
}

fn describe() {
    for (name, what) in [
        ("patron_blocks_records_total", "Processed records by outcome"),
        (
            "patron_blocks_tenant_records_total",
            "Processed records by tenant and outcome, if METRICS_BY_TENANT is true",
        ),
        ("patron_blocks_dead_letters_total", "Records stored as dead letters, by kind and reason"),
        ("patron_blocks_events_total", "Decoded events by kind, including duplicates"),
        (
            "patron_blocks_events_identified_total",
            "Decoded events by the rule that set their identity",
        ),
        ("patron_blocks_events_timed_total", "Decoded events by the rule that set their time"),
        ("patron_blocks_incidents_total", "Raised incidents by kind"),
        ("patron_blocks_retries_total", "Retries of batches"),
        ("patron_blocks_pauses_total", "Pauses of reading because records could not be stored"),
        ("patron_blocks_replayed_records_total", "Records that rebuilds read from topics"),
        (
            "patron_blocks_patrons_reevaluated_total",
            "Evaluations of pending patrons by the detect worker",
        ),
        ("patron_blocks_outbox_written_total", "Messages written to the outbox"),
        (
            "patron_blocks_outbox_sent_total",
            "Messages from the outbox that the broker acknowledged",
        ),
        ("patron_blocks_summaries_published_total", "Patron summaries that exports published"),
        (
            "patron_blocks_rebalanced_partitions_total",
            "Partitions that the consumer group assigned or revoked",
        ),
        ("patron_blocks_evaluations_total", "Evaluations of patrons by answer source"),
        ("patron_blocks_module_calls_total", "Calls of other modules by module and outcome"),
        (
            "patron_blocks_other_gateway_requests_total",
            "Requests with another gateway than the pinned gateway, which the service calls instead",
        ),
        ("patron_blocks_pruned_rows_total", "Rows that housekeeping deleted, by table"),
    ] {
        describe_counter!(name, what);
    }
    for (name, unit, what) in [
        ("patron_blocks_batch_records", Unit::Count, "Records per batch"),
        ("patron_blocks_batch_seconds", Unit::Seconds, "Time until a batch is durable, in seconds"),
        (
            "patron_blocks_event_latency_seconds",
            Unit::Seconds,
            "Time from the timestamp of a record to the commit of its event, in seconds",
        ),
    ] {
        describe_histogram!(name, unit, what);
    }
}
