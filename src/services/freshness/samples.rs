//! The lag of each tenant in the last hour, by minute, for pages.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::event::TenantId;

/// Number of minutes that are stored.
const MINUTES: usize = 60;

/// The greatest lag of each minute.
#[derive(Debug, Default)]
pub struct LagSamples(Mutex<HashMap<TenantId, VecDeque<(i64, i64)>>>);

impl LagSamples {
    /// Adds the lags of all enabled tenants. Other tenants are forgotten.
    pub fn record(&self, lags: impl Iterator<Item = (TenantId, i64)>, now: DateTime<Utc>) {
        let minute = now.timestamp().div_euclid(60);
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = HashMap::new();
        for (tenant, lag) in lags {
            let mut minutes = samples.remove(&tenant).unwrap_or_default();
            match minutes.back_mut() {
                Some((last, greatest)) if *last == minute => *greatest = lag.max(*greatest),
                _ => {
                    minutes.push_back((minute, lag));
                    if minutes.len() > MINUTES {
                        minutes.pop_front();
                    }
                }
            }
            next.insert(tenant, minutes);
        }
        *samples = next;
    }

    /// Returns the greatest lag of each stored minute of a tenant, oldest first.
    pub fn of(&self, tenant: &TenantId) -> Vec<i64> {
        let samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.get(tenant).into_iter().flatten().map(|(_, lag)| *lag).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_minute_has_its_greatest_lag() {
        let (north, south): (TenantId, TenantId) =
            ["northlib", "southlib"].map(|id| TenantId::parse(id).unwrap()).into();
        let samples = LagSamples::default();
        let at = |seconds| DateTime::from_timestamp(seconds, 0).unwrap();
        for (second, lag) in [(0, 1), (30, 5), (59, 2), (60, 0)] {
            let lags = [(north.clone(), lag), (south.clone(), 7)];
            samples.record(lags.into_iter(), at(second));
        }
        assert_eq!(samples.of(&north), [5, 0]);
        for minute in 2..90 {
            samples.record([(north.clone(), minute)].into_iter(), at(minute * 60));
        }
        assert_eq!(samples.of(&north).len(), MINUTES);
        assert_eq!(samples.of(&north)[MINUTES - 1], 89);
        assert_eq!(samples.of(&south), [0; 0], "a disabled tenant is forgotten");
    }
}
