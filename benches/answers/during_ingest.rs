//! Compares the latency of evaluations during the ingest of a backlog with the latency before it.

use std::time::Instant;

use patron_blocks::store::Db;

use crate::{
    fixture::{database, print_line, records_of},
    library,
    load::{Folder, Load, PatronChoice, script, wrk},
    log::Log,
    servers::Service,
    service::positions,
};

const PATRONS: u64 = 100_000;
const CHUNK: usize = 100_000;
const CHUNKS: u64 = 10;

pub(crate) async fn measure() {
    let (login, db, _) = database("patron_blocks_bench_answers").await;
    library::fill(&db, PATRONS).await;
    let log = Log::make(5).await;
    let service = Service::start(&login, &log.environment, 11).await;
    print_line(&format!(
        "{PATRONS} patrons, during the ingest of {} events",
        CHUNK as u64 * CHUNKS
    ));
    for connections in [1, 32] {
        report("without ingest", connections, measure_load(service.port, connections).await);
    }
    drop(service);
    for chunk in 0..CHUNKS {
        log.send_all(&records_of(PATRONS, CHUNK, chunk));
    }
    let service = Service::start(&login, &log.environment, 11).await;
    let total = CHUNK as i64 * CHUNKS as i64;
    let mut connections = [1, 32].into_iter().cycle();
    let (started_at, before) = (Instant::now(), durable(&db, &log).await);
    loop {
        let connection_count = connections.next().expect("the iterator is endless");
        let load = measure_load(service.port, connection_count).await;
        // A measurement that ends after the last event is discarded.
        if durable(&db, &log).await >= total {
            break;
        }
        report("during ingest", connection_count, load);
    }
    let rate = (total - before) as f64 / started_at.elapsed().as_secs_f64();
    print_line(&format!("  ingested meanwhile: at least {rate:.0} events/s"));
    drop(service);
    log.remove().await;
}

async fn durable(db: &Db, log: &Log) -> i64 {
    positions(db, log).await.iter().map(|(.., next)| next).sum()
}

async fn measure_load(port: u16, connections: u32) -> Load {
    let asked = move || {
        let folder = Folder::make();
        wrk(port, &script(&folder, PatronChoice::Ordinary(PATRONS)), connections)
    };
    tokio::task::spawn_blocking(asked).await.expect("no panic")
}

fn report(when: &str, connections: u32, Load { rate, p50, p99, p999 }: Load) {
    print_line(&format!(
        "  {when:>17}, {connections:>3} connections: {rate:>6.0} req/s; {p50:.2}, {p99:.2}, {p999:.2} ms"
    ));
}
