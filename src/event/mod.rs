//! Events: what happened to a loan, a fee/fine or a patron.
//!
//! [`decode_record`] decodes a record of the log, [`decode::http_body::decode_body`] the body of an HTTP
//! call. docs/contract/events.md defines the rules.

pub mod decode;
mod fact;
mod grace;
pub mod kind;
mod record;
mod reject;
pub mod stamp;
pub mod tenant_id;
pub mod topic;

use chrono::{DateTime, Utc};
use uuid::Uuid;

pub use decode::{DecodeOutcome, decode_record, in_calendar, parse_uuid, uuids_in};
pub use fact::Fact;
pub use grace::{Grace, GraceUnit};
pub use kind::Kind;
pub use record::{Record, RecordPosition, TopicPartition, is_secret};
pub use reject::{Reason, Reject};
pub use stamp::Stamp;
pub use tenant_id::TenantId;
pub use topic::{Collection, Environment, Topic};

/// One decoded record with an identity, a time, a stamp and a fact.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Key in the inbox (docs/contract/events.md#5-identity).
    pub key: Uuid,
    /// Rule that produced [`Event::key`].
    pub identified_by: IdentifiedBy,
    /// Time of the event, for ordering (docs/contract/events.md#64-clocks).
    pub occurred_at: DateTime<Utc>,
    /// Rule that produced [`Event::occurred_at`].
    pub timed_by: TimedBy,
    /// Rank in the total order of all events about one loan or fee/fine.
    pub stamp: Stamp,
    /// Content of the event.
    pub fact: Fact,
}

/// The rule that produced the key of an event (docs/contract/events.md#5-identity).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentifiedBy {
    /// The id of the envelope.
    Envelope,
    /// The id of the envelope and the time, because the time is the record's. A copy of the envelope in
    /// another record may have another time, and the merge decides which time counts.
    EnvelopeAndTime,
    /// Cluster, topic, partition, offset and timestamp. The key identifies a redelivery; a producer's
    /// resend is a new event, and idempotent merging makes it harmless.
    Position,
    /// Content and time, because HTTP provides nothing else.
    Content,
}

impl IdentifiedBy {
    /// All rules.
    pub const ALL: [Self; 4] =
        [Self::Envelope, Self::EnvelopeAndTime, Self::Position, Self::Content];

    /// Returns the name stored with the event.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::EnvelopeAndTime => "envelope_and_time",
            Self::Position => "position",
            Self::Content => "content",
        }
    }

    /// Returns the rule with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// The rule that produced the time of an event (docs/contract/events.md#64-clocks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimedBy {
    /// The envelope's `timestamp`.
    Envelope,
    /// The Kafka record's timestamp.
    Record,
    /// The record's timestamp, because the envelope's timestamp was more than five minutes ahead.
    RecordAsEnvelopeIsAhead,
    /// The creation time in the metadata of an HTTP call.
    Metadata,
    /// The time of receipt of an HTTP call.
    Receipt,
}

impl TimedBy {
    /// All rules.
    pub const ALL: [Self; 5] = [
        Self::Envelope,
        Self::Record,
        Self::RecordAsEnvelopeIsAhead,
        Self::Metadata,
        Self::Receipt,
    ];

    /// Returns the name stored with the event.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Record => "record",
            Self::RecordAsEnvelopeIsAhead => "record_envelope_ahead",
            Self::Metadata => "metadata",
            Self::Receipt => "receipt",
        }
    }

    /// Returns the rule with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stored_names_are_those_of_the_rules() {
        for rule in IdentifiedBy::ALL {
            assert_eq!(IdentifiedBy::from_name(rule.name()), Some(rule));
        }
        for rule in TimedBy::ALL {
            assert_eq!(TimedBy::from_name(rule.name()), Some(rule));
        }
        assert_eq!(IdentifiedBy::from_name("other"), None);
        assert_eq!(TimedBy::from_name("other"), None);
    }
}
