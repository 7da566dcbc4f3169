//! Metrics of calls to other modules.

use std::sync::LazyLock;

use metrics::Counter;

use super::{CallOutcome, Module};
use crate::metrics::describe_counter;

const CALLS: &str = "patron_blocks_module_calls_total";

static CALL_COUNTERS: LazyLock<[[Counter; CallOutcome::ALL.len()]; Module::ALL.len()]> =
    LazyLock::new(|| {
        describe_counter(CALLS, "Calls of other modules by module and outcome");
        Module::ALL.map(|module| CallOutcome::ALL.map(|outcome| call_counter(module, outcome)))
    });

/// Creates the counters of calls.
pub fn register_metrics() {
    LazyLock::force(&CALL_COUNTERS);
}

/// Counts a call of another module, including a call that an open breaker rejected.
pub(super) fn record_call(module: Module, outcome: CallOutcome) {
    CALL_COUNTERS[module as usize][outcome as usize].increment(1);
}

fn call_counter(module: Module, outcome: CallOutcome) -> Counter {
    metrics::counter!(CALLS, "module" => module.name(), "outcome" => outcome.name())
}
