//! Ingest beside the floor: the same events, the same batches, the same database, in one run.

mod floor;
#[allow(dead_code, reason = "each bench uses a part")]
mod prepared;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use floor::FloorBatch;
use patron_blocks::{
    clock::Clock,
    config::HousekeepingConfig,
    flow::{
        housekeeping::{Housekeeping, Limits, Past},
        ingest::Incoming,
        tenants::Tenants,
    },
    store::Db,
};
use prepared::{database, median, records, say};
use tokio_util::sync::CancellationToken;

const EVENTS: usize = 100_000;
const BATCH: usize = 2_000;
const ROUNDS: u64 = 3;

/// Removes what is past by now, of loans and fees/fines what is past by `tombstones`, until `stop`. Tells
/// how many rows went.
async fn tidy(
    db: &Db,
    tenants: &Arc<Tenants>,
    tombstones: DateTime<Utc>,
    stop: &CancellationToken,
) -> u64 {
    let day = chrono::TimeDelta::days(1);
    let config = HousekeepingConfig {
        inbox: day,
        tombstones: day,
        dead_letters: day,
        dead_letters_most: 1,
        dead_letters_bytes: 1 << 30,
        messages: day,
        interval: Duration::from_secs(3600),
        pause: Duration::from_millis(100),
    };
    let housekeeping = Housekeeping::new(db.clone(), tenants.clone(), Clock::system(), config);
    let tenant = tenants.all().pop().expect("a tenant");
    let now = Clock::system().now();
    let limits = Limits { past: Some(Past { inbox: now, tombstones }), dead_letters: now };
    let gone = housekeeping.tidy(&tenant, limits, stop).await;
    gone.inbox + gone.loans + gone.fees_fines
}

/// Events a second through `flow::ingest`, by so many writers.
async fn ingest(db: &Db, tenants: &Arc<Tenants>, events: &[Incoming], writers: usize) -> f64 {
    let ingest = prepared::ingest(db, tenants);
    let stop = CancellationToken::new();
    let start = Instant::now();
    let lanes = (0..writers).map(|lane| {
        let (ingest, stop) = (&ingest, &stop);
        async move {
            for batch in events.chunks(BATCH).skip(lane).step_by(writers) {
                let batch: Vec<&Incoming> = batch.iter().collect();
                ingest.settle(&batch, stop).await.expect("nobody stops it");
            }
        }
    });
    futures_util::future::join_all(lanes).await;
    events.len() as f64 / start.elapsed().as_secs_f64()
}

/// What housekeeping takes from ingest, and how fast it is when it is alone.
async fn housekeeping(db: &Db, tenants: &Arc<Tenants>) {
    let mut beside = vec![];
    for round in 0..ROUNDS {
        let (alone, together) = (records(EVENTS, 1000 + round), records(EVENTS, 2000 + round));
        let alone = ingest(db, tenants, &alone, 2).await;
        let stop = CancellationToken::new();
        let (_, together) = tokio::join!(tidy(db, tenants, DateTime::UNIX_EPOCH, &stop), async {
            let together = ingest(db, tenants, &together, 2).await;
            stop.cancel();
            together
        });
        beside.push(together / alone);
    }
    say(&format!("two writers beside housekeeping, against alone:   {:>9.2}", median(beside)));
    let start = Instant::now();
    let gone = tidy(db, tenants, Clock::system().now(), &CancellationToken::new()).await;
    let rate = gone as f64 / start.elapsed().as_secs_f64();
    say(&format!("housekeeping, at its own pace:                    {rate:>9.0} rows/s removed"));
}

#[tokio::main]
async fn main() {
    let (_, db, tenants) = database("patron_blocks_bench_ingest").await;
    floor::make(&db).await;
    let (mut floors, mut ones, mut twos, mut again) = (vec![], vec![], vec![], vec![]);
    for round in 0..=ROUNDS {
        let (events, more) = (records(EVENTS, round * 2 + 1), records(EVENTS, round * 2 + 2));
        let batches: Vec<_> = events.chunks(BATCH).map(FloorBatch::of).collect();
        let bare = floor::rate(&db, &batches).await;
        let one = ingest(&db, &tenants, &events, 1).await;
        let two = ingest(&db, &tenants, &more, 2).await;
        let repeated = ingest(&db, &tenants, &events, 1).await;
        // The first round fills the tables and warms everything up.
        if round > 0 {
            floors.push(bare);
            ones.push(one / bare);
            twos.push(two / one);
            again.push(repeated / one);
        }
    }
    say(&format!(
        "floor, bare SQL, one writer, batches of {BATCH}:   {:>9.0} events/s",
        median(floors)
    ));
    say(&format!("ingest, one writer, against the floor:            {:>9.2}", median(ones)));
    say(&format!("two writers against one:                          {:>9.2}", median(twos)));
    say(&format!("redelivery of everything against first delivery:  {:>9.2}", median(again)));
    housekeeping(&db, &tenants).await;
    let wrong =
        patron_blocks::store::patrons::drift(&db, &prepared::schema()).await.expect("a recount");
    say(&format!("patrons with wrong counters:                      {:>9}", wrong.len()));
    assert!(wrong.is_empty(), "a fast wrong answer is no answer");
}
