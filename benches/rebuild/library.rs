//! The month of a library: played once, published in two parts, and judged.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use simulator::{
    clock::Clock,
    folio::Folio,
    kafka::{Publisher, create_topics},
    model::Settings,
    regulations,
    service::{self, Judge, set_up},
    wire::{Faults, Play, Record, Topic, Wire},
};
use tokio::time::interval;
use uuid::Uuid;

use crate::{
    evaluation_load::{self, EvaluationLoad},
    fixture::{TENANT, engines::variable, print_line},
};

pub(crate) struct Month {
    pub(crate) environment: String,
    pub(crate) patrons: u32,
    pub(crate) folio: Folio,
    play: Play,
    publisher: Publisher,
    topics: Vec<Topic>,
    late: VecDeque<Record>,
}

const WAIT_TIMEOUT: Duration = Duration::from_secs(120);

pub(crate) fn bootstrap() -> String {
    format!("{}:{}", variable("KAFKA_HOST"), variable("KAFKA_PORT"))
}

impl Month {
    pub(crate) async fn make(events: u64) -> Self {
        let environment = format!("rebuild-{}", Uuid::new_v4().simple());
        let settings =
            Settings { days: 30, ..Settings::new(11, patron_blocks::clock::Clock::system().now()) };
        let settings = settings.with_patrons_for(events);
        let wire = Wire::new(&environment, TENANT);
        let topics = wire.topics();
        create_topics(&bootstrap(), &topics, 1).await.expect("Kafka responds");
        // Each record is published without delay, so the truth and the topics agree at every pause.
        let play = Play::new(&settings, &wire, Faults { repeat: 0.02, ..Faults::NONE });
        let folio = Folio::start(TENANT, play.truth(), 0).expect("a port");
        let publisher = Publisher::new(&bootstrap()).expect("a producer");
        let (patrons, late) = (settings.patrons, VecDeque::new());
        Self { environment, patrons, folio, play, publisher, topics, late }
    }

    /// Publishes all events except the last ones, which are published later. Returns the number of
    /// published records.
    pub(crate) async fn publish_but(&mut self, late: usize) -> u64 {
        let all = (f64::from(self.patrons) * 61.75 * 1.02) as usize;
        let (most, mut published) = (all.saturating_sub(2 * late), 0);
        for step in self.play.by_ref() {
            self.publisher.publish(&step.record).await.expect("the broker accepts the record");
            published += 1;
            if late > 0 && published as usize >= most {
                break;
            }
        }
        self.publisher.flush(WAIT_TIMEOUT).await.expect("the broker accepts the records");
        published
    }

    /// Publishes the remaining records at this rate per second.
    pub(crate) async fn publish_the_rest(&mut self, rate: u32) {
        self.late.extend(self.play.by_ref().map(|step| step.record));
        let (mut tick, mut sent) = (interval(Duration::from_millis(50)), 0);
        while !self.late.is_empty() {
            tick.tick().await;
            for record in self.late.drain(..self.late.len().min(rate as usize / 20)) {
                self.publisher.publish(&record).await.expect("the broker accepts the record");
                sent += 1;
            }
        }
        self.publisher.flush(WAIT_TIMEOUT).await.expect("the broker accepts the records");
        print_line(&format!("  {sent} events at {rate} a second"));
    }

    fn service(&self, port: u16) -> service::Service {
        let url = format!("http://127.0.0.1:{port}");
        service::Service::new(&url, TENANT, Some(&self.folio.url())).expect("a client")
    }

    pub(crate) async fn set_up(&self, port: u16) {
        set_up(&self.service(port), &regulations::rules()).await.expect("the tenant is enabled");
    }

    /// Checks every patron's summary and blocks against the truth.
    pub(crate) async fn judge(&self, port: u16, what: &str) {
        let judge = Judge::new(self.service(port), Clock::Wall);
        let truth = Arc::new(self.play.truth().snapshot());
        let expected = async || Ok(truth.clone());
        let verdict = judge.compare_until(WAIT_TIMEOUT, expected).await.expect("a verdict");
        print_line(&format!("  {what}: {verdict}"));
        assert_eq!(verdict.differences, []);
    }

    /// Returns the patrons with a summary or blocks that differ from the truth.
    pub(crate) async fn differing(&self, port: u16) -> BTreeSet<Uuid> {
        let judge = Judge::new(self.service(port), Clock::Wall);
        let truth = Arc::new(self.play.truth().snapshot());
        let verdict = judge.compare(&truth).await.expect("a verdict");
        verdict.differences.into_iter().map(|difference| difference.patron).collect()
    }

    /// Returns up to `most` patrons, ordered by the number of loans.
    pub(crate) fn busiest(&self, most: usize) -> Vec<Uuid> {
        let truth = self.play.truth().snapshot();
        let mut all: Vec<(usize, Uuid)> =
            truth.accounts().map(|a| (a.open_loans.len(), a.patron.id)).collect();
        all.sort_by(|a, b| b.cmp(a));
        all.into_iter().take(most).map(|(_, id)| id).collect()
    }

    /// Starts the evaluation load for the patrons with most loans.
    pub(crate) fn watch(&self, port: u16) -> EvaluationLoad {
        EvaluationLoad::begin(self.busiest(evaluation_load::PATRONS), &self.folio.url(), port)
    }

    pub(crate) fn topics(&self) -> Vec<(String, i32)> {
        self.topics.iter().map(|topic| (topic.name.clone(), topic.partitions)).collect()
    }

    pub(crate) async fn remove(self) {
        use rdkafka::{ClientConfig, admin::AdminClient, client::DefaultClientContext};
        let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
            .set("bootstrap.servers", bootstrap())
            .create()
            .expect("an admin client");
        let names: Vec<&str> = self.topics.iter().map(|topic| &*topic.name).collect();
        let _ = admin.delete_topics(&names, &Default::default()).await;
        self.folio.stop().await;
    }
}
