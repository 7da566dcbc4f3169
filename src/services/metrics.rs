//! Metrics of the services other than ingest.

use std::{sync::LazyLock, time::Duration};

use metrics::{Counter, Histogram, Unit};

use super::{
    evaluation::{answer_source::AnswerSource, ask_outcome::AskOutcome},
    ingest,
};
use crate::{
    blocks::CertaintyState,
    metrics::{counter, counters, histogram},
};

static METRICS: LazyLock<ServiceMetrics> = LazyLock::new(ServiceMetrics::register);

/// The tables that housekeeping prunes, in the order of [`ServiceMetrics::pruned_rows`].
const PRUNED_TABLES: [&str; 5] =
    ["inbox", "loan", "fee_fine", "dead_letter", "discarded_dead_letter"];

/// The counters of the services.
pub struct ServiceMetrics {
    evaluations: [Counter; AnswerSource::ALL.len()],
    evaluations_by_certainty: [Counter; CertaintyState::ALL.len()],
    /// Durations of evaluations for requests.
    evaluation_seconds: Histogram,
    questions: [Counter; AskOutcome::ALL.len()],
    /// Blocked actions whose explanation found no way out, although all items were known.
    pub(super) blocks_without_way_out: Counter,
    /// Patrons whose counters differed from the rows in an explanation.
    pub(super) wrong_counters: Counter,
    /// Rows that housekeeping deleted, per table of [`PRUNED_TABLES`].
    pub(super) pruned_rows: [Counter; PRUNED_TABLES.len()],
    /// Records that rebuilds have read from topics.
    pub(super) replayed: Counter,
    /// Pending patrons that the detect worker has evaluated.
    pub(super) reevaluated_patrons: Counter,
    /// Messages written to the outbox.
    pub(super) written_messages: Counter,
    /// Messages that the broker has acknowledged.
    pub(super) sent_messages: Counter,
    /// Summaries that exports have published.
    pub(super) published_summaries: Counter,
}

/// Returns the metrics of the services.
pub fn metrics() -> &'static ServiceMetrics {
    &METRICS
}

/// Creates the counters and histograms of all services.
pub fn register_metrics() {
    LazyLock::force(&METRICS);
    ingest::metrics::metrics();
}

impl ServiceMetrics {
    fn register() -> Self {
        Self {
            evaluations: counters(
                "patron_blocks_evaluations_total",
                "Evaluations of patrons by answer source",
                "basis",
                AnswerSource::ALL.map(AnswerSource::name),
            ),
            evaluations_by_certainty: counters(
                "patron_blocks_evaluations_by_certainty_total",
                "Evaluations of patrons by certainty",
                "certainty",
                CertaintyState::ALL.map(CertaintyState::name),
            ),
            evaluation_seconds: histogram(
                "patron_blocks_evaluation_seconds",
                Unit::Seconds,
                "Time from the request for an evaluation to its response",
            ),
            questions: counters(
                "patron_blocks_storage_questions_total",
                "Questions to the storage modules about patrons during evaluations, by outcome",
                "outcome",
                AskOutcome::ALL.map(AskOutcome::name),
            ),
            blocks_without_way_out: counter(
                "patron_blocks_blocks_without_way_out_total",
                "Blocked actions whose explanation found no way out",
            ),
            wrong_counters: counter(
                "patron_blocks_wrong_counters_total",
                "Patrons whose counters differed from the rows in an explanation",
            ),
            pruned_rows: counters(
                "patron_blocks_pruned_rows_total",
                "Rows that housekeeping deleted, by table",
                "table",
                PRUNED_TABLES,
            ),
            replayed: counter(
                "patron_blocks_replayed_records_total",
                "Records that rebuilds read from topics",
            ),
            reevaluated_patrons: counter(
                "patron_blocks_patrons_reevaluated_total",
                "Evaluations of pending patrons by the detect worker",
            ),
            written_messages: counter(
                "patron_blocks_outbox_written_total",
                "Messages written to the outbox",
            ),
            sent_messages: counter(
                "patron_blocks_outbox_sent_total",
                "Messages from the outbox that the broker acknowledged",
            ),
            published_summaries: counter(
                "patron_blocks_summaries_published_total",
                "Patron summaries that exports published",
            ),
        }
    }

    /// Counts an evaluation by its answer source and its certainty.
    pub fn record_evaluation(&self, source: AnswerSource, certainty: CertaintyState) {
        self.evaluations[source as usize].increment(1);
        self.evaluations_by_certainty[certainty as usize].increment(1);
    }

    /// Records the duration of an evaluation.
    pub fn record_evaluation_time(&self, took: Duration) {
        self.evaluation_seconds.record(took);
    }

    /// Counts a question to the storage modules.
    pub(super) fn record_question(&self, outcome: AskOutcome) {
        self.questions[outcome as usize].increment(1);
    }
}
