//! Measures rebuilds of a library's month, at least a million events: the duration of the initial fill, the
//! rate of reading topics, and the effect on evaluations. A bare consumer that decodes is the reference.
//! The simulator creates the month and compares the result with the truth; a difference ends the bench.
//!
//! Arguments choose parts; the default is `month`. `kills` kills the instance of a rebuild at ten random
//! moments; `cancels` cancels ten rebuilds at random moments. `rate` measures reading alone; `decade` does
//! so with ten million records. `tenants` enables a hundred tenants at once and rebuilds three of them at
//! once.

#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../evaluation_load.rs"]
mod evaluation_load;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../fixture.rs"]
mod fixture;
#[allow(dead_code, reason = "each bench uses a part")]
#[path = "../answers/servers.rs"]
mod servers;

mod bare;
mod damage;
mod jobs;
mod library;
mod tenants;

use std::time::{Duration, Instant};

use patron_blocks::{config::Login, store::Db};
use rand::Rng;
use serde_json::json;

use damage::Damage;
use fixture::{empty_database, print_line};
use jobs::Jobs;
use library::Month;
use servers::Service;
use tenants::TenantSet;

/// The minimum number of events of the month, and the number of events during a rebuild.
const EVENTS: u64 = 1_140_000;
const LATE_EVENTS: usize = 40_000;

/// The rate of events during a rebuild, per second.
const EVENTS_PER_SECOND: u32 = 2_000;

/// The number of events of a large library.
const DECADE_EVENTS: u64 = 10_000_000;

const TENANTS: usize = 100;

const CONNECTIONS: u32 = 11;

#[tokio::main]
async fn main() {
    // Cargo passes an argument of its own, which starts with `-`.
    let mut parts: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if parts.is_empty() {
        parts.push("month".to_owned());
    }
    for part in parts {
        match &*part {
            "month" => month().await,
            "kills" => kills().await,
            "cancels" => cancels().await,
            "rate" => rate(EVENTS / 4, 3).await,
            "decade" => rate(DECADE_EVENTS, 1).await,
            "tenants" => tenants().await,
            other => panic!("unknown part: {other}"),
        }
    }
}

async fn month() {
    let (login, db) = empty_database("patron_blocks_bench_rebuild").await;
    let mut month = Month::make(EVENTS).await;
    let service = Service::start(&login, &month.environment, CONNECTIONS).await;
    let published = month.publish_but(LATE_EVENTS).await;
    print_line(&format!(
        "{published} events of {} patrons; the tenant is not enabled yet",
        month.patrons
    ));
    let began = Instant::now();
    month.set_up(service.port).await;
    let jobs = Jobs::new(service.port, &month);
    jobs.until_complete().await;
    print_line(&format!("  initial fill complete after {:.1} s", began.elapsed().as_secs_f64()));
    month.judge(service.port, "after the initial fill").await;
    // Ingest also reads its topics from their start.
    jobs.until_no_lag().await;
    print_line(&format!("  every event in the inbox after {:.0} s", began.elapsed().as_secs_f64()));

    dry_run_without_load(&month, &jobs).await;
    let before = month.watch(service.port).end_after(Duration::from_secs(10)).await;
    before.report("without rebuild");
    let damage = Damage::of(&db, &month).await;
    damage.apply(&db).await;
    let watch = month.watch(service.port);
    let dry = jobs.run(json!({ "dryRun": true })).await;
    dry.report("dry run with evaluation load");
    damage.assert_reported_exactly(&jobs.differences(&dry).await);
    let applied = jobs.apply(&dry).await;
    print_line(&format!("  applied: {:.2} s", applied.seconds));
    let after = watch.end_after(Duration::ZERO).await;
    after.report("during the rebuild");
    after.assert_blocks_without_gap();
    month.judge(service.port, "after five kinds of damage and a rebuild").await;
    print_line(&format!("  peak memory of the service: {} MiB", service.peak_memory()));

    lose_events(&db, &month, &jobs, service.port).await;

    damage.apply(&db).await;
    let (_, applied) = tokio::join!(month.publish_the_rest(EVENTS_PER_SECOND), jobs.run(json!({})));
    applied.report(&format!("rebuild during ingest of {EVENTS_PER_SECOND} events/s"));
    jobs.until_no_lag().await;
    month.judge(service.port, "after the rebuild and the ingest").await;
    drop(service);
    month.remove().await;
}

/// Deletes one event in a hundred from the inbox. A comparison with the topics must report the same patrons
/// as the judge.
async fn lose_events(db: &patron_blocks::store::Db, month: &Month, jobs: &Jobs, port: u16) {
    let lost = damage::lose_one_percent(db).await;
    jobs.run(json!({ "source": "inbox" })).await;
    let missed = month.differing(port).await;
    let dry = jobs.run(json!({ "dryRun": true })).await;
    let named = jobs.differing_patrons(&dry).await;
    let unnamed = missed.difference(&named).count();
    print_line(&format!(
        "  {lost} events lost: the judge reports {} patrons, the rebuild {}; the rebuild lacks {unnamed}",
        missed.len(),
        named.len(),
    ));
    assert_eq!(unnamed, 0);
    jobs.apply(&dry).await;
    month.judge(port, "after the rebuild of the lost events").await;
}

/// Measures a dry run without evaluation load and without new events, and the bare consumer.
async fn dry_run_without_load(month: &Month, jobs: &Jobs) {
    let dry = jobs.run(json!({ "dryRun": true })).await;
    dry.report("dry run without evaluation load");
    bare::report(month, &dry);
}

async fn rate(events: u64, rounds: usize) {
    let (login, _db) = empty_database("patron_blocks_bench_rebuild").await;
    let (month, service) = filled(&login, events).await;
    let jobs = Jobs::new(service.port, &month);
    for _ in 0..rounds {
        dry_run_without_load(&month, &jobs).await;
    }
    print_line(&format!("  peak memory of the service: {} MiB", service.peak_memory()));
    drop(service);
    month.remove().await;
}

/// Returns a month of this many events and a service that has ingested all of them.
async fn filled(login: &Login, events: u64) -> (Month, Service) {
    let mut month = Month::make(events).await;
    let service = Service::start(login, &month.environment, CONNECTIONS).await;
    month.publish_but(0).await;
    month.set_up(service.port).await;
    let jobs = Jobs::new(service.port, &month);
    jobs.until_complete().await;
    jobs.until_no_lag().await;
    (month, service)
}

/// Returns a quarter of the month, ingested completely, and the damage to apply.
async fn quarter(db: &Db, login: &Login) -> (Month, Service, Damage) {
    let (month, service) = filled(login, EVENTS / 4).await;
    let damage = Damage::of(db, &month).await;
    (month, service, damage)
}

/// Returns a random time within a duration.
fn random_time(whole: f64) -> Duration {
    Duration::from_secs_f64(rand::rng().random_range(0.0..whole))
}

async fn kills() {
    let (login, db) = empty_database("patron_blocks_bench_rebuild").await;
    let (month, mut service, damage) = quarter(&db, &login).await;
    let mut jobs = Jobs::new(service.port, &month);
    damage.apply(&db).await;
    let whole = jobs.run(json!({})).await;
    let mut times = Vec::new();
    for _ in 0..10 {
        damage.apply(&db).await;
        let id = jobs.request(json!({})).await;
        jobs.until_started(&id).await;
        // The only running instance has the lease; the second instance starts after the kill.
        let time = random_time(whole.seconds);
        tokio::time::sleep(time).await;
        let stage = jobs.stage(&id).await;
        drop(service);
        service = Service::start(&login, &month.environment, CONNECTIONS).await;
        jobs = Jobs::new(service.port, &month);
        let done = jobs.until_at_rest(&id).await;
        assert_eq!(done.body["status"], "done", "{}", done.body);
        times.push(format!("{:.1} s ({stage})", time.as_secs_f64()));
        month.judge(service.port, "after a kill during the rebuild").await;
    }
    print_line(&format!(
        "  killed after {}: another instance finished the rebuild each time",
        times.join(", ")
    ));
    jobs.until_all_have_ended().await;
    assert_eq!(jobs.shadows(&db).await, 0, "no shadow remains");
    drop(service);
    month.remove().await;
}

async fn cancels() {
    let (login, db) = empty_database("patron_blocks_bench_rebuild").await;
    let (month, service, damage) = quarter(&db, &login).await;
    let jobs = Jobs::new(service.port, &month);
    damage.apply(&db).await;
    let whole = jobs.run(json!({})).await;
    let mut times = Vec::new();
    for _ in 0..10 {
        damage.apply(&db).await;
        let id = jobs.request(json!({})).await;
        let time = random_time(whole.seconds);
        tokio::time::sleep(time).await;
        let stage = jobs.stage(&id).await;
        jobs.cancel(&id).await;
        let ended = jobs.until_at_rest(&id).await;
        let status = ended.body["status"].as_str().expect("a status").to_owned();
        times.push(format!("{:.1} s ({stage}: {status})", time.as_secs_f64()));
        assert_eq!(jobs.shadows(&db).await, 0, "no shadow remains");
        if status == "cancelled" {
            assert_eq!(jobs.difference_count(&db, &id).await, 0, "no difference remains");
        }
    }
    print_line(&format!("  cancelled after {}: no shadow remained", times.join(", ")));
    jobs.run(json!({})).await;
    month.judge(service.port, "after ten cancelled rebuilds and one complete rebuild").await;
    drop(service);
    month.remove().await;
}

async fn tenants() {
    let (login, db) = empty_database("patron_blocks_bench_rebuild").await;
    let (month, service) = filled(&login, EVENTS / 20).await;
    let mut many = TenantSet::of(TENANTS, service.port);
    let shared = many.publish(&month.environment).await;
    many.until_skipped().await;
    month.watch(service.port).end_after(Duration::from_secs(10)).await.report("without rebuild");
    let read = many.replayed().await;
    let (watch, began) = (month.watch(service.port), Instant::now());
    many.enable().await;
    let enabled = began.elapsed().as_secs_f64();
    many.until_complete().await;
    let filled = began.elapsed().as_secs_f64();
    let after = watch.end_after(Duration::ZERO).await;
    after.report(&format!("during the initial fills of {TENANTS} tenants"));
    after.assert_blocks_without_gap();
    print_line(&format!(
        "  enabled after {enabled:.1} s, all filled after {filled:.1} s; the shared topic has {shared} records, the \
         fills read {} records",
        many.replayed().await - read
    ));
    many.judge(&db).await;
    drop(service);
    let settings = [("REBUILD_CONCURRENCY", "3")];
    let service = Service::start_with(&login, &month.environment, CONNECTIONS, &settings).await;
    many.port = service.port;
    many.lose_some(&db).await;
    let began = Instant::now();
    let times = many.rebuild(3).await;
    print_line(&format!(
        "  three rebuilds at once: {times}, complete after {:.1} s",
        began.elapsed().as_secs_f64()
    ));
    many.judge(&db).await;
    drop(service);
    month.remove().await;
}
