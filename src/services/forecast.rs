//! The forecast: the patrons whom time alone will block until an instant. It reads pages of open loans over the
//! connections of operators, and rests between them, so no evaluation waits for it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use moka::future::Cache;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use uuid::Uuid;

use super::{
    block_events::{self, PatronFindings},
    evaluation::policy::Policy,
    tenants::Tenant,
    throttle::Throttle,
};
use crate::{
    blocks::{Actions, ForecastBlock, Measure},
    event::TenantId,
    store::{
        self, Db,
        state::dated_loans::{self, DatedPatron},
    },
};

/// Longest forecast.
const AHEAD_MAX: TimeDelta = TimeDelta::days(400);

/// Patrons that a forecast lists, earliest first. The counts include all.
pub const LISTED_PATRONS_MAX: usize = 100_000;

/// Listed patrons of all forecasts in memory, about 100 bytes each.
const MEMORY_PATRONS_MAX: usize = 3 * LISTED_PATRONS_MAX;

/// Forecasts in the cache.
const CACHED_FORECASTS_MAX: u64 = 64;

/// Time for which a forecast serves further requests, so that all pages come from one forecast.
const REUSE_TIME: Duration = Duration::from_secs(30);

/// Time that a request waits while the instance computes another forecast.
const TURN_TIMEOUT: Duration = Duration::from_secs(3);

/// Share of database time that forecasts use, in percent.
const DB_SHARE_PERCENT: u8 = 50;

/// The period of a forecast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ForecastPeriod {
    now: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl ForecastPeriod {
    /// Parses the end of a forecast that begins at `now`, or returns the violated rule.
    pub fn parse(now: DateTime<Utc>, until: &str) -> Result<Self, &'static str> {
        // A query string encodes the plus sign of an offset as a space if the client does not escape it.
        let unescaped = match until.rsplit_once(' ') {
            Some((time, offset)) if time.len() > "2026-09-18".len() => format!("{time}+{offset}"),
            _ => until.to_owned(),
        };
        let until = DateTime::parse_from_rfc3339(&unescaped).map_err(
            |_| "until must be an instant with a time and an offset, such as 2026-09-18T22:00:00Z",
        )?;
        let until = until.with_timezone(&Utc).trunc_subsecs(3);
        match until - now {
            ahead if ahead <= TimeDelta::zero() => Err("until must be in the future"),
            ahead if ahead > AHEAD_MAX => Err("until must be at most 400 days ahead"),
            _ => Ok(Self { now, until }),
        }
    }
}

/// The patrons whom time alone will block, and their counts.
#[derive(Debug)]
pub struct Forecast {
    /// The start of the forecast.
    pub evaluated_at: DateTime<Utc>,
    /// The end of the forecast.
    pub until: DateTime<Utc>,
    /// The first [`LISTED_PATRONS_MAX`] patrons, earliest first.
    pub patrons: Vec<ForecastPatron>,
    /// The numbers of all patrons.
    pub counts: ForecastCounts,
    policy: Arc<Policy>,
    _memory: OwnedSemaphorePermit,
}

/// The numbers of the patrons of a forecast.
#[derive(Debug, Default)]
pub struct ForecastCounts {
    /// All patrons of the forecast.
    pub total: usize,
    /// Patrons by the measure of their next limit.
    pub by_measure: BTreeMap<Measure, usize>,
    /// Patrons by group id in lower case.
    pub by_group: BTreeMap<Arc<str>, usize>,
    /// Patrons with an action that is blocked already.
    pub already_blocked: usize,
    /// Patrons outside the forecast: time alone may block them, but their group is unknown.
    pub unknown_group: usize,
}

/// A patron whom time alone will block.
#[derive(Debug, Clone)]
pub struct ForecastPatron {
    /// The patron.
    pub user: Uuid,
    /// The group id in lower case.
    pub group: Arc<str>,
    /// The instant at which the limit is reached.
    pub at: DateTime<Utc>,
    /// The id of the limit.
    pub limit: Uuid,
    /// The value of the limit.
    pub limit_value: Option<f64>,
    /// The measure of the limit.
    pub measure: Measure,
    /// The actions that the limit blocks from then on.
    pub blocks: Actions,
    /// The actions that some limit blocks from then on and none blocks now.
    pub become_blocked: Actions,
    /// The actions that other limits block now.
    pub blocked_now: Actions,
}

/// The cause of a missing forecast.
#[derive(Debug, thiserror::Error)]
pub enum ForecastError {
    /// A database statement failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The instance computes another forecast, or clients still read too many others.
    #[error("the service is busy with other forecasts")]
    Busy,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct CacheKey {
    tenant: TenantId,
    enabled_at: DateTime<Utc>,
    until: DateTime<Utc>,
}

/// Computes forecasts, one at a time.
pub struct Forecasts {
    cache: Cache<CacheKey, Arc<Forecast>>,
    turn: Semaphore,
    memory: Arc<Semaphore>,
    throttle: Throttle,
}

impl Default for Forecasts {
    fn default() -> Self {
        Self {
            cache: Cache::builder()
                .max_capacity(CACHED_FORECASTS_MAX)
                .time_to_live(REUSE_TIME)
                .build(),
            turn: Semaphore::new(1),
            memory: Arc::new(Semaphore::new(MEMORY_PATRONS_MAX)),
            throttle: Throttle::from_percent(DB_SHARE_PERCENT),
        }
    }
}

impl Forecasts {
    /// Returns the forecast of a tenant: a recent one by the same policy, or a new one. If the caller drops the
    /// future, the computation ends.
    pub async fn get(
        &self,
        db: &Db,
        tenant: &Tenant,
        policy: Arc<Policy>,
        period: ForecastPeriod,
    ) -> Result<Arc<Forecast>, ForecastError> {
        let (id, enabled_at) = (tenant.id.clone(), tenant.enabled_at);
        let key = CacheKey { tenant: id, enabled_at, until: period.until };
        if let Some(recent) = self.find_recent(&key, &policy, period).await {
            return Ok(recent);
        }
        let Ok(Ok(_turn)) = timeout(TURN_TIMEOUT, self.turn.acquire()).await else {
            return Err(ForecastError::Busy);
        };
        // The previous turn may have computed the same forecast.
        if let Some(recent) = self.find_recent(&key, &policy, period).await {
            return Ok(recent);
        }
        let draft = self.compute(db, tenant, &policy, period).await?;
        let memory = self.reserve_memory(draft.patrons.len()).await?;
        let forecast = Arc::new(draft.finish(policy, period, memory));
        self.cache.insert(key, forecast.clone()).await;
        Ok(forecast)
    }

    async fn find_recent(
        &self,
        key: &CacheKey,
        policy: &Policy,
        period: ForecastPeriod,
    ) -> Option<Arc<Forecast>> {
        let found = self.cache.get(key).await?;
        let age = (period.now - found.evaluated_at).abs().to_std().ok()?;
        (age <= REUSE_TIME && *found.policy == *policy).then_some(found)
    }

    /// Reserves memory for a list of patrons, if necessary instead of the cached forecasts. Responses in transfer
    /// keep their forecast.
    async fn reserve_memory(&self, patrons: usize) -> Result<OwnedSemaphorePermit, ForecastError> {
        let patrons = u32::try_from(patrons).map_err(|_| ForecastError::Busy)?;
        if let Ok(permit) = self.memory.clone().try_acquire_many_owned(patrons) {
            return Ok(permit);
        }
        self.cache.invalidate_all();
        self.cache.run_pending_tasks().await;
        self.memory.clone().try_acquire_many_owned(patrons).map_err(|_| ForecastError::Busy)
    }

    async fn compute(
        &self,
        db: &Db,
        tenant: &Tenant,
        policy: &Policy,
        period: ForecastPeriod,
    ) -> Result<Draft, store::Error> {
        let (ForecastPeriod { now, until }, mut draft) = (period, Draft::default());
        if !has_limits_of_time(policy) {
            return Ok(draft);
        }
        let mut after = Uuid::nil();
        loop {
            let began = Instant::now();
            let page = store::read(db, async |connection| {
                dated_loans::load_page(connection, &tenant.schema, after, now, until).await
            })
            .await?;
            for patron in &page.patrons {
                draft.add(patron, policy, period);
            }
            match page.last {
                Some(last) => after = last,
                None => return Ok(draft),
            }
            self.throttle.rest_after(began).await;
        }
    }
}

/// Returns whether time alone can reach a limit of any group.
fn has_limits_of_time(policy: &Policy) -> bool {
    let by_time = [Measure::OverdueItems, Measure::OverdueRecalls, Measure::RecallOverdueDays]
        .map(Measure::condition_id);
    let blocking: BTreeSet<Uuid> = policy
        .conditions
        .iter()
        .filter(|condition| by_time.contains(&condition.id) && !condition.blocks.is_empty())
        .map(|condition| condition.id)
        .collect();
    policy.limits.iter().filter_map(|limit| limit.condition).any(|id| blocking.contains(&id))
}

/// A forecast in progress.
#[derive(Default)]
struct Draft {
    /// The earliest patrons, by instant and id.
    patrons: BTreeMap<(DateTime<Utc>, Uuid), ForecastPatron>,
    counts: ForecastCounts,
}

impl Draft {
    fn add(&mut self, patron: &DatedPatron, policy: &Policy, period: ForecastPeriod) {
        let until = period.until;
        let DatedPatron { user, state, loans } = patron;
        let findings = match block_events::evaluate(Some(state), policy) {
            PatronFindings::Findings(findings) => findings,
            PatronFindings::GroupUnknown => {
                self.counts.unknown_group += 1;
                return;
            }
        };
        let Some(block) = ForecastBlock::find(&findings, loans, until) else { return };
        let group = self.counts.add(&block);
        let forecast = ForecastPatron {
            user: *user,
            group,
            at: block.at,
            limit: block.limit.id,
            limit_value: block.limit.value,
            measure: block.measure,
            blocks: block.blocks,
            become_blocked: block.become_blocked,
            blocked_now: block.blocked_now,
        };
        self.patrons.insert((block.at, *user), forecast);
        if self.patrons.len() > LISTED_PATRONS_MAX {
            self.patrons.pop_last();
        }
    }

    fn finish(
        self,
        policy: Arc<Policy>,
        period: ForecastPeriod,
        memory: OwnedSemaphorePermit,
    ) -> Forecast {
        Forecast {
            evaluated_at: period.now,
            until: period.until,
            patrons: self.patrons.into_values().collect(),
            counts: self.counts,
            policy,
            _memory: memory,
        }
    }
}

impl ForecastCounts {
    /// Counts a patron, and returns the id of the group.
    fn add(&mut self, block: &ForecastBlock<'_>) -> Arc<str> {
        self.total += 1;
        *self.by_measure.entry(block.measure).or_default() += 1;
        self.already_blocked += usize::from(!block.blocked_now.is_empty());
        let group = block.limit.patron_group.to_ascii_lowercase();
        let (group, patrons) = match self.by_group.get_key_value(&*group) {
            Some((group, patrons)) => (group.clone(), *patrons),
            None => (Arc::from(group), 0),
        };
        self.by_group.insert(group.clone(), patrons + 1);
        group
    }
}
