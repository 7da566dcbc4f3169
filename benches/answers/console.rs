//! Measures pages of the console for 100 tenants with topics of their own and for a tenant with many parked records,
//! and evaluations while pages are open. Then it stops each engine and measures the same pages.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use patron_blocks::{event::TenantId, store::Db};
use reqwest::{Client, StatusCode};
use sqlx::AssertSqlSafe;
use tokio::task::AbortHandle;

use crate::{
    fixture::{TENANT, database, median, patron, print_line, schema},
    library,
    load::{Folder, PatronChoice, script, wrk},
    log::Log,
    servers::Service,
};

const PATRONS: u64 = 1_000;

/// The tenants without parked records.
const OTHER_TENANTS: usize = 99;

/// The measured loads of each page, after one that does not count; fewer if they take longer than the limit.
const LOADS: usize = 20;
const LOADS_TIME_MAX: Duration = Duration::from_secs(10);

/// The pages that are open at the same time, each of which refreshes after this interval.
const OPEN_PAGES: usize = 20;
const REFRESH_INTERVAL: Duration = Duration::from_secs(5);

/// The concurrent connections of evaluations.
const CONNECTIONS: u32 = 8;

/// The pairs of measurements without and with open pages.
const ROUNDS: usize = 7;

/// Adds parked records with half a kilobyte each, which name ordinary patrons in turn.
const PARK: &str = "insert into {schema}.dead_letter
    (dead_letter_id, reason, field, rule, topic, partition, \"offset\", received_at, headers, payload, subjects)
    select gen_random_uuid(), 'bad_field', case m % 5 when 0 then 'userId' else 'loanId' end,
           'must be a UUID of version 1 to 5', 'folio.northlib.circulation.LOAN_CLOSED', m % 10, m,
           now() - m * interval '1 second', '[]', convert_to(repeat('{\"loanId\":\"x\"}', 35), 'UTF8'),
           array[{user}]
      from generate_series(1, 50000) m cross join lateral (select m % 1000 as n) patrons";

pub(crate) async fn measure() {
    let (login, db, tenants) = database("patron_blocks_bench_answers").await;
    library::fill(&db, PATRONS).await;
    park(&db).await;
    let log = Log::connect(5);
    log.create_topics(TENANT, 1).await;
    let names: Vec<String> = (0..OTHER_TENANTS).map(|n| format!("branch{n}")).collect();
    for name in &names {
        let tenant = TenantId::parse(name).expect("a tenant id");
        tenants.enable(&tenant, "mod-patron-blocks-2.0.0").await.expect("the tenant is enabled");
        log.create_topics(name, 1).await;
    }
    let service = Service::start(&login, &log.environment, 11).await;
    let pages = Pages::new(service.console_port);
    print_line(&format!(
        "{} tenants with topics of their own, 50,000 parked records",
        names.len() + 1
    ));
    pages.report("all engines").await;
    measure_evaluations(&service, &pages).await;
    pages.report_without("kafka").await;
    pages.report_without("postgres").await;
    for name in &names {
        log.remove_topics(name).await;
    }
    log.remove().await;
}

async fn park(db: &Db) {
    let sql = PARK.replace("{schema}", schema().name()).replace("{user}", library::USER);
    for sql in [sql, format!("vacuum analyze {}.dead_letter", schema().name())] {
        sqlx::query(AssertSqlSafe(sql)).execute(db).await.expect("the statement succeeds");
    }
}

/// Compares evaluations without open pages with evaluations while pages refresh, by turns.
async fn measure_evaluations(service: &Service, pages: &Pages) {
    let port = service.port;
    let load = async || {
        let measured = move || {
            let folder = Folder::make();
            wrk(port, &script(&folder, PatronChoice::Ordinary(PATRONS)), CONNECTIONS)
        };
        tokio::task::spawn_blocking(measured).await.expect("no panic")
    };
    load().await;
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let without = load().await;
        let open = pages.open();
        let with = load().await;
        drop(open);
        ratios.push([with.rate / without.rate, with.p50 / without.p50, with.p99 / without.p99]);
    }
    let of = |n: usize| median(ratios.iter().map(|ratio| ratio[n]).collect());
    print_line(&format!(
        "  evaluations with {OPEN_PAGES} open pages relative to none, {CONNECTIONS} connections: \
         rate {:.2}, p50 {:.2}, p99 {:.2}",
        of(0),
        of(1),
        of(2)
    ));
}

/// The pages of the tenant on the console port.
struct Pages {
    client: Client,
    root: String,
}

/// Pages that refresh until they are dropped.
struct OpenPages(Vec<AbortHandle>);

impl Drop for OpenPages {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

impl Pages {
    fn new(port: u16) -> Self {
        Self { client: Client::new(), root: format!("http://127.0.0.1:{port}/") }
    }

    fn urls(&self) -> Vec<String> {
        let patron = patron(1);
        let paths =
            ["home", "parked", "parked?query=field%3D%3DuserId", "ingest"].map(str::to_owned);
        let below = paths.into_iter().chain([format!("desk/{patron}")]);
        let pages = below.map(|path| format!("{}tenants/{TENANT}/{path}", self.root));
        [self.root.clone()].into_iter().chain(pages).collect()
    }

    async fn load(&self, url: &str) -> (Duration, StatusCode) {
        let began = Instant::now();
        let response = self.client.get(url).send().await.expect("the console responds");
        let status = response.status();
        response.bytes().await.expect("a page");
        (began.elapsed(), status)
    }

    /// Prints the median and the maximum of each page.
    async fn report(&self, when: &str) {
        for url in self.urls() {
            self.load(&url).await;
            let began = Instant::now();
            let mut times = Vec::new();
            let mut status = StatusCode::OK;
            while times.len() < LOADS && began.elapsed() < LOADS_TIME_MAX {
                let (time, found) = self.load(&url).await;
                times.push(time.as_secs_f64() * 1e3);
                status = found;
            }
            let most = times.iter().copied().fold(0.0, f64::max);
            let path = url.strip_prefix(&self.root).unwrap_or_default();
            print_line(&format!(
                "  {when}: /{path}: {:.0} ms, at most {most:.0} ms, status {}",
                median(times),
                status.as_u16()
            ));
        }
    }

    /// Stops an engine, prints the times of the pages, and starts the engine again.
    async fn report_without(&self, engine: &'static str) {
        control(engine, "stop").await;
        self.report(&format!("without {engine}")).await;
        control(engine, "start").await;
    }

    /// Opens pages that refresh, spread over the interval.
    fn open(&self) -> OpenPages {
        let urls = self.urls();
        let open = (0..OPEN_PAGES).map(|n| {
            let (client, url) = (self.client.clone(), urls[n % urls.len()].clone());
            let delay = REFRESH_INTERVAL * n as u32 / OPEN_PAGES as u32;
            let refresh = async move {
                tokio::time::sleep(delay).await;
                let mut ticks = tokio::time::interval(REFRESH_INTERVAL);
                loop {
                    ticks.tick().await;
                    // A refresh that fails is one that the reader repeats.
                    let _ = client.get(&url).send().await;
                }
            };
            tokio::spawn(refresh).abort_handle()
        });
        OpenPages(open.collect())
    }
}

/// Starts or stops an engine by the script of the development environment.
async fn control(engine: &'static str, verb: &'static str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/dev/engine");
    let run = move || Command::new(script).args([verb, engine]).status().expect("the script runs");
    assert!(tokio::task::spawn_blocking(run).await.expect("no panic").success(), "{verb} {engine}");
}
