//! Measures ingest and the floor: the same events, batches and database, in one run.

#[allow(dead_code, reason = "each bench uses a part")]
mod fixture;
mod floor;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use fixture::{database, median, print_line, records};
use floor::FloorBatch;
use patron_blocks::{
    clock::Clock,
    config::HousekeepingConfig,
    kafka::delivery::ConsumedRecord,
    services::{
        maintenance::{
            housekeeping::Housekeeping,
            retention_limits::{Cutoffs, RetentionLimits},
        },
        tenants::TenantRegistry,
    },
    store::Db,
};
use tokio_util::sync::CancellationToken;

const EVENTS: usize = 100_000;
const BATCH: usize = 2_000;
const ROUNDS: u64 = 3;

/// Prunes until `stop`, loans and fees/fines up to `tombstones`, other rows up to now. Returns the number
/// of deleted rows.
async fn prune(
    db: &Db,
    tenants: &Arc<TenantRegistry>,
    tombstones: DateTime<Utc>,
    stop: &CancellationToken,
) -> u64 {
    let day = chrono::TimeDelta::days(1);
    let config = HousekeepingConfig {
        inbox_retention: day,
        tombstone_retention: day,
        dead_letter_retention: day,
        dead_letters_max: 1,
        dead_letters_bytes_max: 1 << 30,
        outbox_retention: day,
        interval: Duration::from_secs(3600),
        step_pause: Duration::from_millis(100),
    };
    let housekeeping = Housekeeping::new(db.clone(), tenants.clone(), Clock::system(), config);
    let tenant = tenants.all().pop().expect("a tenant");
    let now = Clock::system().now();
    let limits = RetentionLimits {
        cutoffs: Some(Cutoffs { inbox: now, tombstones }),
        dead_letters: now,
        discarded: now,
    };
    let deleted = housekeeping.prune_tenant(&tenant, limits, stop).await;
    deleted.inbox + deleted.loans + deleted.fees_fines
}

/// Returns the events per second through `services::ingest` with this many writers.
async fn ingest(
    db: &Db,
    tenants: &Arc<TenantRegistry>,
    events: &[ConsumedRecord],
    writers: usize,
) -> f64 {
    let ingest = fixture::ingest(db, tenants);
    let stop = CancellationToken::new();
    let start = Instant::now();
    let lanes = (0..writers).map(|lane| {
        let (ingest, stop) = (&ingest, &stop);
        async move {
            for batch in events.chunks(BATCH).skip(lane).step_by(writers) {
                let batch: Vec<&ConsumedRecord> = batch.iter().collect();
                ingest.commit_batch(&batch, stop).await.expect("no task stops the bench");
            }
        }
    });
    futures_util::future::join_all(lanes).await;
    events.len() as f64 / start.elapsed().as_secs_f64()
}

/// Measures the cost of housekeeping for ingest, and the rate of housekeeping alone.
async fn housekeeping(db: &Db, tenants: &Arc<TenantRegistry>) {
    let mut ratios = vec![];
    for round in 0..ROUNDS {
        let (ingest_alone, together) =
            (records(EVENTS, 1000 + round), records(EVENTS, 2000 + round));
        let ingest_alone = ingest(db, tenants, &ingest_alone, 2).await;
        let stop = CancellationToken::new();
        let (_, together) = tokio::join!(prune(db, tenants, DateTime::UNIX_EPOCH, &stop), async {
            let together = ingest(db, tenants, &together, 2).await;
            stop.cancel();
            together
        });
        ratios.push(together / ingest_alone);
    }
    print_line(&format!(
        "two writers, ratio with to without housekeeping:  {:>9.2}",
        median(ratios)
    ));
    let start = Instant::now();
    let deleted = prune(db, tenants, Clock::system().now(), &CancellationToken::new()).await;
    let rate = deleted as f64 / start.elapsed().as_secs_f64();
    print_line(&format!(
        "housekeeping without ingest:                      {rate:>9.0} rows/s deleted"
    ));
}

#[tokio::main]
async fn main() {
    let (_, db, tenants) = database("patron_blocks_bench_ingest").await;
    floor::make(&db).await;
    let (mut floor_rates, mut one_writer_ratios, mut two_writer_ratios, mut redelivery_ratios) =
        (vec![], vec![], vec![], vec![]);
    for round in 0..=ROUNDS {
        let (events, more) = (records(EVENTS, round * 2 + 1), records(EVENTS, round * 2 + 2));
        let batches: Vec<_> = events.chunks(BATCH).map(FloorBatch::of).collect();
        let bare = floor::rate(&db, &batches).await;
        let one = ingest(&db, &tenants, &events, 1).await;
        let two = ingest(&db, &tenants, &more, 2).await;
        let repeated = ingest(&db, &tenants, &events, 1).await;
        // The first round fills the tables and the caches, so its result is discarded.
        if round > 0 {
            floor_rates.push(bare);
            one_writer_ratios.push(one / bare);
            two_writer_ratios.push(two / one);
            redelivery_ratios.push(repeated / one);
        }
    }
    print_line(&format!(
        "floor, bare SQL, one writer, batches of {BATCH}:   {:>9.0} events/s",
        median(floor_rates)
    ));
    print_line(&format!(
        "ingest, one writer, ratio to the floor:           {:>9.2}",
        median(one_writer_ratios)
    ));
    print_line(&format!(
        "two writers, ratio to one writer:                 {:>9.2}",
        median(two_writer_ratios)
    ));
    print_line(&format!(
        "redelivery, ratio to the first delivery:          {:>9.2}",
        median(redelivery_ratios)
    ));
    housekeeping(&db, &tenants).await;
    let wrong = patron_blocks::store::state::patrons::list_drifted(&db, &fixture::schema())
        .await
        .expect("a recount");
    print_line(&format!("patrons with wrong counters:                      {:>9}", wrong.len()));
    assert!(wrong.is_empty(), "every counter is right");
}
