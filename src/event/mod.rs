//! Decodes the bytes of a producer into an [`Event`], with pure functions.
//!
//! [`decode_record`] decodes a record of the log, [`http_body::decode_body`] the body of an HTTP call.
//! docs/contract/events.md defines the rules.

pub mod decode;
mod entity_change;
mod envelope;
mod fields;
pub mod http_body;
pub mod inbox_row;
pub mod kind;
pub mod stamp;
pub mod storage_record;
pub mod summary;
pub mod tenant_id;
pub mod topic;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

pub use decode::{DecodeOutcome, Reason, Reject, decode_record};
pub use fields::{in_calendar, parse_uuid};
pub use kind::Kind;
pub use stamp::Stamp;
pub use tenant_id::TenantId;
pub use topic::{Collection, Environment, Topic};

use crate::patron::Grace;

/// The topic, partition and offset of a record. A redelivery does not change it, so it identifies a record
/// without an id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPosition {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

/// A Kafka record before validation. Text and bytes are owned, or borrowed for inspection only.
#[derive(Debug, Clone)]
pub struct Record<Text = String, Bytes = Vec<u8>> {
    /// Topic, partition and offset.
    pub position: RecordPosition,
    /// The record's timestamp (`CreateTime`, milliseconds), if it has one.
    pub timestamp: Option<DateTime<Utc>>,
    /// The key; decoding ignores it (docs/contract/events.md#31-key), and dead letters store it.
    pub key: Option<Bytes>,
    /// Headers: the name in the sender's spelling, and the value.
    pub headers: Vec<(Text, Bytes)>,
    /// The value; `None` is a tombstone.
    pub payload: Option<Bytes>,
}

impl Record {
    /// Returns the approximate size in memory, in bytes.
    pub fn size_bytes(&self) -> usize {
        let of_headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 64);
        let of_key = self.key.as_ref().map_or(0, Vec::len);
        let of_payload = self.payload.as_ref().map_or(0, Vec::len);
        of_headers.sum::<usize>() + of_key + of_payload
    }
}

/// Returns whether a header of this name contains a credential; such a header is never stored
/// (docs/contract/events.md#32-headers).
pub fn is_secret(header: &str) -> bool {
    ["x-okapi-token", "authorization"].iter().any(|secret| header.eq_ignore_ascii_case(secret))
}

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

/// The content of an event about a loan, a fee/fine or a patron, in the terms of
/// docs/contract/events.md#7-events and docs/contract/events.md#8-storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// `ITEM_CHECKED_OUT`: a new loan.
    CheckedOut {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// The due date at check-out.
        due_date: DateTime<Utc>,
        /// The grace period of the loan policy; `None` if it is missing or invalid
        /// (docs/contract/events.md#71-item_checked_out).
        grace: Option<Grace>,
    },
    /// `ITEM_CHECKED_IN`: the loan is closed.
    CheckedIn {
        /// The loan.
        loan: Uuid,
        /// The borrower, if the event names one.
        user: Option<Uuid>,
    },
    /// `LOAN_CLOSED`: the loan is closed without a check-in.
    LoanClosed {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
    },
    /// `ITEM_DECLARED_LOST` or `ITEM_AGED_TO_LOST`; they have the same effect on a patron.
    Lost {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// `true` if a background job found the loss, `false` if a person declared it.
        by_age: bool,
    },
    /// `ITEM_CLAIMED_RETURNED`: the patron claims to have returned the item.
    ClaimedReturned {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
    },
    /// `LOAN_DUE_DATE_CHANGED`: the due date after a renewal, a recall or an edit; it may be unchanged.
    DueDateChanged {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// The new due date.
        due_date: DateTime<Utc>,
        /// The loan's recall flag after the change.
        by_recall: bool,
    },
    /// `FEE_FINE_BALANCE_CHANGED`: the new absolute balance; zero closes the fee/fine.
    BalanceChanged {
        /// The fee/fine (account).
        fee_fine: Uuid,
        /// The patron who owes the fee/fine; `None` if the account was deleted.
        user: Option<Uuid>,
        /// The fee/fine type.
        fee_fine_type: Option<Uuid>,
        /// The loan of the fee/fine as of this event; `None` means no loan.
        loan: Option<Uuid>,
        /// The remaining amount, without trailing zeros.
        balance: Decimal,
    },
    /// `circulation.loan`: an open loan as loan storage contains it.
    LoanSnapshot {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// The due date.
        due_date: DateTime<Utc>,
        /// Whether a recall set the due date.
        by_recall: bool,
        /// Whether the item is lost; `None` if the item status is invalid.
        lost: Option<bool>,
        /// Whether the patron claims to have returned the item; `None` if the item status is invalid.
        claimed_returned: Option<bool>,
    },
    /// `circulation.loan`: a closed or deleted loan, possibly without a user.
    LoanSnapshotClosed {
        /// The loan.
        loan: Uuid,
    },
    /// `circulation.loan`, `ALL_DELETED`: loan storage contains no loan of the tenant.
    AllLoansDeleted,
    /// `users.users`: the patron group of a user; `None` for a user without a group or a deleted user.
    PatronGroupChanged {
        /// The patron.
        user: Uuid,
        /// The group's id as text; the service only compares it.
        group: Option<String>,
    },
}

impl Fact {
    /// Returns the kind of event with this fact.
    pub fn kind(&self) -> Kind {
        match self {
            Self::CheckedOut { .. } => Kind::ItemCheckedOut,
            Self::CheckedIn { .. } => Kind::ItemCheckedIn,
            Self::LoanClosed { .. } => Kind::LoanClosed,
            Self::Lost { by_age: false, .. } => Kind::ItemDeclaredLost,
            Self::Lost { by_age: true, .. } => Kind::ItemAgedToLost,
            Self::ClaimedReturned { .. } => Kind::ItemClaimedReturned,
            Self::DueDateChanged { .. } => Kind::LoanDueDateChanged,
            Self::BalanceChanged { .. } => Kind::FeeFineBalanceChanged,
            Self::LoanSnapshot { .. } | Self::LoanSnapshotClosed { .. } | Self::AllLoansDeleted => {
                Kind::StoredLoan
            }
            Self::PatronGroupChanged { .. } => Kind::StoredUser,
        }
    }

    /// Returns the loan, fee/fine or patron of the fact; `None` if the fact concerns all loans of the
    /// tenant.
    pub fn subject(&self) -> Option<Uuid> {
        Some(match self {
            Self::CheckedOut { loan, .. }
            | Self::CheckedIn { loan, .. }
            | Self::LoanClosed { loan, .. }
            | Self::Lost { loan, .. }
            | Self::ClaimedReturned { loan, .. }
            | Self::DueDateChanged { loan, .. }
            | Self::LoanSnapshot { loan, .. }
            | Self::LoanSnapshotClosed { loan } => *loan,
            Self::BalanceChanged { fee_fine, .. } => *fee_fine,
            Self::PatronGroupChanged { user, .. } => *user,
            Self::AllLoansDeleted => return None,
        })
    }

    /// Returns the patron that the fact names, if any.
    pub fn user(&self) -> Option<Uuid> {
        match self {
            Self::CheckedOut { user, .. }
            | Self::LoanClosed { user, .. }
            | Self::Lost { user, .. }
            | Self::ClaimedReturned { user, .. }
            | Self::DueDateChanged { user, .. }
            | Self::LoanSnapshot { user, .. }
            | Self::PatronGroupChanged { user, .. } => Some(*user),
            Self::CheckedIn { user, .. } | Self::BalanceChanged { user, .. } => *user,
            Self::LoanSnapshotClosed { .. } | Self::AllLoansDeleted => None,
        }
    }
}
