//! Measures evaluations under load. In the same run, on the same machine, it measures a handler with a
//! constant response and pgbench on the bare statement. It needs `wrk` and `pgbench`; `dev/bench` provides
//! them.
//!
//! Arguments choose parts; the default is `load` (1,000 patrons). `million` is the same with 1,000,000
//! patrons; `ingest` measures evaluations during the ingest of a million events; `console` measures pages of the
//! console, and evaluations while pages are open.

#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../live/log.rs"]
mod log;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../live/service.rs"]
mod service;

mod console;
mod during_ingest;
mod library;
mod load;
#[allow(dead_code, reason = "each bench uses a part")]
mod servers;

use fixture::{TENANT, database, median, print_line};
use load::{Folder, Load, PatronChoice, pgbench, script, wrk};
use log::Log;
use patron_blocks::config::Login;
use servers::{Service, constant};

/// The numbers of concurrent connections.
const CONNECTIONS: [u32; 3] = [1, 32, 256];

/// The service's database connections, including those of the writers: in this bench, and by default.
const POOL_CONNECTIONS: u32 = 11;
const SMALL_POOL_CONNECTIONS: u32 = 5;

const ROUNDS: usize = 3;

#[tokio::main]
async fn main() {
    // Cargo passes an argument of its own, which starts with `-`.
    let mut parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if parts.is_empty() {
        parts.push("load".to_owned());
    }
    for part in parts {
        match &*part {
            "load" => measure(1_000, &[POOL_CONNECTIONS, SMALL_POOL_CONNECTIONS]).await,
            "million" => measure(1_000_000, &[POOL_CONNECTIONS]).await,
            "ingest" => during_ingest::measure().await,
            "console" => console::measure().await,
            other => panic!("unknown part: {other}"),
        }
    }
}

async fn measure(patrons: u64, pools: &[u32]) {
    let (login, db, _) = database("patron_blocks_bench_answers").await;
    library::fill(&db, patrons).await;
    let constant = constant();
    let log = Log::connect(5);
    log.create_topics(TENANT, 1).await;
    print_line(&format!("{patrons} patrons, each evaluation with limits"));
    print_line(
        "  patron, connections: req/s; ratio to the constant handler, to pgbench; p50, p99, p99.9 in ms",
    );
    for pool in pools.iter().copied() {
        let service = Service::start(&login, &log.environment, pool).await;
        service.until_certain().await;
        for choice in [PatronChoice::Ordinary(patrons), PatronChoice::ManyLoans] {
            for connections in CONNECTIONS {
                // The large pool runs with every number of connections, the small pool only with 32.
                if pool == POOL_CONNECTIONS || connections == 32 {
                    let ports = [constant, service.port];
                    compare(&login, ports, pool, choice, connections).await;
                }
            }
        }
    }
    log.remove().await;
    // Without a topic of the tenant, no lag shows a missing event, so each evaluation is late.
    print_line("  late evaluations:");
    let service = Service::start(&login, "bench-without-topics", POOL_CONNECTIONS).await;
    let ports = [constant, service.port];
    compare(&login, ports, POOL_CONNECTIONS, PatronChoice::Ordinary(patrons), 32).await;
}

/// Measures the service, the constant handler and pgbench in turns, and prints one line.
async fn compare(
    login: &Login,
    ports: [u16; 2],
    pool: u32,
    choice: PatronChoice,
    connections: u32,
) {
    let login = login.clone();
    let compare = move || compare_blocking(&login, ports, pool, choice, connections);
    print_line(&tokio::task::spawn_blocking(compare).await.expect("no panic"));
}

fn compare_blocking(
    login: &Login,
    [constant, service]: [u16; 2],
    pool: u32,
    choice: PatronChoice,
    connections: u32,
) -> String {
    let folder = Folder::make();
    let script = script(&folder, choice);
    wrk(service, &script, connections);
    let round = |_| {
        let most = wrk(constant, &script, connections);
        let answers = wrk(service, &script, connections);
        (most, answers, pgbench(login, &folder, choice, connections.min(8)))
    };
    let rounds: Vec<(Load, Load, f64)> = (0..ROUNDS).map(round).collect();
    let of = |value: fn(&(Load, Load, f64)) -> f64| median(rounds.iter().map(value).collect());
    let label = match choice {
        PatronChoice::Ordinary(_) => "ordinary",
        PatronChoice::ManyLoans => "2,000 loans",
    };
    format!(
        "  {label:>11}, {connections:>3} (pool {pool:>2}): {:>6.0}, {:.2} of {:>6.0}, {:.2} of {:>6.0}; {:.2}, {:.2}, {:.2}",
        of(|r| r.1.rate),
        of(|r| r.1.rate / r.0.rate),
        of(|r| r.0.rate),
        of(|r| r.1.rate / r.2),
        of(|r| r.2),
        of(|r| r.1.p50),
        of(|r| r.1.p99),
        of(|r| r.1.p999),
    )
}
