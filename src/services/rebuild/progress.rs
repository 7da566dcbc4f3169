//! The progress of a rebuild, as each heartbeat publishes it.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{sync::Notify, time::timeout};

use crate::store::rebuild::rebuilds;

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

    /// Returns the progress as a heartbeat stores it.
    pub(super) fn report(&self) -> rebuilds::Progress {
        let current = *self.stage.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((stage, total, since)) = current else { return rebuilds::Progress::default() };
        let done = self.done.load(Ordering::Relaxed);
        let seconds = since.elapsed().as_secs_f64();
        let rate = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        let seconds_left = (total.saturating_sub(done) as f64 / rate).ceil();
        rebuilds::Progress {
            stage: Some(stage.to_owned()),
            done: Some(done),
            total: Some(total),
            rate: Some(rate.round()),
            seconds_left: (rate > 0.0).then_some(seconds_left),
        }
    }
}
