//! The numbers of evaluations by certainty in the last hours, per tenant, of this instance.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
};

use chrono::{DateTime, Utc};

use crate::{blocks::CertaintyState, event::TenantId};

/// Number of hours that are counted.
const HOURS: usize = 24;

/// Seconds of an hour.
const HOUR_SECONDS: i64 = 3600;

type Counts = [u64; CertaintyState::ALL.len()];

/// The numbers of evaluations by certainty in the last 24 hours.
#[derive(Debug, Default)]
pub struct CertaintyCounts(Mutex<HashMap<TenantId, VecDeque<(i64, Counts)>>>);

impl CertaintyCounts {
    /// Counts an evaluation of an enabled tenant.
    pub fn record(&self, tenant: &TenantId, state: CertaintyState, now: DateTime<Utc>) {
        let hour = now.timestamp() / HOUR_SECONDS;
        let mut tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !tenants.contains_key(tenant) {
            tenants.insert(tenant.clone(), VecDeque::new());
        }
        let Some(hours) = tenants.get_mut(tenant) else { return };
        if hours.back().is_none_or(|(last, _)| *last != hour) {
            hours.push_back((hour, Counts::default()));
            if hours.len() > HOURS {
                hours.pop_front();
            }
        }
        if let Some((_, counts)) = hours.back_mut() {
            counts[state as usize] += 1;
        }
    }

    /// Returns the number of evaluations with this certainty, and of all evaluations, in the last 24 hours.
    pub fn in_last_day(
        &self,
        tenant: &TenantId,
        state: CertaintyState,
        now: DateTime<Utc>,
    ) -> (u64, u64) {
        let oldest = now.timestamp() / HOUR_SECONDS - HOURS as i64;
        let tenants = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let hours = tenants.get(tenant).into_iter().flatten().filter(|(hour, _)| *hour > oldest);
        hours.fold((0, 0), |(of_state, all), (_, counts)| {
            (of_state + counts[state as usize], all + counts.iter().sum::<u64>())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn evaluations_of_the_last_day_are_counted() {
        let counts = CertaintyCounts::default();
        let (north, south) = ["northlib", "southlib"].map(|id| TenantId::parse(id).unwrap()).into();
        let at = |hour: i64| DateTime::from_timestamp(hour * HOUR_SECONDS + 59, 0).unwrap();
        for hour in 0..30 {
            counts.record(&north, CertaintyState::Certain, at(hour));
            counts.record(&north, CertaintyState::Late, at(hour));
            counts.record(&north, CertaintyState::Certain, at(hour));
        }
        let late = |tenant, hour| counts.in_last_day(tenant, CertaintyState::Late, at(hour));
        assert_eq!(
            [late(&north, 29), late(&north, 40), late(&north, 53)],
            [(24, 72), (13, 39), (0, 0)]
        );
        assert_eq!(late(&south, 29), (0, 0));
    }
}
