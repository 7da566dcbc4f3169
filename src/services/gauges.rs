//! Gauges that are read on demand: from the database, from the connection pools, and from this
//! instance's partitions. Counters are in the `metrics.rs` of each
//! layer.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use metrics::{describe_gauge, gauge};
use tracing::debug;

use super::{
    block_events::BlockEvents,
    freshness::Freshness,
    tenants::{Tenant, TenantRegistry},
};
use crate::{
    kafka::ConsumerStatus,
    logging::ErrorChain,
    store::{self, Db, ingest::incidents, state::prune},
};

/// Shortest interval between two queries of the database.
const QUERY_INTERVAL: Duration = Duration::from_secs(30);

/// All gauges of this instance, set on demand.
pub struct Gauges {
    tenants: Arc<TenantRegistry>,
    kafka: Arc<ConsumerStatus>,
    freshness: Arc<Freshness>,
    block_events: Arc<BlockEvents>,
    /// `true` if each tenant has gauges of its own.
    by_tenant: bool,
    pools: Mutex<Vec<(&'static str, Db)>>,
    last_query: Mutex<Option<Instant>>,
}

/// Table sizes, summed over tenants or of one tenant.
#[derive(Default)]
struct SizeTotals {
    inbox: i64,
    loans: i64,
    fees_fines: i64,
    dead_letters: i64,
    oldest: Option<chrono::DateTime<chrono::Utc>>,
    oldest_dead_letter: Option<chrono::DateTime<chrono::Utc>>,
}

impl SizeTotals {
    fn add(&mut self, sizes: &prune::TableSizes) {
        self.inbox += sizes.inbox;
        self.loans += sizes.loans;
        self.fees_fines += sizes.fees_fines;
        self.dead_letters += sizes.dead_letters;
        self.oldest = sizes.inbox_oldest.into_iter().chain(self.oldest).min();
        self.oldest_dead_letter =
            sizes.dead_letters_oldest.into_iter().chain(self.oldest_dead_letter).min();
    }

    /// Sets the gauges; `tenant` is `all` for the sum.
    fn set(&self, tenant: &str) {
        for (table, rows) in [
            ("inbox", self.inbox),
            ("loan", self.loans),
            ("fee_fine", self.fees_fines),
            ("dead_letter", self.dead_letters),
        ] {
            let tenant = tenant.to_owned();
            gauge!("patron_blocks_rows", "table" => table, "tenant" => tenant).set(rows as f64);
        }
        for (table, oldest) in [("inbox", self.oldest), ("dead_letter", self.oldest_dead_letter)] {
            let tenant = tenant.to_owned();
            let at = oldest.map_or(0.0, |oldest| oldest.timestamp() as f64);
            gauge!("patron_blocks_oldest_row_timestamp", "table" => table, "tenant" => tenant)
                .set(at);
        }
    }
}

impl Gauges {
    /// Creates the gauges without a connection pool.
    pub fn new(
        tenants: Arc<TenantRegistry>,
        (kafka, freshness): (Arc<ConsumerStatus>, Arc<Freshness>),
        block_events: Arc<BlockEvents>,
        by_tenant: bool,
    ) -> Self {
        describe();
        Self {
            tenants,
            kafka,
            freshness,
            block_events,
            by_tenant,
            pools: Mutex::default(),
            last_query: Mutex::default(),
        }
    }

    /// Adds a connection pool to the gauges.
    pub fn register_pool(&self, name: &'static str, pool: &Db) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.push((name, pool.clone()));
    }

    /// Sets all gauges. If the database fails, its gauges retain their last values.
    pub async fn update(&self, db: &Db) {
        self.set_instance_gauges();
        let due = {
            let mut last_query = self.last_query.lock().unwrap_or_else(PoisonError::into_inner);
            let due = last_query.is_none_or(|last| last.elapsed() > QUERY_INTERVAL);
            if due {
                *last_query = Some(Instant::now());
            }
            due
        };
        if due && let Err(error) = self.query(db).await {
            debug!(error = %ErrorChain(&error), "metrics: could not query the database; gauges keep their last values");
        }
    }

    fn set_instance_gauges(&self) {
        let health = self.kafka.health();
        for (stage, number) in [
            ("starting", health.partitions.starting),
            ("reading", health.partitions.reading),
            ("paused", health.partitions.paused),
            ("stopped", health.partitions.stopped),
        ] {
            gauge!("patron_blocks_partitions", "stage" => stage).set(number as f64);
        }
        gauge!("patron_blocks_paused").set(f64::from(u8::from(health.paused)));
        gauge!("patron_blocks_brokers_up").set(health.brokers_up as f64);
        for ((topic, partition), lag) in self.kafka.lags() {
            let partition = partition.to_string();
            gauge!("patron_blocks_lag_records", "topic" => topic, "partition" => partition)
                .set(lag as f64);
        }
        gauge!("patron_blocks_as_of_age_seconds").set(self.oldest_as_of_seconds());
        let backlog = self.block_events.backlog();
        gauge!("patron_blocks_patrons_pending").set(backlog.pending_patrons as f64);
        gauge!("patron_blocks_outbox_messages").set(backlog.unsent_messages as f64);
        gauge!("patron_blocks_outbox_oldest_seconds").set(backlog.oldest_unsent_age.as_secs_f64());
        gauge!("patron_blocks_outbox_overdue")
            .set(f64::from(u8::from(self.block_events.is_overdue())));
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        for name in ["work", "web", "operators"] {
            let of_name = || pools.iter().filter(|(of, _)| *of == name).map(|(_, pool)| pool);
            let idle: usize = of_name().map(|pool| pool.num_idle()).sum();
            let all: usize = of_name().map(|pool| pool.size() as usize).sum();
            for (state, number) in [("idle", idle), ("used", all.saturating_sub(idle))] {
                gauge!("patron_blocks_connections", "pool" => name, "state" => state)
                    .set(number as f64);
            }
        }
    }

    /// Returns the age of the oldest instant up to which the events of a tenant are applied.
    fn oldest_as_of_seconds(&self) -> f64 {
        let view = self.freshness.view();
        let as_of = |tenant: Arc<Tenant>| view.of(&tenant.id).as_of;
        let oldest = self.tenants.all().into_iter().filter_map(as_of).min();
        let age = view.now().zip(oldest).and_then(|(now, oldest)| (now - oldest).to_std().ok());
        age.unwrap_or_default().as_secs_f64()
    }

    async fn query(&self, db: &Db) -> Result<(), store::Error> {
        let open = store::read(db, async |db| incidents::count_open_by_kind(db).await).await?;
        for kind in incidents::IncidentKind::ALL {
            let number = open.iter().find(|(name, _)| name == kind.name()).map_or(0, |(_, n)| *n);
            gauge!("patron_blocks_incidents_open", "kind" => kind.name()).set(number as f64);
        }
        let mut sum = SizeTotals::default();
        let all = self.tenants.all();
        for state in ["complete", "filling", "incomplete"] {
            let number = all.iter().filter(|tenant| tenant.completeness().name() == state).count();
            gauge!("patron_blocks_tenants", "completeness" => state).set(number as f64);
        }
        for tenant in all {
            let schema = &tenant.schema;
            let sizes = store::read(db, async |db| prune::table_sizes(db, schema).await).await?;
            sum.add(&sizes);
            if self.by_tenant {
                let mut of_tenant = SizeTotals::default();
                of_tenant.add(&sizes);
                of_tenant.set(tenant.id.as_str());
            }
        }
        sum.set("all");
        Ok(())
    }
}

fn describe() {
    for (name, description) in [
        ("patron_blocks_partitions", "Partitions of this instance by stage"),
        (
            "patron_blocks_paused",
            "1 if reading is paused because records cannot be stored, otherwise 0",
        ),
        ("patron_blocks_brokers_up", "Brokers with a working connection"),
        (
            "patron_blocks_lag_records",
            "Unprocessed records of this instance's partitions, by topic and partition",
        ),
        (
            "patron_blocks_as_of_age_seconds",
            "Age of the oldest instant up to which the events of an enabled tenant are applied, in seconds",
        ),
        ("patron_blocks_patrons_pending", "Approximate number of pending patrons"),
        ("patron_blocks_outbox_messages", "Approximate number of unsent messages in the outbox"),
        (
            "patron_blocks_outbox_oldest_seconds",
            "Age of the oldest unsent message in the outbox, in seconds",
        ),
        (
            "patron_blocks_outbox_overdue",
            "1 if the oldest unsent message has the age OUTBOX_OVERDUE_SECONDS, otherwise 0",
        ),
        ("patron_blocks_connections", "Database connections by pool and state"),
        ("patron_blocks_incidents_open", "Open incidents of all tenants by kind"),
        ("patron_blocks_tenants", "Enabled tenants by completeness of their history"),
        ("patron_blocks_rows", "Estimated number of rows by table and tenant"),
        (
            "patron_blocks_oldest_row_timestamp",
            "Time of receipt of the oldest row, in seconds since the epoch",
        ),
    ] {
        describe_gauge!(name, description);
    }
}
