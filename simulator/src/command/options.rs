//! The options that several commands share.

use std::str::FromStr;

use anyhow::ensure;
use chrono::{DateTime, Utc};
use clap::Args;

use crate::clock::Clock;
use crate::model::Settings;
use crate::service;
use crate::wire::{Faults, Shape, Wire};

/// The options that select the library and its history.
#[derive(Debug, Args)]
pub(super) struct LibraryOptions {
    /// Seed of the history; the same seed gives the same history.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Patrons of the library [default: 2000, or as many as --events needs].
    #[arg(long)]
    patrons: Option<u32>,
    /// Days to play.
    #[arg(long, default_value_t = 1)]
    days: u32,
    /// Approximate number of events; sets the number of patrons or, with --patrons, the activity.
    #[arg(long)]
    events: Option<u64>,
    /// End of the last day, as 2026-09-14T22:00:00Z [default: now]. All ids depend on it, so the same
    /// history at another time is another library.
    #[arg(long)]
    end: Option<DateTime<Utc>>,
}

impl LibraryOptions {
    pub(super) fn settings(&self) -> anyhow::Result<Settings> {
        let now = Clock::Wall.now();
        let end = self.end.unwrap_or(now);
        ensure!(end <= now, "the last day must end in the past, not at {end}");
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

/// The options for the Kafka cluster.
#[derive(Debug, Args)]
pub(super) struct Broker {
    /// Host of a Kafka broker.
    #[arg(long, env = "KAFKA_HOST", default_value = "localhost")]
    kafka_host: String,
    /// Port of a Kafka broker.
    #[arg(long, env = "KAFKA_PORT", default_value_t = 9092)]
    kafka_port: u16,
    /// First part of the topic names; empty for none.
    #[arg(long, env = "ENV", default_value = "folio")]
    pub(super) env: String,
    /// Replication factor of created topics.
    #[arg(long, env = "REPLICATION_FACTOR", default_value_t = 1)]
    pub(super) replication_factor: i32,
}

impl Broker {
    pub(super) fn bootstrap(&self) -> String {
        format!("{}:{}", self.kafka_host, self.kafka_port)
    }
}

/// The options for topics and values.
#[derive(Debug, Args)]
pub(super) struct FormatOptions {
    /// Shape of the records' values.
    #[arg(long, value_enum, default_value_t)]
    shape: Shape,
    /// Name of a tenant collection, such as ALL: it replaces the tenant in the topic names.
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

/// The options for the publishing modules.
#[derive(Debug, Args)]
pub(super) struct ProducerOptions {
    /// Loan storage and the users module also publish to their topics. The play then also edits loans and
    /// patron groups without business events.
    #[arg(long)]
    pub(super) storage_topics: bool,
    /// Loan storage publishes all events of circulation through an outbox with a relay that is killed now
    /// and then. The events arrive in order, late, and some of them twice.
    #[arg(long)]
    pub(super) storage_outbox: bool,
}

/// The options for faults.
#[derive(Debug, Args)]
pub(super) struct FaultOptions {
    /// Probability that a record is lost.
    #[arg(long, default_value_t = 0.0, value_parser = chance)]
    lose: f64,
    /// Probability that a record is published twice.
    #[arg(long, default_value_t = 0.0, value_parser = chance)]
    repeat: f64,
    /// Probability that a record is published much later.
    #[arg(long, default_value_t = 0.0, value_parser = chance)]
    delay: f64,
    /// Maximum delay, in records.
    #[arg(long, default_value_t = 5000)]
    delay_by: u64,
    /// Size of the window in which records of all topics are shuffled.
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
    let is_probability = (0.0..=1.0).contains(&chance);
    if is_probability { Ok(chance) } else { Err("a probability lies between 0 and 1".to_owned()) }
}

/// The options for the pace of the days.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Speed {
    /// `max`, or a multiple of real time.
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

/// The pace of the days.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// As fast as possible.
    Max,
    /// A multiple of real time.
    Times(f64),
}

impl Pace {
    /// Returns the pace at which a day takes this many seconds.
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

/// The options for the service and its tenant.
#[derive(Debug, Args)]
pub(super) struct Service {
    /// Address of the service, as http://127.0.0.1:8081.
    #[arg(long)]
    service_url: String,
    /// The tenant.
    #[arg(long, default_value = "northlib")]
    pub(super) tenant: String,
    /// Address of the other FOLIO modules, sent with each request; optional if the service has the address
    /// in its configuration.
    #[arg(long)]
    okapi_url: Option<String>,
}

impl Service {
    pub(super) fn connect(&self) -> anyhow::Result<service::Service> {
        service::Service::new(&self.service_url, &self.tenant, self.okapi_url.as_deref())
    }
}
