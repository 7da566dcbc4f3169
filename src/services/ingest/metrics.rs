//! Metrics of ingest: batches, events, dead letters and incidents.

use std::{sync::LazyLock, time::Duration};

use chrono::{DateTime, Utc};
use metrics::{Counter, Histogram, Unit};

use super::outcome::BatchCounts;
use crate::{
    event::{Event, IdentifiedBy, Kind, Reason, TenantId, TimedBy},
    metrics::{counter, counters, describe_counter, histogram},
    store::ingest::incidents::IncidentKind,
};

const DEAD_LETTERS: &str = "patron_blocks_dead_letters_total";
const TENANT_RECORDS: &str = "patron_blocks_tenant_records_total";

/// The outcomes of a record, in the order of [`IngestMetrics::outcomes`].
const OUTCOMES: [&str; 5] = ["applied", "duplicate", "tenant_disabled", "tombstone", "skipped"];

static METRICS: LazyLock<IngestMetrics> = LazyLock::new(IngestMetrics::register);

/// The counters and histograms of ingest.
pub struct IngestMetrics {
    outcomes: [Counter; OUTCOMES.len()],
    events: [Counter; Kind::ALL.len()],
    identified: [Counter; IdentifiedBy::ALL.len()],
    timed: [Counter; TimedBy::ALL.len()],
    incidents: [Counter; IncidentKind::ALL.len()],
    batch_records: Histogram,
    batch_seconds: Histogram,
    event_latency_seconds: Histogram,
    /// Retries of batches.
    pub retries: Counter,
}

/// Returns the metrics of ingest.
pub fn metrics() -> &'static IngestMetrics {
    &METRICS
}

impl IngestMetrics {
    fn register() -> Self {
        describe_counter(DEAD_LETTERS, "Records stored as dead letters, by kind and reason");
        for kind in Kind::ALL {
            for reason in Reason::ALL {
                dead_letter_counter(kind, reason).increment(0);
            }
        }
        describe_counter(
            TENANT_RECORDS,
            "Processed records by tenant and outcome, if METRICS_BY_TENANT is true",
        );
        Self {
            outcomes: counters(
                "patron_blocks_records_total",
                "Processed records by outcome",
                "outcome",
                OUTCOMES,
            ),
            events: counters(
                "patron_blocks_events_total",
                "Decoded events by kind, including duplicates",
                "kind",
                Kind::ALL.map(Kind::name),
            ),
            identified: counters(
                "patron_blocks_events_identified_total",
                "Decoded events by the rule that set their identity",
                "by",
                IdentifiedBy::ALL.map(IdentifiedBy::name),
            ),
            timed: counters(
                "patron_blocks_events_timed_total",
                "Decoded events by the rule that set their time",
                "by",
                TimedBy::ALL.map(TimedBy::name),
            ),
            incidents: counters(
                "patron_blocks_incidents_total",
                "Raised incidents by kind",
                "kind",
                IncidentKind::ALL.map(IncidentKind::name),
            ),
            batch_records: histogram(
                "patron_blocks_batch_records",
                Unit::Count,
                "Records per batch",
            ),
            batch_seconds: histogram(
                "patron_blocks_batch_seconds",
                Unit::Seconds,
                "Time until a batch is durable, in seconds",
            ),
            event_latency_seconds: histogram(
                "patron_blocks_event_latency_seconds",
                Unit::Seconds,
                "Time from the timestamp of a record to the commit of its event, in seconds",
            ),
            retries: counter("patron_blocks_retries_total", "Retries of batches"),
        }
    }

    /// Records a durable batch.
    pub fn record_batch(&self, records: usize, took: Duration, counts: BatchCounts) {
        self.batch_records.record(records as f64);
        self.batch_seconds.record(took.as_secs_f64());
        let BatchCounts { applied, duplicates, tenant_disabled, tombstones, skipped, .. } = counts;
        let numbers = [applied, duplicates, tenant_disabled, tombstones, skipped];
        for (counter, number) in self.outcomes.iter().zip(numbers) {
            counter.increment(number as u64);
        }
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
    pub fn record_tenant_batch(&self, tenant: &TenantId, counts: BatchCounts) {
        for (outcome, number) in [
            ("applied", counts.applied),
            ("duplicate", counts.duplicates),
            ("dead_letter", counts.dead_letters),
        ] {
            let labels = [("tenant", tenant.to_string()), ("outcome", outcome.to_owned())];
            metrics::counter!(TENANT_RECORDS, &labels).increment(number as u64);
        }
    }

    /// Counts an incident that was raised while no such incident was open.
    pub fn record_incident(&self, kind: IncidentKind) {
        self.incidents[kind as usize].increment(1);
    }
}

fn dead_letter_counter(kind: Kind, reason: Reason) -> Counter {
    metrics::counter!(DEAD_LETTERS, "kind" => kind.name(), "reason" => reason.name())
}
