//! Measures the time from the `send` call of the producer until the event is visible. The state and the
//! position after an event are committed together. A trigger of the bench notifies of each commit that
//! moves positions, so the measurement polls no table.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use patron_blocks::{event::Kind, kafka::delivery::ConsumedRecord, store::Db};
use sqlx::{Executor, postgres::PgListener};

use crate::{
    fixture::{SeededRng, database, print_line, records},
    log::{Log, PARTITIONS, topic},
    service::{positions, start},
};

/// The number of events that are sent one at a time.
const SINGLE_EVENTS: usize = 300;

const NOTIFY_TRIGGER: &str = "
    create function notify_commit() returns trigger language plpgsql as $$
      begin perform pg_notify('visible', ''); return null; end $$;
    create trigger notify_commit after insert or update on northlib_mod_patron_blocks.ingest_position
      for each statement execute function notify_commit();";

/// The send time of each record of a partition, the first at offset 0.
#[derive(Default)]
struct Sent {
    at: HashMap<(String, i32), Vec<Instant>>,
    seen: HashMap<(String, i32), usize>,
    took: Vec<Duration>,
}

impl Sent {
    fn send(
        &mut self,
        log: &Log,
        n: usize,
        ConsumedRecord { record, topic: of, .. }: &ConsumedRecord,
    ) {
        let partition = n as i32 % PARTITIONS;
        let place = (topic(&log.environment, of.kind), partition);
        self.at.entry(place).or_default().push(Instant::now());
        log.send(of.kind, partition, record.payload.as_deref().expect("a payload"));
    }

    async fn observe(&mut self, db: &Db, log: &Log) {
        let reached = positions(db, log).await;
        let now = Instant::now();
        for (topic, partition, next) in reached {
            let place = (topic, partition);
            let Some(sent) = self.at.get(&place) else { continue };
            let seen = self.seen.entry(place).or_default();
            let next = next as usize;
            self.took.extend(sent[*seen..next].iter().map(|sent| now - *sent));
            *seen = next;
        }
    }
}

fn report(what: &str, mut took: Vec<Duration>) {
    took.sort();
    let ms = |share: usize| took[(took.len() - 1) * share / 100].as_secs_f64() * 1e3;
    print_line(&format!(
        "visible after, {what:<22} p50, p99:     {:>9.1} {:.1} ms",
        ms(50),
        ms(99)
    ));
}

/// Returns a random pause between two single events.
fn pause(rng: &mut SeededRng) -> Duration {
    Duration::from_millis(5 + rng.below(50))
}

/// Measures broker and client without the service: the floor for single events.
async fn floor(log: &Log, events: &[ConsumedRecord]) -> Vec<Duration> {
    let (reader, mut rng) = (log.reader(), SeededRng::new(7));
    let mut took = Vec::with_capacity(events.len());
    for (n, ConsumedRecord { record, topic, .. }) in events.iter().enumerate() {
        let sent = Instant::now();
        log.send(topic.kind, n as i32 % PARTITIONS, record.payload.as_deref().expect("a payload"));
        reader.poll(None).expect("the record").expect("no error");
        took.push(sent.elapsed());
        tokio::time::sleep(pause(&mut rng)).await;
    }
    took
}

/// Sends `events` at a constant rate per second.
async fn flood(
    db: &Db,
    log: &Log,
    notifications: &mut PgListener,
    events: &[ConsumedRecord],
    rate: f64,
) -> Sent {
    let mut sent = Sent::default();
    let mut tick = tokio::time::interval(Duration::from_millis(1));
    let (start, mut number) = (Instant::now(), 0);
    while sent.took.len() < events.len() {
        tokio::select! {
            notification = notifications.recv() => {
                notification.expect("the database sends a notification");
                sent.observe(db, log).await;
            }
            _ = tick.tick() => {}
        }
        let due = (start.elapsed().as_secs_f64() * rate) as usize;
        while number < due.min(events.len()) {
            sent.send(log, number, &events[number]);
            number += 1;
        }
    }
    sent
}

/// Sends single events, each a while after the previous event is visible.
async fn one_at_a_time(
    db: &Db,
    log: &Log,
    notifications: &mut PgListener,
    events: &[ConsumedRecord],
) -> Sent {
    let (mut sent, mut rng) = (Sent::default(), SeededRng::new(7));
    for (n, event) in events.iter().enumerate() {
        sent.send(log, n, event);
        while sent.took.len() <= n {
            notifications.recv().await.expect("the database sends a notification");
            sent.observe(db, log).await;
        }
        tokio::time::sleep(pause(&mut rng)).await;
    }
    sent
}

pub(crate) async fn measure() {
    let (login, db, _) = database("patron_blocks_bench_visible").await;
    db.execute(NOTIFY_TRIGGER).await.expect("a trigger");
    let log = Log::make(0).await;
    report("bare client, idle", floor(&log, &records(SINGLE_EVENTS, 1)).await);
    log.remove().await;
    for (what, rate, number) in [
        ("idle", None, SINGLE_EVENTS),
        ("500 events/s", Some(500.0), 2_500),
        ("20,000 events/s", Some(20_000.0), 60_000),
    ] {
        let log = Log::make(if rate == Some(20_000.0) { 5 } else { 0 }).await;
        let running = start(&login, &log, 2).await;
        warm(&db, &log).await;
        let mut notifications = PgListener::connect_with(&db).await.expect("a connection");
        notifications.listen("visible").await.expect("the connection listens");
        let events = records(number, number as u64);
        let sent = match rate {
            None => one_at_a_time(&db, &log, &mut notifications, &events).await,
            Some(rate) => flood(&db, &log, &mut notifications, &events, rate).await,
        };
        running.stop().await;
        log.remove().await;
        report(what, sent.took);
    }
}

/// Waits until every partition is read, with records of a kind that is not measured.
async fn warm(db: &Db, log: &Log) {
    let loan = r#"{"userId":"00000000-0000-4000-8000-0000000f4240","loanId":"00000000-0000-4000-8000-0000000f4241"}"#;
    for partition in 0..PARTITIONS {
        log.send(Kind::ItemDeclaredLost, partition, loan.as_bytes());
    }
    let mut observe = tokio::time::interval(Duration::from_millis(10));
    while positions(db, log).await.len() < PARTITIONS as usize {
        observe.tick().await;
    }
}
