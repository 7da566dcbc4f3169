//! Measures the ingest of the same backlog into databases of growing size.

use patron_blocks::store::Db;
use sqlx::{AssertSqlSafe, Executor};

use crate::{
    fixture::{database, median, print_line, records_of, schema},
    log::Log,
    service::{rate, start},
};

const EVENTS: usize = 60_000;
const ROUNDS: u64 = 3;

/// The statements that fill the tables. Each patron has an open loan, a closed loan, three events and
/// counters.
const FILL: [&str; 3] = [
    "insert into {schema}.inbox (event_key, identified_by, kind, subject, user_id, occurred_at, timed_by,
       stamp, topic, partition, \"offset\", payload, received_at)
     select gen_random_uuid(), 'envelope', 'ITEM_CHECKED_OUT', gen_random_uuid(), {user}, now(), 'envelope',
       '\\x00000000000000010000000000000000', 'filled', 0, n, convert_to(repeat(md5(n::text), 10), 'UTF8'), now()
       from generate_series(0, {patrons} - 1) n, generate_series(1, 3)",
    "insert into {schema}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date, closed_stamp)
     select gen_random_uuid(), '\\x00000000000000010000000000000000', {user}, now() + interval '7 days',
       case when closed then '\\x00000000000000020000000000000000'::bytea end
       from generate_series(0, {patrons} - 1) n, (values (true), (false)) c (closed)",
    "insert into {schema}.patron_counter (user_id, open_loans, lost_loans, claimed_returned_loans,
       recalled_loans, open_fees_fines, fee_fine_balance)
     select {user}, 1, 0, 0, 0, 0, 0 from generate_series(0, {patrons} - 1) n",
];

async fn fill(db: &Db, patrons: u64) {
    for sql in FILL {
        let user = "('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid";
        let sql = sql.replace("{schema}", schema().name()).replace("{user}", user);
        let sql = sql.replace("{patrons}", &patrons.to_string());
        db.execute(AssertSqlSafe(sql)).await.expect("rows");
    }
    for sql in ["vacuum analyze", "checkpoint"] {
        db.execute(sql).await.expect("the database accepts the statement");
    }
}

pub(crate) async fn measure() {
    let mut least = None;
    for patrons in [1_000, 100_000, 1_000_000] {
        let (login, db, _) = database("patron_blocks_bench_growth").await;
        fill(&db, patrons).await;
        let mut rates = vec![];
        for round in 0..=ROUNDS {
            let log = Log::make(5).await;
            log.send_all(&records_of(patrons, EVENTS, round));
            let running = start(&login, &log, 2).await;
            let rate = rate(&db, &log, EVENTS).await;
            running.stop().await;
            log.remove().await;
            // The first round fills the caches, so its result is discarded.
            if round > 0 {
                rates.push(rate);
            }
        }
        let rate = median(rates);
        let cost = *least.get_or_insert(rate) / rate;
        print_line(&format!(
            "{patrons:>9} patrons: {rate:>9.0} events/s, cost of an event, ratio to the first size: {cost:.2}"
        ));
    }
}
