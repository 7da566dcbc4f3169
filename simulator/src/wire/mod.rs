//! How FOLIO's modules write events to Kafka: topics, keys, headers and values.

mod faults;
mod outbox;
mod payload;
mod play;
mod stored;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use clap::ValueEnum;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

pub use faults::Faults;
pub use play::{Play, SharedTruth, Step};

use crate::model::{Event, Mark, What};
use payload::Form;

/// One record as a producer hands it to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Topic.
    pub topic: Arc<str>,
    /// Key. It says nothing about the loan or the patron.
    pub key: String,
    /// Headers in the order in which they are written.
    pub headers: Vec<(&'static str, Arc<str>)>,
    /// Time of the record (CreateTime), milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Value: JSON text.
    pub payload: Vec<u8>,
}

/// In which of the shapes that exist the values are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Shape {
    /// As the producers do: circulation in envelopes, fees/fines flat.
    #[default]
    Real,
    /// Everything flat.
    Flat,
    /// Everything in envelopes.
    Enveloped,
    /// Everything in envelopes whose data a plain Jackson mapper has wrapped once more.
    Wrapped,
    /// Each record in any of them.
    Mixed,
}

/// Where and how a tenant's events are written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// First part of the topics' names; if empty, topics have no such part.
    pub env: String,
    /// The tenant.
    pub tenant: String,
    /// Stands in place of the tenant in the topics' names when tenants share topics.
    pub collection: Option<String>,
    /// Shape of the values.
    pub shape: Shape,
    /// Whether loan storage and the users module tell of what is written there, too. Then things are
    /// edited of which nobody else tells.
    pub storage: bool,
    /// Whether all that circulation tells is told by loan storage, through an outbox.
    pub outbox: bool,
}

/// The kinds of business events, each with a topic of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    CheckedOut,
    CheckedIn,
    DeclaredLost,
    AgedToLost,
    ClaimedReturned,
    DueDateChanged,
    LoanClosed,
    BalanceChanged,
}

impl Kind {
    const ALL: [Self; 8] = [
        Self::CheckedOut,
        Self::CheckedIn,
        Self::DeclaredLost,
        Self::AgedToLost,
        Self::ClaimedReturned,
        Self::DueDateChanged,
        Self::LoanClosed,
        Self::BalanceChanged,
    ];

    /// None for what only storage tells.
    fn of(event: &Event) -> Option<Self> {
        Some(match &event.what {
            What::CheckedOut { .. } => Self::CheckedOut,
            What::CheckedIn { .. } => Self::CheckedIn,
            What::DueDateChanged { .. } => Self::DueDateChanged,
            What::BalanceChanged { .. } => Self::BalanceChanged,
            What::Marked { mark, .. } => match mark {
                Mark::DeclaredLost => Self::DeclaredLost,
                Mark::AgedToLost => Self::AgedToLost,
                Mark::ClaimedReturned => Self::ClaimedReturned,
                Mark::LoanClosed => Self::LoanClosed,
                Mark::DeclaredMissing => return None,
            },
            What::Entered { .. } | What::Erased { .. } | What::Regrouped { .. } => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::CheckedOut => "ITEM_CHECKED_OUT",
            Self::CheckedIn => "ITEM_CHECKED_IN",
            Self::DeclaredLost => "ITEM_DECLARED_LOST",
            Self::AgedToLost => "ITEM_AGED_TO_LOST",
            Self::ClaimedReturned => "ITEM_CLAIMED_RETURNED",
            Self::DueDateChanged => "LOAN_DUE_DATE_CHANGED",
            Self::LoanClosed => "LOAN_CLOSED",
            Self::BalanceChanged => "FEE_FINE_BALANCE_CHANGED",
        }
    }

    const fn is_circulation(self) -> bool {
        !matches!(self, Self::BalanceChanged)
    }

    /// The middle part of the topic's name: who produces the events.
    const fn producer(self) -> &'static str {
        if self.is_circulation() { "circulation" } else { "feesfines" }
    }
}

/// A topic as its producer creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Full name.
    pub name: String,
    /// Number of partitions the producer asks for.
    pub partitions: i32,
}

impl Wire {
    /// The wire of a tenant with topics of its own, in real producers' shapes.
    pub fn new(env: &str, tenant: &str) -> Self {
        let (env, tenant) = (env.to_owned(), tenant.to_owned());
        Self { env, tenant, collection: None, shape: Shape::Real, storage: false, outbox: false }
    }

    /// The topic in which the service tells of blocks.
    pub fn told(&self) -> String {
        self.named("patron-blocks.automated-block")
    }

    /// The eight topics, and those of storage where it tells.
    pub fn topics(&self) -> Vec<Topic> {
        let topic = |kind: Kind| Topic {
            name: self.topic(kind),
            partitions: if kind.is_circulation() { 10 } else { 1 },
        };
        let stored = [stored::LOANS, stored::USERS]
            .map(|rest| Topic { name: self.named(rest), partitions: 10 });
        let stored = stored.into_iter().filter(|_| self.storage);
        Kind::ALL.map(topic).into_iter().chain(stored).collect()
    }

    fn topic(&self, kind: Kind) -> String {
        self.named(&format!("{}.{}", kind.producer(), kind.name()))
    }

    /// The topic with these last parts.
    fn named(&self, rest: &str) -> String {
        let whose = self.collection.as_ref().unwrap_or(&self.tenant);
        let env = if self.env.is_empty() { String::new() } else { format!("{}.", self.env) };
        format!("{env}{whose}.{rest}")
    }
}

/// Writes events down. What it has to make up (keys, envelope ids) comes from the seed.
#[derive(Debug)]
pub(crate) struct Scribe {
    tenant: Arc<str>,
    okapi_url: Arc<str>,
    token: Arc<str>,
    shape: Shape,
    topics: [Arc<str>; 8],
    loans: Arc<str>,
    users: Arc<str>,
    chance: ChaCha8Rng,
}

impl Scribe {
    pub(crate) fn new(wire: &Wire, chance: ChaCha8Rng) -> Self {
        let topics = Kind::ALL.map(|kind| wire.topic(kind).into());
        Self {
            tenant: wire.tenant.as_str().into(),
            okapi_url: "http://okapi:9130".into(),
            token: "made-up".into(),
            shape: wire.shape,
            topics,
            loans: wire.named(stored::LOANS).into(),
            users: wire.named(stored::USERS).into(),
            chance,
        }
    }

    /// The business event, if it is one.
    pub(crate) fn record(&mut self, event: &Event) -> Option<Record> {
        let kind = Kind::of(event)?;
        let timestamp_ms = event.at.timestamp_millis();
        let payload = match self.form(kind) {
            Form::Flat => payload::flat(&event.what),
            form => {
                let envelope = payload::Envelope {
                    id: self.id(),
                    r#type: if kind == Kind::CheckedOut { "CREATED" } else { "UPDATED" },
                    tenant: &self.tenant,
                    timestamp: timestamp_ms,
                };
                payload::enveloped(&event.what, envelope, form == Form::Wrapped)
            }
        };
        let key = match kind.is_circulation() {
            true => self.id().to_string(),
            false => kind.name().to_owned(),
        };
        let topic = Arc::clone(&self.topics[kind as usize]);
        Some(Record { topic, key, headers: self.headers(event.staff), timestamp_ms, payload })
    }

    fn form(&mut self, kind: Kind) -> Form {
        match self.shape {
            Shape::Real if kind.is_circulation() => Form::Enveloped,
            Shape::Real | Shape::Flat => Form::Flat,
            Shape::Enveloped => Form::Enveloped,
            Shape::Wrapped => Form::Wrapped,
            Shape::Mixed => match self.chance.random_range(0..3) {
                0 => Form::Flat,
                1 => Form::Enveloped,
                _ => Form::Wrapped,
            },
        }
    }

    /// What the producers' record builder writes, in the spelling of real senders.
    fn headers(&mut self, staff: Uuid) -> Vec<(&'static str, Arc<str>)> {
        let request = format!("{:06}/circulation", self.chance.random_range(0..1_000_000));
        vec![
            ("folio.tenantId", Arc::clone(&self.tenant)),
            ("x-okapi-tenant", Arc::clone(&self.tenant)),
            ("x-okapi-url", Arc::clone(&self.okapi_url)),
            ("x-okapi-token", Arc::clone(&self.token)),
            ("x-okapi-request-id", request.into()),
            ("x-okapi-user-id", staff.to_string().into()),
        ]
    }

    fn id(&mut self) -> Uuid {
        uuid::Builder::from_random_bytes(self.chance.random()).into_uuid()
    }
}

/// Chance for one purpose, independent of the chance for others from the same seed.
fn chance_for(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    chance.set_stream(purpose);
    chance
}
