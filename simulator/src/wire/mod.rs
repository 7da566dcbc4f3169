//! How FOLIO's modules write events to Kafka: topics, keys, headers and values.

mod faults;
mod outbox;
mod payload;
mod play;
mod storage_events;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use clap::ValueEnum;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use uuid::Uuid;

pub use faults::Faults;
pub use play::{Play, SharedTruth, Step};

use crate::model::{Event, Fact, StatusChange};
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
    fn from_event(event: &Event) -> Option<Self> {
        Some(match &event.fact {
            Fact::CheckedOut { .. } => Self::CheckedOut,
            Fact::CheckedIn { .. } => Self::CheckedIn,
            Fact::DueDateChanged { .. } => Self::DueDateChanged,
            Fact::BalanceChanged { .. } => Self::BalanceChanged,
            Fact::StatusChanged { change: mark, .. } => match mark {
                StatusChange::DeclaredLost => Self::DeclaredLost,
                StatusChange::AgedToLost => Self::AgedToLost,
                StatusChange::ClaimedReturned => Self::ClaimedReturned,
                StatusChange::LoanClosed => Self::LoanClosed,
                StatusChange::DeclaredMissing => return None,
            },
            Fact::LoanCreatedInStorage { .. }
            | Fact::LoanDeleted { .. }
            | Fact::PatronGroupChanged { .. } => return None,
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
    pub fn block_events_topic(&self) -> String {
        self.topic_name("patron-blocks.automated-block")
    }

    /// The eight topics, and those of storage where it tells.
    pub fn topics(&self) -> Vec<Topic> {
        let topic = |kind: Kind| Topic {
            name: self.topic(kind),
            partitions: if kind.is_circulation() { 10 } else { 1 },
        };
        let stored = [storage_events::LOANS, storage_events::USERS]
            .map(|rest| Topic { name: self.topic_name(rest), partitions: 10 });
        let stored = stored.into_iter().filter(|_| self.storage);
        Kind::ALL.map(topic).into_iter().chain(stored).collect()
    }

    fn topic(&self, kind: Kind) -> String {
        self.topic_name(&format!("{}.{}", kind.producer(), kind.name()))
    }

    /// The topic with these last parts.
    fn topic_name(&self, rest: &str) -> String {
        let tenant = self.collection.as_ref().unwrap_or(&self.tenant);
        let env = if self.env.is_empty() { String::new() } else { format!("{}.", self.env) };
        format!("{env}{tenant}.{rest}")
    }
}

/// Writes events down. What it has to make up (keys, envelope ids) comes from the seed.
#[derive(Debug)]
pub(crate) struct RecordWriter {
    tenant: Arc<str>,
    okapi_url: Arc<str>,
    token: Arc<str>,
    shape: Shape,
    topics: [Arc<str>; 8],
    loans: Arc<str>,
    users: Arc<str>,
    rng: ChaCha8Rng,
}

impl RecordWriter {
    pub(crate) fn new(wire: &Wire, rng: ChaCha8Rng) -> Self {
        let topics = Kind::ALL.map(|kind| wire.topic(kind).into());
        Self {
            tenant: wire.tenant.as_str().into(),
            okapi_url: "http://okapi:9130".into(),
            token: "made-up".into(),
            shape: wire.shape,
            topics,
            loans: wire.topic_name(storage_events::LOANS).into(),
            users: wire.topic_name(storage_events::USERS).into(),
            rng,
        }
    }

    /// The business event, if it is one.
    pub(crate) fn record(&mut self, event: &Event) -> Option<Record> {
        let kind = Kind::from_event(event)?;
        let timestamp_ms = event.at.timestamp_millis();
        let payload = match self.form(kind) {
            Form::Flat => payload::flat(&event.fact),
            form => {
                let envelope = payload::Envelope {
                    id: self.id(),
                    r#type: if kind == Kind::CheckedOut { "CREATED" } else { "UPDATED" },
                    tenant: &self.tenant,
                    timestamp: timestamp_ms,
                };
                payload::enveloped(&event.fact, envelope, form == Form::Wrapped)
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
            Shape::Mixed => match self.rng.random_range(0..3) {
                0 => Form::Flat,
                1 => Form::Enveloped,
                _ => Form::Wrapped,
            },
        }
    }

    /// What the producers' record builder writes, in the spelling of real senders.
    fn headers(&mut self, staff: Uuid) -> Vec<(&'static str, Arc<str>)> {
        let request = format!("{:06}/circulation", self.rng.random_range(0..1_000_000));
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
        uuid::Builder::from_random_bytes(self.rng.random()).into_uuid()
    }
}

/// Chance for one purpose, independent of the chance for others from the same seed.
fn rng_for(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(purpose);
    rng
}
