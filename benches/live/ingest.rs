//! Measures the events per second of a backlog, and the floor.

use crate::{
    fixture::{database, median, print_line, records, schema},
    floor::{self, FloorBatch},
    log::Log,
    service::{rate, start},
};

const EVENTS: usize = 100_000;
const BATCH: usize = 2_000;
const ROUNDS: u64 = 3;

pub(crate) async fn measure() {
    let (login, db, _) = database("patron_blocks_bench_live").await;
    floor::make(&db).await;
    let (mut floor_rates, mut one_writer_ratios, mut two_writer_ratios, mut redelivery_ratios) =
        (vec![], vec![], vec![], vec![]);
    for round in 0..=ROUNDS {
        let of = |part: u64| records(EVENTS, 10 * round + part);
        let batches: Vec<_> = of(0).chunks(BATCH).map(FloorBatch::of).collect();
        let bare = floor::rate(&db, &batches).await;
        let mut live = [0.0; 2];
        for writers in [1, 2] {
            let log = Log::make(5).await;
            log.send_all(&of(u64::from(writers)));
            let running = start(&login, &log, writers).await;
            live[writers as usize - 1] = rate(&db, &log, EVENTS).await;
            running.stop().await;
            if writers == 2 {
                redelivery_ratios.push(redeliver(&login, &db, &log).await / live[1]);
            }
            log.remove().await;
        }
        // The first round fills the tables and the caches, so its result is discarded.
        if round > 0 {
            floor_rates.push(bare);
            one_writer_ratios.push(live[0] / bare);
            two_writer_ratios.push(live[1] / bare);
        }
    }
    let floor = median(floor_rates);
    print_line(&format!(
        "floor, bare SQL, one writer, batches of {BATCH}:   {floor:>9.0} events/s"
    ));
    print_line(&format!(
        "live, one writer, ratio to the floor:             {:>9.2}",
        median(one_writer_ratios)
    ));
    print_line(&format!(
        "live, two writers, ratio to the floor:            {:>9.2}",
        median(two_writer_ratios)
    ));
    print_line(&format!(
        "redelivery, ratio to the first delivery:          {:>9.2}",
        median(redelivery_ratios)
    ));
    let wrong = patron_blocks::store::state::patrons::list_drifted(&db, &schema())
        .await
        .expect("a recount");
    assert!(wrong.is_empty(), "every counter is right");
}

/// Ingests all events once more, as after a restore that preserved only the inbox.
async fn redeliver(
    login: &patron_blocks::config::Login,
    db: &patron_blocks::store::Db,
    log: &Log,
) -> f64 {
    let sql = format!("delete from {}.ingest_position", schema().name());
    sqlx::query(sqlx::AssertSqlSafe(sql)).execute(db).await.expect("the positions are deleted");
    let running = start(login, log, 2).await;
    let rate = rate(db, log, EVENTS).await;
    running.stop().await;
    rate
}
