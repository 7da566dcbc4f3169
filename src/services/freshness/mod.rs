//! How far the events of each tenant are applied, refreshed once a second.
//!
//! Each instance compares the positions of its partitions with the ends of the log, and stores a report. It reads
//! the reports of all instances, so each instance knows the progress of all partitions. An evaluation reads the
//! result from memory.

mod comparison;
mod samples;
mod view;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use uuid::Uuid;

use self::{
    comparison::{LogComparison, run_blocking},
    view::TopicList,
};
pub use self::{
    samples::LagSamples,
    view::{FreshnessView, TenantFreshness},
};
use crate::{
    event::{Environment, TenantId},
    kafka::ConsumerParts,
    logging::ErrorChain,
    services::tenants::TenantRegistry,
    store::{
        self, Db,
        ingest::instance_reports::{self, NewReport, OwnedPartitions},
    },
};

/// Shortest interval between two comparisons.
const INTERVAL_MIN: Duration = Duration::from_secs(1);

/// Number of partitions that one comparison per second may have. With more partitions the interval grows.
const PARTITIONS_PER_SECOND: usize = 1_000;

/// Time limit for the deletion of the report when the service stops.
const DELETE_TIMEOUT: Duration = Duration::from_secs(1);

/// Time limit for one report.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// How far the events of all tenants are applied, as this instance knows it.
#[derive(Debug, Default)]
pub struct Freshness {
    view: RwLock<Arc<FreshnessView>>,
    /// When the last event of a tenant arrived over HTTP at this instance.
    callbacks: Mutex<HashMap<TenantId, Instant>>,
    /// The lag of each tenant in the last hour.
    pub lags: LagSamples,
}

impl Freshness {
    /// Returns the last view.
    pub fn view(&self) -> Arc<FreshnessView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records an event that arrived over HTTP.
    pub fn record_callback(&self, tenant: &TenantId) {
        let mut callbacks = self.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        callbacks.insert(tenant.clone(), Instant::now());
    }

    fn set_view(&self, view: FreshnessView) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    /// Returns the callbacks of tenants without a log.
    fn callbacks(&self, clock: DatabaseClock) -> HashMap<String, DateTime<Utc>> {
        let view = self.view();
        let callbacks = self.callbacks.lock().unwrap_or_else(PoisonError::into_inner);
        let without_log = callbacks.iter().filter(|(tenant, _)| !view.of(tenant).has_log);
        without_log.map(|(tenant, at)| (tenant.to_string(), clock.convert(*at))).collect()
    }
}

/// The time of the database clock at an instant of this process.
#[derive(Debug, Clone, Copy)]
struct DatabaseClock(DateTime<Utc>, Instant);

impl DatabaseClock {
    fn convert(self, instant: Instant) -> DateTime<Utc> {
        let Self(at, read) = self;
        let delta = |between: Duration| TimeDelta::from_std(between).unwrap_or_default();
        at + delta(instant.saturating_duration_since(read))
            - delta(read.saturating_duration_since(instant))
    }
}

/// The task that refreshes [`Freshness`].
pub struct FreshnessTask {
    instance: Uuid,
    freshness: Arc<Freshness>,
    parts: ConsumerParts,
    environment: Environment,
    db: Db,
    tenants: Arc<TenantRegistry>,
    comparison: LogComparison,
    /// The owned partitions of each instance, with their version.
    owned: BTreeMap<Uuid, (i64, OwnedPartitions)>,
    topics: Option<(Arc<TopicList>, Instant)>,
    topics_max_age: Duration,
}

impl FreshnessTask {
    /// Creates the task. It lists the topics again after `topics_max_age`.
    pub fn new(
        freshness: Arc<Freshness>,
        parts: ConsumerParts,
        environment: Environment,
        (db, tenants): (Db, Arc<TenantRegistry>),
        topics_max_age: Duration,
    ) -> Self {
        Self {
            instance: Uuid::new_v4(),
            freshness,
            parts,
            environment,
            db,
            tenants,
            comparison: LogComparison::default(),
            owned: BTreeMap::new(),
            topics: None,
            topics_max_age,
        }
    }

    /// Refreshes until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.tenants.ready()).await;
        while !stop.is_cancelled() {
            stop.run_until_cancelled(self.refresh()).await;
            let partitions: usize = self.comparison.owned.values().map(Vec::len).sum();
            let interval =
                INTERVAL_MIN.mul_f64((partitions as f64 / PARTITIONS_PER_SECOND as f64).max(1.0));
            stop.run_until_cancelled(sleep(interval)).await;
        }
        // Another instance takes over the partitions, so the report must not count any longer.
        let delete = instance_reports::delete(&self.db, self.instance);
        if let Err(error) = store::with_timeout(DELETE_TIMEOUT, delete).await {
            let error: &store::Error = &error;
            debug!(error = %ErrorChain(error), "freshness: could not delete the report; it expires");
        }
    }

    async fn refresh(&mut self) {
        self.list_topics().await;
        if let Err(error) = self.comparison.compare(&self.parts).await {
            debug!(%error, "freshness: could not compare positions with log ends; retrying");
        }
        if let Err(error) = store::with_timeout(REPORT_TIMEOUT, self.report()).await {
            let error: &store::Error = &error;
            debug!(error = %ErrorChain(error), "freshness: could not exchange progress reports; retrying");
        }
    }

    async fn list_topics(&mut self) {
        if self.topics.as_ref().is_some_and(|(_, listed)| listed.elapsed() < self.topics_max_age) {
            return;
        }
        let broker = self.parts.broker.clone();
        match run_blocking(move || broker.topics()).await {
            Ok(topics) => {
                let topics = Arc::new(TopicList::new(topics, &self.environment));
                self.topics = Some((topics, Instant::now()));
            }
            Err(error) => debug!(%error, "freshness: could not list the topics; retrying"),
        }
    }

    /// Stores the report of this instance, reads all reports, and replaces the view.
    async fn report(&mut self) -> Result<(), store::Error> {
        let mut tx = store::begin(&self.db).await?;
        let clock = DatabaseClock(store::now(&mut *tx).await?, Instant::now());
        let stopped = self.parts.assignment.stopped_partitions();
        let new = NewReport {
            instance: self.instance,
            compared_at: self.comparison.compared.map(|at| clock.convert(at)),
            owned_version: self.comparison.owned_version,
            owned: &self.comparison.owned,
            behind: &self.comparison.behind(&stopped, |at| clock.convert(at)),
            callbacks: &self.freshness.callbacks(clock),
        };
        instance_reports::write(&mut tx, &new).await?;
        let known = self.owned.iter().map(|(id, (version, _))| (*id, *version)).collect();
        let mut reports = instance_reports::read(&mut tx, &known).await?;
        store::commit(tx).await?;
        self.owned.retain(|id, _| reports.iter().any(|report| report.instance == *id));
        for report in &mut reports {
            if let Some(owned) = report.owned.take() {
                self.owned.insert(report.instance, (report.owned_version, owned));
            }
        }
        let owned = self.owned.iter().map(|(id, (_, owned))| (*id, owned)).collect();
        let topics = self.topics.as_ref().map(|(topics, _)| topics);
        let view = self.freshness.view();
        let view = view.next(reports, (clock.0, clock.1), &owned, topics, &self.environment);
        let tenants = self.tenants.all();
        let lags = tenants.iter().map(|tenant| (tenant.id.clone(), view.of(&tenant.id).lag));
        self.freshness.lags.record(lags, clock.0);
        self.freshness.set_view(view);
        Ok(())
    }
}
