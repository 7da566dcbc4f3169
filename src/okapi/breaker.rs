//! Circuit breakers. After several slow failures in a row, a breaker stops calls to a module for a while;
//! then one trial call probes the module.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::Module;
use crate::config::BreakerLimits;

/// Time from which a failed call counts as a failure. A module that fails faster costs little and may be
/// called again.
pub(super) const SLOW_CALL_THRESHOLD: Duration = Duration::from_millis(500);

/// Breakers at the same time, at most; a further module has no breaker.
const BREAKERS_MAX: usize = 1000;

/// The subject of a breaker: a module of a tenant behind a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct BreakerKey {
    pub(super) module: Module,
    pub(super) url: String,
    pub(super) tenant: String,
}

/// The failures of a module since its last response.
#[derive(Debug)]
struct BreakerState {
    failures: u32,
    failed_at: Instant,
    /// Whether a trial call is in progress.
    trial_in_progress: bool,
}

/// The breakers of all failing modules.
#[derive(Debug)]
pub(super) struct Breakers {
    limits: BreakerLimits,
    failing: Mutex<HashMap<BreakerKey, BreakerState>>,
}

impl Breakers {
    pub(super) fn new(limits: BreakerLimits) -> Self {
        Self { limits, failing: Mutex::default() }
    }

    fn failing(&self) -> MutexGuard<'_, HashMap<BreakerKey, BreakerState>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether the breaker is closed.
    pub(super) fn is_closed(&self, key: &BreakerKey) -> bool {
        self.failing().get(key).is_none_or(|state| state.failures < self.limits.failure_threshold)
    }

    /// Returns a permit for one call; `None` while the breaker is open or a trial call is in progress.
    pub(super) fn permit(self: &Arc<Self>, key: BreakerKey, now: Instant) -> Option<CallPermit> {
        let mut failing = self.failing();
        let is_trial = match failing.get_mut(&key) {
            Some(state) if state.failures >= self.limits.failure_threshold => {
                if state.trial_in_progress
                    || now.duration_since(state.failed_at) < self.limits.open_duration
                {
                    return None;
                }
                state.trial_in_progress = true;
                true
            }
            _ => false,
        };
        Some(CallPermit {
            breakers: self.clone(),
            key,
            started_at: now,
            is_trial,
            is_recorded: false,
        })
    }

    fn record_success(&self, key: &BreakerKey) {
        let state = self.failing().remove(key);
        if state.is_some_and(|state| state.failures >= self.limits.failure_threshold) {
            let BreakerKey { module, url, tenant } = key;
            info!(
                module = module.name(),
                okapi.url = url,
                tenant,
                "circuit breaker: closed; the module responds again"
            );
        }
    }

    fn record_failure(&self, key: &BreakerKey, is_trial: bool, now: Instant) {
        let mut failing = self.failing();
        if failing.len() >= BREAKERS_MAX && !failing.contains_key(key) {
            failing
                .retain(|_, state| now.duration_since(state.failed_at) < self.limits.open_duration);
            if failing.len() >= BREAKERS_MAX {
                return;
            }
        }
        let state = failing.entry(key.clone()).or_insert(BreakerState {
            failures: 0,
            failed_at: now,
            trial_in_progress: false,
        });
        state.failures = state.failures.saturating_add(1);
        state.failed_at = now;
        state.trial_in_progress &= !is_trial;
        if state.failures == self.limits.failure_threshold {
            let (BreakerKey { module, url, tenant }, pause) = (key, self.limits.open_duration);
            warn!(
                module = module.name(),
                okapi.url = url,
                tenant,
                ?pause,
                "circuit breaker: open; the module does not respond and is not called for a while"
            );
        }
    }
}

/// A permit for one call; the caller records the result. An abandoned call counts as a failure if it was
/// slow.
#[derive(Debug)]
pub(super) struct CallPermit {
    breakers: Arc<Breakers>,
    key: BreakerKey,
    started_at: Instant,
    is_trial: bool,
    is_recorded: bool,
}

impl CallPermit {
    /// Records the result: `answered` is `false` only for a failure that counts.
    pub(super) fn record_result(mut self, answered: bool, now: Instant) {
        self.is_recorded = true;
        if answered {
            self.breakers.record_success(&self.key);
        } else {
            self.breakers.record_failure(&self.key, self.is_trial, now);
        }
    }

    fn abandon(&self, now: Instant) {
        if now.duration_since(self.started_at) >= SLOW_CALL_THRESHOLD {
            self.breakers.record_failure(&self.key, self.is_trial, now);
        } else if self.is_trial
            && let Some(state) = self.breakers.failing().get_mut(&self.key)
        {
            state.trial_in_progress = false;
        }
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        if !self.is_recorded {
            self.abandon(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN_DURATION: Duration = Duration::from_secs(5);

    fn key(module: Module, url: &str, tenant: &str) -> BreakerKey {
        BreakerKey { module, url: url.to_owned(), tenant: tenant.to_owned() }
    }

    fn users() -> BreakerKey {
        key(Module::Users, "http://okapi:9130", "northlib")
    }

    fn breakers() -> Arc<Breakers> {
        Arc::new(Breakers::new(BreakerLimits {
            failure_threshold: 3,
            open_duration: OPEN_DURATION,
        }))
    }

    fn fail(breakers: &Arc<Breakers>, key: &BreakerKey, now: Instant) {
        breakers
            .permit(key.clone(), now)
            .expect("a closed breaker permits every call")
            .record_result(false, now);
    }

    #[test]
    fn breaker_opens_after_consecutive_failures() {
        let (breakers, now) = (breakers(), Instant::now());
        for _ in 0..5 {
            fail(&breakers, &users(), now);
            fail(&breakers, &users(), now);
            breakers.permit(users(), now).unwrap().record_result(true, now);
        }
        for _ in 0..3 {
            assert!(breakers.is_closed(&users()));
            fail(&breakers, &users(), now);
        }
        assert!(!breakers.is_closed(&users()));
        assert!(breakers.permit(users(), now + OPEN_DURATION - Duration::from_millis(1)).is_none());
    }

    #[test]
    fn open_breaker_allows_one_trial_at_a_time() {
        let (breakers, now) = (breakers(), Instant::now());
        (0..3).for_each(|_| fail(&breakers, &users(), now));
        let later = now + OPEN_DURATION;
        let trial = breakers.permit(users(), later).expect("the breaker permits one trial");
        assert!(breakers.permit(users(), later).is_none(), "the breaker permits no second trial");
        trial.record_result(false, later);
        assert!(
            breakers.permit(users(), later + OPEN_DURATION / 2).is_none(),
            "a failed trial opens the breaker again"
        );
        let trial =
            breakers.permit(users(), later + OPEN_DURATION).expect("the breaker permits one trial");
        trial.record_result(true, later + OPEN_DURATION);
        assert!(breakers.is_closed(&users()));
        let all: Vec<_> =
            (0..10).map(|_| breakers.permit(users(), later + OPEN_DURATION)).collect();
        assert!(all.iter().all(Option::is_some));
    }

    #[test]
    fn abandoned_call_counts_if_it_was_slow() {
        let (breakers, now) = (breakers(), Instant::now());
        for _ in 0..10 {
            let mut permit = breakers.permit(users(), now).unwrap();
            permit.abandon(now + SLOW_CALL_THRESHOLD / 2);
            permit.is_recorded = true;
        }
        assert!(
            breakers.is_closed(&users()),
            "a call that its caller abandons early is not a failure"
        );
        for _ in 0..3 {
            let mut permit = breakers.permit(users(), now).unwrap();
            permit.abandon(now + SLOW_CALL_THRESHOLD);
            permit.is_recorded = true;
        }
        assert!(!breakers.is_closed(&users()));
        // A trial that is abandoned early passes the trial to the next call.
        let later = now + SLOW_CALL_THRESHOLD + OPEN_DURATION;
        let mut trial = breakers.permit(users(), later).unwrap();
        trial.abandon(later);
        trial.is_recorded = true;
        assert!(breakers.permit(users(), later).is_some());
    }

    #[test]
    fn breaker_is_per_module_tenant_and_gateway() {
        let (breakers, now) = (breakers(), Instant::now());
        (0..3).for_each(|_| fail(&breakers, &users(), now));
        for other in [
            key(Module::LoanStorage, "http://okapi:9130", "northlib"),
            key(Module::Users, "http://okapi:9131", "northlib"),
            key(Module::Users, "http://okapi:9130", "southlib"),
        ] {
            assert!(breakers.permit(other, now).is_some());
        }
    }

    #[test]
    fn breakers_are_bounded_and_oldest_are_evicted() {
        let (breakers, now) = (breakers(), Instant::now());
        for n in 0..2 * BREAKERS_MAX {
            fail(&breakers, &key(Module::Users, "http://okapi:9130", &format!("t{n}")), now);
        }
        assert_eq!(breakers.failing().len(), BREAKERS_MAX);
        fail(&breakers, &users(), now + OPEN_DURATION);
        assert_eq!(breakers.failing().len(), 1);
    }
}
