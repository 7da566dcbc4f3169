//! Options that several commands share.

use std::str::FromStr;

use anyhow::ensure;
use chrono::{DateTime, Utc};
use clap::Args;

use crate::clock::Clock;
use crate::model::Settings;
use crate::service;
use crate::wire::{Faults, Shape, Wire};

/// Which story.
#[derive(Debug, Args)]
pub(super) struct LibraryOptions {
    /// Picks the story; the same seed tells the same story.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Patrons of the library [default: 2000, or as many as --events needs].
    #[arg(long)]
    patrons: Option<u32>,
    /// Days to play.
    #[arg(long, default_value_t = 1)]
    days: u32,
    /// About so many events: chooses the number of patrons or, with --patrons, how busy they are.
    #[arg(long)]
    events: Option<u64>,
    /// End of the last day, as 2026-09-14T22:00:00Z [default: now]. It goes into all ids, so the
    /// same story played at another time is another library.
    #[arg(long)]
    end: Option<DateTime<Utc>>,
}

impl LibraryOptions {
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let now = Clock::Wall.now();
        let end = self.end.unwrap_or(now);
        ensure!(end <= now, "the last day would end in the future, at {end}");
        let mut settings = Settings::new(self.seed, end);
        settings.days = self.days;
        settings.patrons = self.patrons.unwrap_or(settings.patrons).max(1);
        Ok(match (self.events, self.patrons) {
            (None, _) => settings,
            (Some(events), None) => settings.with_patrons_for(events),
            (Some(events), Some(_)) => settings.with_activity_for(events),
        })
    }
}

/// Where Kafka is.
#[derive(Debug, Args)]
pub(super) struct Broker {
    /// Host of a Kafka broker.
    #[arg(long, env = "KAFKA_HOST", default_value = "localhost")]
    kafka_host: String,
    /// Port of a Kafka broker.
    #[arg(long, env = "KAFKA_PORT", default_value_t = 9092)]
    kafka_port: u16,
    /// First part of the topics' names; empty for none.
    #[arg(long, env = "ENV", default_value = "folio")]
    pub(super) env: String,
    /// Replication factor of topics that are created.
    #[arg(long, env = "REPLICATION_FACTOR", default_value_t = 1)]
    pub(super) replication_factor: i32,
}

impl Broker {
    pub(super) fn bootstrap(&self) -> String {
        format!("{}:{}", self.kafka_host, self.kafka_port)
    }
}

/// How events are written.
#[derive(Debug, Args)]
pub(super) struct FormatOptions {
    /// Shape of the records' values.
    #[arg(long, value_enum, default_value_t)]
    shape: Shape,
    /// Write to topics that all tenants share, with this in place of the tenant, such as ALL.
    #[arg(long)]
    collection: Option<String>,
}

impl FormatOptions {
    pub(super) fn wire(&self, env: &str, tenant: &str, producers: &ProducerOptions) -> Wire {
        let storage = producers.storage_topics;
        let (shape, collection) = (self.shape, self.collection.clone());
        let outbox = producers.storage_outbox;
        Wire { shape, collection, storage, outbox, ..Wire::new(env, tenant) }
    }
}

/// Who tells.
#[derive(Debug, Args)]
pub(super) struct ProducerOptions {
    /// Loan storage and the users module write to their topics, too. Then loans and groups are edited of
    /// which nobody else tells.
    #[arg(long)]
    pub(super) storage_topics: bool,
    /// All that circulation tells is told by loan storage, through an outbox whose relay is killed now and then:
    /// in order, late, and some of it twice.
    #[arg(long)]
    pub(super) storage_outbox: bool,
}

/// What goes wrong on the way.
#[derive(Debug, Args)]
pub(super) struct FaultOptions {
    /// Chance of a record to be lost for good.
    #[arg(long, default_value_t = 0.0, value_parser = chance)]
    lose: f64,
    /// Chance of a record to be published twice.
    #[arg(long, default_value_t = 0.0, value_parser = chance)]
    repeat: f64,
    /// Chance of a record to be published much later.
    #[arg(long, default_value_t = 0.0, value_parser = chance)]
    delay: f64,
    /// So many records later at most.
    #[arg(long, default_value_t = 5000)]
    delay_by: u64,
    /// Shuffle records, over all topics, within windows of this size.
    #[arg(long, default_value_t = 0)]
    reorder: u64,
}

impl FaultOptions {
    pub(super) fn faults(&self) -> Faults {
        let Self { lose, repeat, delay, delay_by, reorder } = *self;
        Faults { lose, repeat, delay, delay_by, reorder }
    }
}

fn chance(text: &str) -> Result<f64, String> {
    let chance: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let is_chance = (0.0..=1.0).contains(&chance);
    if is_chance { Ok(chance) } else { Err("a chance lies between 0 and 1".to_owned()) }
}

/// How fast the days pass.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Speed {
    /// `max`, or how many times as fast as real time.
    #[arg(long, default_value = "max")]
    speed: Pace,
    /// Seconds that a day takes, instead of --speed.
    #[arg(long, conflicts_with = "speed")]
    day_seconds: Option<f64>,
}

impl Speed {
    pub(super) fn pace(&self) -> Pace {
        self.day_seconds.map_or(self.speed, Pace::day_in)
    }
}

/// How fast the days pass.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// As fast as it goes.
    Max,
    /// So many times as fast as real time.
    Times(f64),
}

impl Pace {
    /// A day in so many seconds.
    pub(super) fn day_in(seconds: f64) -> Self {
        if seconds > 0.0 { Self::Times(86_400.0 / seconds) } else { Self::Max }
    }
}

impl FromStr for Pace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            _ if text == "max" => Ok(Self::Max),
            Ok(times) if times > 0.0 && times.is_finite() => Ok(Self::Times(times)),
            _ => Err("neither `max` nor a number above 0".to_owned()),
        }
    }
}

/// Which tenant of which service.
#[derive(Debug, Args)]
pub(super) struct Service {
    /// Address of the service, as http://127.0.0.1:8081.
    #[arg(long)]
    service_url: String,
    /// The tenant.
    #[arg(long, default_value = "northlib")]
    pub(super) tenant: String,
    /// Address of the rest of FOLIO that is sent along, if the service needs to be told.
    #[arg(long)]
    okapi_url: Option<String>,
}

impl Service {
    pub(super) fn connect(&self) -> anyhow::Result<service::Service> {
        service::Service::new(&self.service_url, &self.tenant, self.okapi_url.as_deref())
    }
}
