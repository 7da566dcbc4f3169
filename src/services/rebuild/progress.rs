//! The progress of a rebuild, as each heartbeat publishes it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

/// Stage and completed steps of a rebuild, published with each heartbeat.
#[derive(Default)]
pub(super) struct Progress {
    stage: Mutex<Option<(&'static str, u64, Instant)>>,
    done: AtomicU64,
    stage_started: Notify,
}

impl Progress {
    /// Starts a stage of `total` steps and triggers a heartbeat.
    pub(super) fn start_stage(&self, stage: &'static str, total: u64) {
        self.done.store(0, Ordering::Relaxed);
        let mut current = self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        *current = Some((stage, total, Instant::now()));
        self.stage_started.notify_one();
    }

    /// Waits until a stage starts, at most `limit`.
    pub(super) async fn stage_started(&self, limit: Duration) {
        // The heartbeat follows in either case.
        let _ = timeout(limit, self.stage_started.notified()).await;
    }

    /// Adds completed steps to the current stage.
    pub(super) fn add(&self, steps: u64) {
        self.done.fetch_add(steps, Ordering::Relaxed);
    }

    /// Returns stage, completed steps, total steps, steps per second and estimated seconds left as JSON.
    pub(super) fn to_json(&self) -> Value {
        let current = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((stage, total, since)) = current else { return json!({}) };
        let done = self.done.load(Ordering::Relaxed);
        let seconds = since.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let mut body =
            json!({ "stage": stage, "done": done, "total": total, "rate": rate.round() });
        if rate > 0.0 {
            body["secondsLeft"] = json!((total.saturating_sub(done) as f64 / rate).ceil());
        }
        body
    }
}
