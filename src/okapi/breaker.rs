//! Breakers: a module that gives no answer several times in a row is asked by nobody for a while, and then by
//! one call that finds out whether it is back.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tracing::{info, warn};

use super::Module;

/// A failure that comes sooner costs nobody anything: a module that says no at once may be asked on.
pub(super) const SLOW: Duration = Duration::from_millis(500);

/// Breakers at once, at most. A module beyond that is asked without one.
const MOST: usize = 1000;

/// When a breaker opens, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerLimits {
    /// So many calls in a row without an answer open it.
    pub failures: u32,
    /// Nobody asks for this time.
    pub pause: Duration,
}

/// What a breaker is for: a module of a tenant behind a gateway.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) module: Module,
    pub(super) url: String,
    pub(super) tenant: String,
}

/// Of a module that failed at least once since it last answered.
#[derive(Debug)]
struct State {
    failures: u32,
    last: Instant,
    /// One call is finding out whether the module is back.
    trying: bool,
}

/// The breakers of all modules.
#[derive(Debug)]
pub(super) struct Breakers {
    limits: BreakerLimits,
    failing: Mutex<HashMap<Key, State>>,
}

impl Breakers {
    pub(super) fn new(limits: BreakerLimits) -> Self {
        Self { limits, failing: Mutex::default() }
    }

    fn failing(&self) -> MutexGuard<'_, HashMap<Key, State>> {
        self.failing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anybody may ask.
    pub(super) fn is_closed(&self, key: &Key) -> bool {
        self.failing().get(key).is_none_or(|state| state.failures < self.limits.failures)
    }

    /// Leave to ask; none while the breaker is open.
    pub(super) fn permit(self: &Arc<Self>, key: Key, now: Instant) -> Option<Permit> {
        let mut failing = self.failing();
        let is_trial = match failing.get_mut(&key) {
            Some(state) if state.failures >= self.limits.failures => {
                if state.trying || now.duration_since(state.last) < self.limits.pause {
                    return None;
                }
                state.trying = true;
                true
            }
            _ => false,
        };
        Some(Permit { breakers: self.clone(), key, began: now, is_trial, is_settled: false })
    }

    fn succeed(&self, key: &Key) {
        let state = self.failing().remove(key);
        if state.is_some_and(|state| state.failures >= self.limits.failures) {
            let Key { module, url, tenant } = key;
            info!(module = module.name(), okapi.url = url, tenant, "circuit breaker: closed; the module responds again");
        }
    }

    fn fail(&self, key: &Key, is_trial: bool, now: Instant) {
        let mut failing = self.failing();
        if failing.len() >= MOST && !failing.contains_key(key) {
            failing.retain(|_, state| now.duration_since(state.last) < self.limits.pause);
            if failing.len() >= MOST {
                return;
            }
        }
        let state =
            failing.entry(key.clone()).or_insert(State { failures: 0, last: now, trying: false });
        state.failures = state.failures.saturating_add(1);
        state.last = now;
        state.trying &= !is_trial;
        if state.failures == self.limits.failures {
            let (Key { module, url, tenant }, pause) = (key, self.limits.pause);
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

/// Leave to ask once. Whoever asks says how it went. A call that is given up counts as a failure if it had
/// waited for long.
#[derive(Debug)]
pub(super) struct Permit {
    breakers: Arc<Breakers>,
    key: Key,
    began: Instant,
    is_trial: bool,
    is_settled: bool,
}

impl Permit {
    /// The module answered, or it cost time that it did not.
    pub(super) fn settle(mut self, answered: bool, now: Instant) {
        self.is_settled = true;
        if answered {
            self.breakers.succeed(&self.key);
        } else {
            self.breakers.fail(&self.key, self.is_trial, now);
        }
    }

    fn give_up(&self, now: Instant) {
        if now.duration_since(self.began) >= SLOW {
            self.breakers.fail(&self.key, self.is_trial, now);
        } else if self.is_trial
            && let Some(state) = self.breakers.failing().get_mut(&self.key)
        {
            state.trying = false;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.is_settled {
            self.give_up(Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(5);

    fn key(module: Module, url: &str, tenant: &str) -> Key {
        Key { module, url: url.to_owned(), tenant: tenant.to_owned() }
    }

    fn users() -> Key {
        key(Module::Users, "http://okapi:9130", "northlib")
    }

    fn breakers() -> Arc<Breakers> {
        Arc::new(Breakers::new(BreakerLimits { failures: 3, pause: PAUSE }))
    }

    fn fail(breakers: &Arc<Breakers>, key: &Key, now: Instant) {
        breakers.permit(key.clone(), now).expect("it is asked").settle(false, now);
    }

    #[test]
    fn a_breaker_opens_after_failures_in_a_row() {
        let (breakers, now) = (breakers(), Instant::now());
        for _ in 0..5 {
            fail(&breakers, &users(), now);
            fail(&breakers, &users(), now);
            breakers.permit(users(), now).unwrap().settle(true, now);
        }
        for _ in 0..3 {
            assert!(breakers.is_closed(&users()));
            fail(&breakers, &users(), now);
        }
        assert!(!breakers.is_closed(&users()));
        assert!(breakers.permit(users(), now + PAUSE - Duration::from_millis(1)).is_none());
    }

    #[test]
    fn an_open_breaker_is_tried_by_one_call_at_a_time() {
        let (breakers, now) = (breakers(), Instant::now());
        (0..3).for_each(|_| fail(&breakers, &users(), now));
        let later = now + PAUSE;
        let trial = breakers.permit(users(), later).expect("one may try");
        assert!(breakers.permit(users(), later).is_none(), "and nobody else");
        trial.settle(false, later);
        assert!(breakers.permit(users(), later + PAUSE / 2).is_none(), "it is open again");
        let trial = breakers.permit(users(), later + PAUSE).expect("one may try");
        trial.settle(true, later + PAUSE);
        assert!(breakers.is_closed(&users()));
        let all: Vec<_> = (0..10).map(|_| breakers.permit(users(), later + PAUSE)).collect();
        assert!(all.iter().all(Option::is_some));
    }

    #[test]
    fn a_call_that_is_given_up_counts_if_it_waited_for_long() {
        let (breakers, now) = (breakers(), Instant::now());
        for _ in 0..10 {
            let mut permit = breakers.permit(users(), now).unwrap();
            permit.give_up(now + SLOW / 2);
            permit.is_settled = true;
        }
        assert!(breakers.is_closed(&users()), "who goes away at once says nothing of the module");
        for _ in 0..3 {
            let mut permit = breakers.permit(users(), now).unwrap();
            permit.give_up(now + SLOW);
            permit.is_settled = true;
        }
        assert!(!breakers.is_closed(&users()));
        // A trial that is given up at once leaves the trial to the next call.
        let later = now + SLOW + PAUSE;
        let mut trial = breakers.permit(users(), later).unwrap();
        trial.give_up(later);
        trial.is_settled = true;
        assert!(breakers.permit(users(), later).is_some());
    }

    #[test]
    fn each_module_tenant_and_gateway_has_a_breaker_of_its_own() {
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
    fn breakers_are_bounded_and_the_oldest_make_room() {
        let (breakers, now) = (breakers(), Instant::now());
        for n in 0..2 * MOST {
            fail(&breakers, &key(Module::Users, "http://okapi:9130", &format!("t{n}")), now);
        }
        assert_eq!(breakers.failing().len(), MOST);
        fail(&breakers, &users(), now + PAUSE);
        assert_eq!(breakers.failing().len(), 1);
    }
}
