//! How long it takes from handing an event to the producer to its being visible: what it says and the
//! position behind it are committed together, and the position is looked at each millisecond.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use patron_blocks::{event::Kind, flow::ingest::Incoming, store::Db};

use crate::{
    log::{Log, PARTITIONS, topic},
    prepared::{Dice, database, records, say},
    service::{positions, start},
};

/// Events one at a time.
const ALONE: usize = 300;

/// When each record of a partition was sent, the first at offset 0.
#[derive(Default)]
struct Sent {
    at: HashMap<(String, i32), Vec<Instant>>,
    seen: HashMap<(String, i32), usize>,
    took: Vec<Duration>,
}

impl Sent {
    fn send(&mut self, log: &Log, n: usize, Incoming { record, topic: of, .. }: &Incoming) {
        let partition = n as i32 % PARTITIONS;
        let place = (topic(&log.environment, of.kind), partition);
        self.at.entry(place).or_default().push(Instant::now());
        log.send(of.kind, partition, record.payload.as_deref().expect("a payload"));
    }

    async fn look(&mut self, db: &Db, log: &Log) {
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

    fn report(mut self, what: &str) {
        self.took.sort();
        let ms = |share: usize| self.took[(self.took.len() - 1) * share / 100].as_secs_f64() * 1e3;
        say(&format!("visible after, {what:<22} p50, p99:     {:>9.1} {:.1} ms", ms(50), ms(99)));
    }
}

/// Keeps so many events a second coming, all of `events`.
async fn flood(db: &Db, log: &Log, events: &[Incoming], rate: f64) -> Sent {
    let mut sent = Sent::default();
    let mut look = tokio::time::interval(Duration::from_millis(1));
    let (start, mut number) = (Instant::now(), 0);
    while sent.took.len() < events.len() {
        look.tick().await;
        let due = (start.elapsed().as_secs_f64() * rate) as usize;
        while number < due.min(events.len()) {
            sent.send(log, number, &events[number]);
            number += 1;
        }
        sent.look(db, log).await;
    }
    sent
}

/// One event, and the next a while after it is visible.
async fn alone(db: &Db, log: &Log, events: &[Incoming]) -> Sent {
    let (mut sent, mut dice) = (Sent::default(), Dice::new(7));
    let mut look = tokio::time::interval(Duration::from_millis(1));
    for (n, event) in events.iter().enumerate() {
        sent.send(log, n, event);
        while sent.took.len() <= n {
            look.tick().await;
            sent.look(db, log).await;
        }
        tokio::time::sleep(Duration::from_millis(5 + dice.below(50))).await;
    }
    sent
}

pub(crate) async fn measure() {
    let (login, db, _) = database("patron_blocks_bench_visible").await;
    for (what, rate, number) in [
        ("idle", None, ALONE),
        ("500 events/s", Some(500.0), 2_500),
        ("20,000 events/s", Some(20_000.0), 60_000),
    ] {
        let log = Log::make(if rate == Some(20_000.0) { 5 } else { 0 }).await;
        let running = start(&login, &log, 2).await;
        warm(&db, &log).await;
        let events = records(number, number as u64);
        let sent = match rate {
            None => alone(&db, &log, &events).await,
            Some(rate) => flood(&db, &log, &events, rate).await,
        };
        running.stop().await;
        log.remove().await;
        sent.report(what);
    }
}

/// Waits until every partition is read: records of a kind that is not measured come through.
async fn warm(db: &Db, log: &Log) {
    let loan = r#"{"userId":"00000000-0000-4000-8000-0000000f4240","loanId":"00000000-0000-4000-8000-0000000f4241"}"#;
    for partition in 0..PARTITIONS {
        log.send(Kind::ItemDeclaredLost, partition, loan.as_bytes());
    }
    let mut look = tokio::time::interval(Duration::from_millis(10));
    while positions(db, log).await.len() < PARTITIONS as usize {
        look.tick().await;
    }
}
