//! Measures a thousand simultaneous check-outs of one patron, and checks that each is counted.

use std::time::{Duration, Instant};

use patron_blocks::{event::Kind, store::Db};
use sqlx::AssertSqlSafe;

use crate::{
    fixture::{SeededRng, database, median, patron, print_line, schema},
    log::{Log, PARTITIONS},
    service::start,
};

const CHECK_OUTS: i32 = 1_000;
const ROUNDS: u64 = 10;

async fn counted(db: &Db, number: u64) -> i32 {
    let sql =
        format!("select open_loans from {}.patron_counter where user_id = $1", schema().name());
    let found = sqlx::query_scalar(AssertSqlSafe(sql)).bind(patron(number)).fetch_optional(db);
    found.await.expect("a counter").unwrap_or(0)
}

pub(crate) async fn measure() {
    let (login, db, _) = database("patron_blocks_bench_patron").await;
    let log = Log::make(5).await;
    let running = start(&login, &log, 2).await;
    let (mut took, mut rng) = (vec![], SeededRng::new(1));
    let mut poll = tokio::time::interval(Duration::from_millis(1));
    for round in 0..=ROUNDS {
        let user = patron(round);
        let start = Instant::now();
        for n in 0..CHECK_OUTS {
            let loan = rng.uuid();
            let payload = format!(
                r#"{{"userId":"{user}","loanId":"{loan}","dueDate":"2026-10-14T21:59:59.000Z"}}"#
            );
            log.send(Kind::ItemCheckedOut, n % PARTITIONS, payload.as_bytes());
        }
        while counted(&db, round).await < CHECK_OUTS {
            poll.tick().await;
        }
        assert_eq!(counted(&db, round).await, CHECK_OUTS);
        // The first round waits for the consumer group, so its result is discarded.
        if round > 0 {
            took.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    running.stop().await;
    log.remove().await;
    let took = median(took);
    print_line(&format!(
        "{CHECK_OUTS} check-outs of one patron, all counted after:   {took:>9.0} ms"
    ));
}
