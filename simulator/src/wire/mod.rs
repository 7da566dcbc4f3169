//! Writes events as FOLIO's modules write them to Kafka: topics, keys, headers and values.

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

/// One record as a producer sends it to Kafka.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The topic.
    pub topic: Arc<str>,
    /// The key; it identifies neither the loan nor the patron.
    pub key: String,
    /// The headers in the order of writing.
    pub headers: Vec<(&'static str, Arc<str>)>,
    /// The time of the record (CreateTime), in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// The value: JSON text.
    pub payload: Vec<u8>,
}

/// The JSON shape of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Shape {
    /// The shapes of the real producers: circulation in envelopes, fees/fines flat.
    #[default]
    Real,
    /// Every value flat.
    Flat,
    /// Every value in an envelope.
    Enveloped,
    /// Every value in an envelope; a plain Jackson mapper has wrapped the data of the envelope once more.
    Wrapped,
    /// A random shape per record.
    Mixed,
}

/// The names of a tenant's topics and the shape of its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// The first part of the topic names; if it is empty, topic names start with the next part.
    pub env: String,
    /// The tenant.
    pub tenant: String,
    /// The tenant collection; if tenants share topics, its name replaces the tenant in the topic names.
    pub collection: Option<String>,
    /// The shape of the values.
    pub shape: Shape,
    /// Whether loan storage and the users module also publish their changes. If so, the play edits loans
    /// and groups that no business event covers.
    pub storage: bool,
    /// Whether loan storage publishes all events of circulation through an outbox.
    pub outbox: bool,
}

/// The kinds of business events, each with its own topic.
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

    /// Returns the kind of an event, or `None` for an event that only storage publishes.
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

    /// Returns the producer of the events, the middle part of the topic name.
    const fn producer(self) -> &'static str {
        if self.is_circulation() { "circulation" } else { "feesfines" }
    }
}

/// A topic as its producer creates it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// The full name.
    pub name: String,
    /// The number of partitions that the producer requests.
    pub partitions: i32,
}

impl Wire {
    /// Returns the wire of a tenant with its own topics and the shapes of the real producers.
    pub fn new(env: &str, tenant: &str) -> Self {
        let (env, tenant) = (env.to_owned(), tenant.to_owned());
        Self { env, tenant, collection: None, shape: Shape::Real, storage: false, outbox: false }
    }

    /// Returns the topic of the service's block events.
    pub fn block_events_topic(&self) -> String {
        self.topic_name("patron-blocks.automated-block")
    }

    /// Returns the eight topics of business events, and the storage topics if storage publishes.
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

    /// Returns the topic name that ends with `rest`.
    fn topic_name(&self, rest: &str) -> String {
        let tenant = self.collection.as_ref().unwrap_or(&self.tenant);
        let env = if self.env.is_empty() { String::new() } else { format!("{}.", self.env) };
        format!("{env}{tenant}.{rest}")
    }
}

/// A writer of events as records. The seed determines keys and envelope ids.
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

    /// Returns the record of a business event.
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

    /// Returns the headers of the producers' record builder, in the spelling of real senders.
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

/// Returns a generator for one purpose; generators for other purposes with the same seed are independent.
fn rng_for(seed: u64, purpose: u64) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    rng.set_stream(purpose);
    rng
}
