//! Measures changes of many patrons at once: items of ten thousand patrons become overdue at the same
//! instant, and a limit of fifty thousand patrons is lowered.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use patron_blocks::{blocks::Measure, clock::Clock, store::Db};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    PUBLISHING_ON, UNREACHABLE_URL,
    evaluation_load::{EvaluationLoad, PATRONS},
    fixture::{TENANT, database, patron, print_line, schema},
    library,
    servers::Service,
    topic::{self, blocks, until_published},
};

const OVERDUE: u64 = 10_000;
const LIMITED: u64 = 50_000;
const CONNECTIONS: u32 = 11;

/// The time of evaluation load alone.
const BASELINE_TIME: Duration = Duration::from_secs(10);

/// The time that the evaluation load needs to start.
const WARM_UP_TIME: Duration = Duration::from_secs(2);

/// The time from the creation of the loans until they are overdue.
const OVERDUE_DELAY: Duration = Duration::from_secs(30);

async fn execute_sql(db: &Db, sql: &str) {
    let sql = sql.replace("{schema}", schema().name());
    sqlx::query(AssertSqlSafe(sql)).execute(db).await.expect("the statement succeeds");
}

/// Raises all limits, so that no patron reaches one.
async fn raise_all_limits(db: &Db) {
    execute_sql(
        db,
        "update {schema}.patron_block_limits set jsonb = jsonb || '{\"value\": 999999}'",
    )
    .await;
}

fn watch(port: u16) -> EvaluationLoad {
    EvaluationLoad::begin((0..PATRONS as u64).map(patron).collect(), UNREACHABLE_URL, port)
}

/// Sets the due date of each patron's only loan, so that the loan is overdue after `OVERDUE_DELAY`.
async fn set_due_dates(db: &Db) -> Instant {
    let seconds = OVERDUE_DELAY.as_secs();
    execute_sql(db, &format!(
        "with due as (
           update {{schema}}.loan set check_out_due_date = now() + interval '{seconds} seconds' - interval '1 minute',
                  due_stamp = null, changed_due_date = null, due_by_recall = null where is_open)
         update {{schema}}.patron_counter set version = version + 1"
    ))
    .await;
    Instant::now() + OVERDUE_DELAY
}

pub(crate) async fn overdue() {
    let (login, db, _) = database("patron_blocks_bench_overdue").await;
    let environment = format!("overdue-{}", Uuid::new_v4().simple());
    library::fill(&db, OVERDUE).await;
    raise_all_limits(&db).await;
    let overdue = Measure::OverdueItems.condition_id();
    execute_sql(&db, &format!(
        "update {{schema}}.patron_block_limits set jsonb = jsonb || '{{\"value\": 4}}' where conditionid = '{overdue}'"
    ))
    .await;
    // Every patron has five loans. All five become overdue at once and exceed the limit of four.
    let service = Service::start_with(&login, &environment, CONNECTIONS, &[PUBLISHING_ON]).await;
    until_published(&db, 0).await;
    watch(service.port).end_after(BASELINE_TIME).await.report("alone");
    let before = topic::sent(&db).await;
    let due_at = set_due_dates(&db).await;
    until_published(&db, 0).await;
    sleep(due_at.saturating_duration_since(Instant::now()).saturating_sub(Duration::from_secs(2)))
        .await;
    let load = watch(service.port);
    sleep(due_at.saturating_duration_since(Instant::now())).await;
    let expected = before + OVERDUE as i64;
    until_published(&db, expected).await;
    print_line(&format!(
        "items of {OVERDUE} patrons become overdue at one instant: all published {:.1} s after the instant",
        due_at.elapsed().as_secs_f64()
    ));
    load.end_after(Duration::ZERO).await.report("meanwhile");

    set_due_dates(&db).await;
    until_published(&db, expected + OVERDUE as i64).await;
    drop(service);
    sleep(OVERDUE_DELAY).await;
    let began = Instant::now();
    let service = Service::start_with(&login, &environment, CONNECTIONS, &[PUBLISHING_ON]).await;
    until_published(&db, expected + 2 * OVERDUE as i64).await;
    print_line(&format!(
        "  no instance runs at the instant: all published {:.1} s after the start of the service",
        began.elapsed().as_secs_f64()
    ));
    let mut types: HashMap<String, Vec<String>> = HashMap::new();
    topic::read(&blocks(&environment), |key, message| {
        types.entry(key).or_default().push(message["type"].as_str().expect("a type").to_owned());
    });
    types.remove(&library::many_loans_patron().to_string());
    let expected = ["CREATED", "DELETED", "CREATED"];
    assert!(
        types.values().all(|types| *types == expected),
        "a message was published twice, or never"
    );
    assert_eq!(types.len() as u64, OVERDUE);
    drop(service);
    topic::remove(&[blocks(&environment)]).await;
}

pub(crate) async fn limit() {
    let (login, db, _) = database("patron_blocks_bench_limit").await;
    let environment = format!("limit-{}", Uuid::new_v4().simple());
    library::fill(&db, LIMITED).await;
    raise_all_limits(&db).await;
    let service = Service::start_with(&login, &environment, CONNECTIONS, &[PUBLISHING_ON]).await;
    until_published(&db, 0).await;
    watch(service.port).end_after(BASELINE_TIME).await.report("alone");
    let before = topic::sent(&db).await;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = |path: &str| format!("http://127.0.0.1:{}{path}", service.port);
    let charged_out = Measure::ChargedOut.condition_id();
    let all = url("/patron-block-limits?limit=100");
    let all = http.get(all).header("X-Okapi-Tenant", TENANT).send().await.expect("a response");
    let all: Value = all.json().await.expect("JSON");
    let limits = all["patronBlockLimits"].as_array().expect("a list");
    let found = limits.iter().find(|limit| limit["conditionId"] == charged_out.to_string());
    let mut lower = found.expect("a limit").clone();
    lower["value"] = json!(3);
    let path = url(&format!("/patron-block-limits/{}", lower["id"].as_str().expect("an id")));
    let load = watch(service.port);
    sleep(WARM_UP_TIME).await;
    let began = Instant::now();
    let put = http.put(path).header("X-Okapi-Tenant", TENANT).json(&lower).send();
    assert_eq!(put.await.expect("a response").status(), 204);
    let answered = began.elapsed();
    until_published(&db, before + LIMITED as i64).await;
    print_line(&format!(
        "limit of {LIMITED} patrons lowered: response after {:.1} ms, all published after {:.1} s",
        answered.as_secs_f64() * 1e3,
        began.elapsed().as_secs_f64()
    ));
    load.end_after(Duration::ZERO).await.report("meanwhile");
    let (mut times_by_patron, mut again) = (HashMap::new(), 0);
    topic::read(&blocks(&environment), |key, _| {
        let times = times_by_patron.entry(key).or_insert(0);
        *times += 1;
        again += i32::from(*times > 1);
    });
    // The additional patron is the one with many loans.
    assert_eq!(
        (times_by_patron.len() as u64, again),
        (LIMITED + 1, 0),
        "at {}",
        Clock::system().now()
    );
    drop(service);
    topic::remove(&[blocks(&environment)]).await;
}
