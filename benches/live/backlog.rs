//! Measures the resident memory of the release binary, with a backlog of a million records and afterwards.

use std::{
    fs,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use patron_blocks::config::Login;

use crate::{
    fixture::{database, print_line, records},
    log::Log,
    service::rate,
};

const CHUNK: usize = 100_000;
const CHUNKS: u64 = 10;

/// The time of the measurement after the backlog, with a trickle of events.
const STEADY_TIME: Duration = Duration::from_secs(20);

fn serve(login: &Login, log: &Log) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mod-patron-blocks"))
        .arg("serve")
        .env("DB_DATABASE", &login.database)
        .env("ENV", &log.environment)
        .env("HTTP_ADDRESS", "127.0.0.1")
        .env("HTTP_PORT", "0")
        .env("LOG_LEVEL", "warn")
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the service starts")
}

/// Returns a value of `/proc/<pid>/status` in MiB.
fn memory(of: &Child, line: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{}/status", of.id())).expect("the service runs");
    let found = status.lines().find_map(|l| l.strip_prefix(line)).expect("a line");
    let kib: f64 = found.trim_matches([':', '\t', ' ', 'k', 'B']).parse().expect("a number");
    kib / 1024.0
}

pub(crate) async fn measure() {
    let (login, db, _) = database("patron_blocks_bench_backlog").await;
    let log = Log::make(5).await;
    for chunk in 0..CHUNKS {
        log.send_all(&records(CHUNK, chunk));
    }
    let mut service = serve(&login, &log);
    let rate = rate(&db, &log, CHUNK * CHUNKS as usize).await;
    let most = memory(&service, "VmHWM");
    let more = records(10_000, CHUNKS);
    let mut poll = tokio::time::interval(Duration::from_millis(100));
    let (start, mut steady) = (Instant::now(), 0.0);
    for few in more.chunks(50) {
        poll.tick().await;
        log.send_all(few);
        steady = memory(&service, "VmRSS").max(if start.elapsed() > STEADY_TIME / 2 {
            steady
        } else {
            0.0
        });
        if start.elapsed() > STEADY_TIME {
            break;
        }
    }
    service.kill().expect("the process belongs to the bench");
    service.wait().expect("the service stops");
    log.remove().await;
    let records = CHUNK * CHUNKS as usize;
    print_line(&format!("backlog of {records}:                            {rate:>9.0} events/s"));
    print_line(&format!("  peak resident memory:                           {most:>9.1} MiB"));
    print_line(&format!("  resident memory afterwards, at 500 events/s:    {steady:>9.1} MiB"));
}
