//! The service in this process, with its default settings.

use std::time::{Duration, Instant};

use clap::{Args, Command};
use patron_blocks::{
    app::{self, RunningService},
    clock::Clock,
    config::{Config, Login},
    store::Db,
};
use sqlx::AssertSqlSafe;

use crate::{fixture::schema, log::Log};

/// The timeout of a measurement.
const RATE_TIMEOUT: Duration = Duration::from_secs(900);

/// Starts the service on a log, with this many writers.
pub(crate) async fn start(login: &Login, log: &Log, writers: u32) -> RunningService {
    start_with(login, log, writers, &[]).await
}

/// Starts the service with further settings.
pub(crate) async fn start_with(
    login: &Login,
    log: &Log,
    writers: u32,
    settings: &[&str],
) -> RunningService {
    let database = format!("--db-database={}", login.database);
    let environment = format!("--env={}", log.environment);
    let writers = format!("--ingest-writers={writers}");
    let line = ["live", &database, &environment, &writers, "--http-port=0", "--shutdown-delay=0"];
    let line = [&line, settings].concat();
    let command = Config::augment_args(Command::new("live"));
    let config = Config::read(command, line).1.expect("the settings are valid");
    app::start(&config, Clock::system()).await.expect("the service starts")
}

/// Returns the position of each partition.
pub(crate) async fn positions(db: &Db, log: &Log) -> Vec<(String, i32, i64)> {
    let sql = format!(
        "select topic, partition, next_offset from {}.ingest_position where topic like $1 || '.%'",
        schema().name()
    );
    let rows = sqlx::query_as(AssertSqlSafe(sql)).bind(&log.environment).fetch_all(db);
    rows.await.expect("positions")
}

/// Returns the events per second, from the first durable events to the last of `total`.
pub(crate) async fn rate(db: &Db, log: &Log, total: usize) -> f64 {
    let mut poll = tokio::time::interval(Duration::from_millis(10));
    let started_at = Instant::now();
    let mut first = None;
    while started_at.elapsed() < RATE_TIMEOUT {
        poll.tick().await;
        let durable: i64 = positions(db, log).await.iter().map(|(.., next)| next).sum();
        let now = Instant::now();
        let (since, before) = *first.get_or_insert((now, durable));
        if durable >= total as i64 {
            return (durable - before) as f64 / (now - since).as_secs_f64();
        }
        if durable == 0 {
            first = None;
        }
    }
    panic!("not all of {total} records became durable");
}
