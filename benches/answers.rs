//! Block evaluation under load, beside a handler that answers a constant and beside pgbench on the bare
//! statement, in one run on one machine. Needs `wrk` and `pgbench`; `dev/bench` sees to both.

#[allow(dead_code, reason = "each bench uses a part")]
mod prepared;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use actix_web::{App, HttpResponse, HttpServer, web};
use patron_blocks::{
    blocks::Measure,
    event::{Environment, Kind, Place, Record},
    flow::{ingest::Incoming, tenants::Tenants},
    store::{self, Db, Login},
};
use prepared::{PATRONS, TENANT, database, engines::variable, median, patron, say, schema};
use sqlx::{AssertSqlSafe, Executor};
use tokio_util::sync::CancellationToken;

/// Loans of each patron, the first half of them still open.
const LOANS: u64 = 10;
const CONNECTIONS: u32 = 32;
const SECONDS: u32 = 6;
const ROUNDS: usize = 3;

/// Requests a second, and latencies in milliseconds.
#[derive(Debug, Clone, Copy)]
struct Load {
    rate: f64,
    p50: f64,
    p99: f64,
}

async fn fill(db: &Db, tenants: &Arc<Tenants>) {
    let environment = Environment::new(Some("bench"));
    let ingest = prepared::ingest(db, tenants);
    let stop = CancellationToken::new();
    for (kind, loans) in [(Kind::ItemCheckedOut, 0..LOANS), (Kind::ItemCheckedIn, LOANS / 2..LOANS)]
    {
        let topic = format!("bench.{TENANT}.{}.{}", kind.producer(), kind.name());
        let read = Arc::new(environment.parse(&topic).expect("a topic of ours"));
        let topic: Arc<str> = topic.into();
        let numbers: Vec<u64> =
            (0..PATRONS).flat_map(|n| loans.clone().map(move |loan| n * LOANS + loan)).collect();
        for batch in numbers.chunks(2000) {
            let incoming: Vec<Incoming> = batch
                .iter()
                .map(|number| {
                    let (user, loan) = (patron(number / LOANS), patron((1 << 40) | number));
                    // A tenth is overdue.
                    let year = if number % 10 == 0 { 2024 } else { 2999 };
                    let payload = format!(
                        r#"{{"userId":"{user}","loanId":"{loan}","dueDate":"{year}-09-14T21:59:59.000Z"}}"#);
                    let place = Place { topic: topic.clone(), partition: 0, offset: *number as i64 };
                    let record = Record {
                        place,
                        timestamp: chrono::DateTime::from_timestamp_millis(1_790_000_000_000),
                        key: None,
                        headers: Vec::new(),
                        payload: Some(payload.into_bytes()),
                    };
                    Incoming { record, topic: read.clone(), cluster: Arc::from("bench"), kept: true }
                })
                .collect();
            let batch: Vec<&Incoming> = incoming.iter().collect();
            let outcome = ingest.settle(&batch, &stop).await.expect("nobody stops it");
            assert_eq!(outcome.tally.applied, batch.len());
        }
    }
    set_limits(db).await;
}

/// Six limits for the one group of all patrons, each of them near what patrons have.
async fn set_limits(db: &Db) {
    let name = schema().name().to_owned();
    let group = patron(1 << 41);
    for measure in Measure::ALL {
        let limit = serde_json::json!({ "id": uuid::Uuid::new_v4(), "patronGroupId": group,
            "conditionId": measure.condition_id(), "value": 4 });
        let sql = format!(
            "insert into {name}.patron_block_limits (id, jsonb, conditionid) values ($1, $2, $3)"
        );
        let insert = sqlx::query(AssertSqlSafe(sql)).bind(uuid::Uuid::new_v4());
        insert.bind(limit).bind(measure.condition_id()).execute(db).await.expect("a limit");
    }
    for sql in [
        format!(
            "update {name}.patron_block_conditions set jsonb = jsonb || \
            '{{\"blockBorrowing\": true, \"blockRenewals\": true, \"blockRequests\": true, \"message\": \"Too many\"}}'"
        ),
        format!(
            "insert into {name}.patron select user_id, '{group}', now() from {name}.patron_counter"
        ),
        "analyze".to_owned(),
    ] {
        db.execute(AssertSqlSafe(sql)).await.expect("settings");
    }
}

fn serve(login: &Login, port: u16) -> Child {
    Command::new(env!("CARGO_BIN_EXE_mod-patron-blocks"))
        .arg("serve")
        .env("DB_HOST", &login.host)
        .env("DB_PORT", login.port.to_string())
        .env("DB_DATABASE", &login.database)
        .env("DB_MAXPOOLSIZE", "11")
        .env("KAFKA_HOST", variable("KAFKA_HOST"))
        .env("HTTP_PORT", port.to_string())
        .env("ENV", "bench")
        .env("OKAPI_URL", "http://127.0.0.1:9")
        // The patron group is known; what is measured is the answer, not another service.
        .env("PATRON_GROUP_FRESH_SECONDS", "86400")
        .env("PATRON_GROUP_USABLE_SECONDS", "86400")
        .env("LOG_LEVEL", "error")
        .stderr(Stdio::inherit())
        .spawn()
        .expect("the service starts")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A constant answer of an answer's size, by as many threads.
fn constant(port: u16) {
    const BODY: &str = r#"{"automatedPatronBlocks":[{"patronBlockConditionId":"3d7c52dc-c732-4223-8bf8-e5917801386f","blockBorrowing":true,"blockRenewals":true,"blockRequests":true,"message":"Too many"}]}"#;
    let answer = || async { HttpResponse::Ok().content_type("application/json").body(BODY) };
    let app = move || App::new().default_service(web::to(answer));
    let server = HttpServer::new(app).workers(2).bind(("127.0.0.1", port)).expect("a port").run();
    tokio::spawn(server);
}

/// A script for wrk that asks for one patron after another.
fn script(folder: &Path) -> PathBuf {
    let path = folder.join("patrons.lua");
    let lua = format!(
        "math.randomseed(7)\n\
         local headers = {{ ['X-Okapi-Tenant'] = '{TENANT}' }}\n\
         request = function()\n\
           local user = string.format('00000000-0000-4000-8000-%012x', math.random(0, {}))\n\
           return wrk.format('GET', '/automated-patron-blocks/' .. user, headers)\n\
         end\n",
        PATRONS - 1
    );
    fs::write(&path, lua).expect("a script");
    path
}

fn wrk(port: u16, script: &Path, connections: u32) -> Load {
    let output = Command::new("wrk")
        .args(["-t1", "--latency", &format!("-c{connections}"), &format!("-d{SECONDS}s"), "-s"])
        .arg(script)
        .arg(format!("http://127.0.0.1:{port}"))
        .output()
        .expect("wrk is there");
    let text = String::from_utf8(output.stdout).expect("text");
    assert!(!text.contains("Non-2xx") && !text.contains("Socket errors"), "{text}");
    let after = |name: &str| {
        let rest = text.split(name).nth(1).unwrap_or_else(|| panic!("{name} in {text}"));
        rest.split_whitespace().next().expect("a value").to_owned()
    };
    let ms = |value: String| {
        let (number, unit) = value.split_at(value.find(char::is_alphabetic).expect("a unit"));
        let number: f64 = number.parse().expect("a number");
        match unit {
            "us" => number / 1000.0,
            "ms" => number,
            _ => number * 1000.0,
        }
    };
    Load {
        rate: after("Requests/sec:").parse().expect("a rate"),
        p50: ms(after("50%")),
        p99: ms(after("99%")),
    }
}

/// The service's own statement, by pgbench: as fast as this database gets it out.
fn pgbench(login: &Login, folder: &Path) -> f64 {
    let schema = schema();
    let texts =
        store::STATEMENTS.iter().copied().flatten().map(|statement| schema.sql(statement).0);
    let state =
        texts.into_iter().find(|sql| sql.contains("first_recall_due")).expect("the statement");
    let user = "('00000000-0000-4000-8000-' || lpad(to_hex(cast(:n as int8)), 12, '0'))::uuid";
    let sql = state.replace("$1", user).replace("$2", "now()").replace('\n', " ");
    let file = folder.join("state.sql");
    fs::write(&file, format!("\\set n random(0, {})\n{sql};\n", PATRONS - 1)).expect("a file");
    let output = Command::new("pgbench")
        .args(["-n", "-M", "prepared", "-c", "8", "-j", "1", "-T", &SECONDS.to_string(), "-f"])
        .arg(&file)
        .args([
            "-h",
            &login.host,
            "-p",
            &login.port.to_string(),
            "-U",
            &login.username,
            &login.database,
        ])
        .env("PGPASSWORD", &login.password)
        .output()
        .expect("pgbench is there");
    let text = String::from_utf8(output.stdout).expect("text");
    let tps = text.lines().find_map(|line| line.strip_prefix("tps = "));
    let tps = tps.unwrap_or_else(|| panic!("{text} {}", String::from_utf8_lossy(&output.stderr)));
    tps.split_whitespace().next().expect("a number").parse().expect("a rate")
}

async fn ready(port: u16) {
    let url = format!("http://127.0.0.1:{port}/admin/ready");
    let mut look = tokio::time::interval(Duration::from_millis(50));
    for _ in 0..600 {
        look.tick().await;
        if reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success()) {
            return;
        }
    }
    panic!("the service is not ready after 30 s");
}

#[tokio::main]
async fn main() {
    let (login, db, tenants) = database("patron_blocks_bench_answers").await;
    fill(&db, &tenants).await;
    let folder = std::env::temp_dir().join(format!("patron-blocks-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    let script = script(&folder);
    let (port, constant_port) = (free_port(), free_port());
    let mut service = serve(&login, port);
    constant(constant_port);
    ready(port).await;
    let measured = tokio::task::spawn_blocking({
        let folder = folder.clone();
        move || {
            wrk(port, &script, CONNECTIONS);
            let round = |_| {
                let constant = wrk(constant_port, &script, CONNECTIONS);
                let answers = wrk(port, &script, CONNECTIONS);
                let alone = wrk(port, &script, 1);
                (constant, answers, alone, pgbench(&login, &folder))
            };
            (0..ROUNDS).map(round).collect::<Vec<_>>()
        }
    })
    .await;
    service.kill().expect("it is ours");
    service.wait().expect("it ends");
    let _ = fs::remove_dir_all(&folder);
    report(&measured.expect("measurements"));
}

fn report(rounds: &[(Load, Load, Load, f64)]) {
    let of =
        |value: fn(&(Load, Load, Load, f64)) -> f64| median(rounds.iter().map(value).collect());
    say(&format!(
        "constant handler, {CONNECTIONS} connections:      {:>9.0} req/s",
        of(|r| r.0.rate)
    ));
    say(&format!("bare statement by pgbench, 8 clients:    {:>9.0} /s", of(|r| r.3)));
    say(&format!(
        "block evaluation, {CONNECTIONS} connections:      {:>9.0} req/s",
        of(|r| r.1.rate)
    ));
    say(&format!("  against the constant handler:          {:>9.2}", of(|r| r.1.rate / r.0.rate)));
    say(&format!("  against pgbench:                       {:>9.2}", of(|r| r.1.rate / r.3)));
    say(&format!(
        "  p50, p99:                              {:>9.2} {:.2} ms",
        of(|r| r.1.p50),
        of(|r| r.1.p99)
    ));
    say(&format!(
        "block evaluation, 1 connection, p50, p99:{:>9.2} {:.2} ms",
        of(|r| r.2.p50),
        of(|r| r.2.p99)
    ));
}
