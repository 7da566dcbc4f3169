//! Measures the cost of block events for ingest: the same backlog with and without block events, in turns.

use patron_blocks::{config::Login, store::Db};
use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    fixture::{PATRONS, database, median, patron, print_line, records, schema},
    log::Log,
    service::{rate, start_with},
    topic::{self, until_published},
};
use patron_blocks::blocks::Measure;

const EVENTS: usize = 100_000;
const ROUNDS: u64 = 3;

pub(crate) async fn measure() {
    let mut rates = [vec![], vec![]];
    let mut libraries = Vec::new();
    for on in [false, true] {
        let (login, db, _) = database(&format!("patron_blocks_bench_events_{on}")).await;
        with_groups(&db).await;
        libraries.push((login, db));
    }
    let (mut later, mut messages) = (vec![], 0);
    for round in 0..=ROUNDS {
        for n in 0..2 {
            // Each variant is first in half of the rounds.
            let on = (round as usize + n) % 2;
            let (login, db) = &libraries[on];
            let (rate, behind) = one(login, db, on == 1, 10 * round + n as u64).await;
            // The first round fills the tables and the caches, so its result is discarded.
            if round > 0 {
                rates[on].push(rate);
                later.extend(behind);
            }
            messages = messages.max(if on == 1 { topic::sent(db).await } else { 0 });
        }
    }
    let [off, on] = rates.map(median);
    print_line(&format!("ingest without block events:                       {off:>9.0} events/s"));
    print_line(&format!("ingest with block events, ratio to without:       {:>9.2}", on / off));
    print_line(&format!(
        "  {messages} messages; all published {:.1} s after the last event",
        median(later)
    ));
}

/// Gives all patrons one patron group with limits that many patrons reach.
async fn with_groups(db: &Db) {
    let group = Uuid::from_u128(1 << 80);
    for sql in [
        format!(
            "insert into {{schema}}.patron (user_id, users_group, users_group_at)
             select ('00000000-0000-4000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, '{group}', now()
               from generate_series(0, {PATRONS} - 1) n"
        ),
        "update {schema}.patron_block_conditions set jsonb = jsonb ||
           '{\"blockBorrowing\": true, \"blockRenewals\": true, \"blockRequests\": true, \"message\": \"Too many\"}'"
            .to_owned(),
    ] {
        let sql = sql.replace("{schema}", schema().name());
        sqlx::query(AssertSqlSafe(sql)).execute(db).await.expect("rows");
    }
    assert_eq!(patron(0).to_string(), "00000000-0000-4000-8000-000000000000");
    for (measure, value) in [(Measure::ChargedOut, 3), (Measure::FeeFineBalance, 20)] {
        let (id, condition) = (Uuid::new_v4(), measure.condition_id());
        let limit =
            json!({ "id": id, "patronGroupId": group, "conditionId": condition, "value": value });
        let sql =
            "insert into {schema}.patron_block_limits (id, jsonb, conditionid) values ($1, $2, $3)"
                .replace("{schema}", schema().name());
        let insert = sqlx::query(AssertSqlSafe(sql)).bind(id).bind(limit).bind(condition);
        insert.execute(db).await.expect("a limit");
    }
}

/// Returns the events per second, and the time from the last event until all block events are sent.
async fn one(login: &Login, db: &Db, on: bool, seed: u64) -> (f64, Option<f64>) {
    let log = Log::make(5).await;
    log.send_all(&records(EVENTS, seed));
    let setting = format!("--block-events={on}");
    let running = start_with(login, &log, 2, &[&setting]).await;
    let rate = rate(db, &log, EVENTS).await;
    let behind = match on {
        true => Some(until_published(db, 0).await.as_secs_f64()),
        false => None,
    };
    running.stop().await;
    topic::remove(&[topic::blocks(&log.environment)]).await;
    log.remove().await;
    (rate, behind)
}
