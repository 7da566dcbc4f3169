//! What a record says: from the bytes of a producer to an [`Event`], by pure functions.
//!
//! [`decode::read`] is the way in from the log, [`callback::read`] from HTTP. The rules are those
//! of docs/contract/events.md.

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

/// Where a record stands in the log. Stable over redelivery, so it can identify a record that brings
/// no id of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordPosition {
    /// Full topic name.
    pub topic: Arc<str>,
    /// Partition number.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
}

/// A Kafka record as the broker handed it over; nothing of it is trusted yet. It has its text and bytes for
/// itself, or borrows them where it is only looked at.
#[derive(Debug, Clone)]
pub struct Record<Text = String, Bytes = Vec<u8>> {
    /// Where it stands.
    pub position: RecordPosition,
    /// The record's timestamp (`CreateTime`, milliseconds), where it has one.
    pub timestamp: Option<DateTime<Utc>>,
    /// The key, which says nothing that can be relied on (docs/contract/events.md#31-key); kept for
    /// dead letters.
    pub key: Option<Bytes>,
    /// Header names as sent, with their bytes.
    pub headers: Vec<(Text, Bytes)>,
    /// The value; `None` is a tombstone.
    pub payload: Option<Bytes>,
}

impl Record {
    /// What it takes in memory, nearly.
    pub fn size_bytes(&self) -> usize {
        let of_headers = self.headers.iter().map(|(name, value)| name.len() + value.len() + 64);
        let of_key = self.key.as_ref().map_or(0, Vec::len);
        let of_payload = self.payload.as_ref().map_or(0, Vec::len);
        of_headers.sum::<usize>() + of_key + of_payload
    }
}

/// Whether a header of this name carries a credential: it is never stored
/// (docs/contract/events.md#32-headers).
pub fn is_secret(header: &str) -> bool {
    ["x-okapi-token", "authorization"].iter().any(|secret| header.eq_ignore_ascii_case(secret))
}

/// One event that was understood.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// What the inbox knows it by (docs/contract/events.md#5-identity).
    pub key: Uuid,
    /// Which rule gave [`Event::key`].
    pub identified_by: IdentifiedBy,
    /// When it happened, for ordering (docs/contract/events.md#64-clocks).
    pub occurred_at: DateTime<Utc>,
    /// Which rule gave [`Event::occurred_at`].
    pub timed_by: TimedBy,
    /// Its place in the total order of all events about the same loan or fee/fine.
    pub stamp: Stamp,
    /// What it says.
    pub fact: Fact,
}

/// The rule by which an event got its identity (docs/contract/events.md#5-identity).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentifiedBy {
    /// The envelope's own id.
    Envelope,
    /// The envelope's id and the time, because the time is the record's: a copy of the envelope in
    /// another record may have another one, and which of them counts is for the merge to say.
    EnvelopeAndTime,
    /// Cluster, topic, partition, offset and timestamp: a redelivery is recognised, a producer's
    /// resend isn't (it changes nothing, because merging is idempotent).
    Position,
    /// What it says and its time, because HTTP brings nothing else.
    Content,
}

impl IdentifiedBy {
    /// All rules.
    pub const ALL: [Self; 4] =
        [Self::Envelope, Self::EnvelopeAndTime, Self::Position, Self::Content];

    /// As stored beside the event.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::EnvelopeAndTime => "envelope_and_time",
            Self::Position => "position",
            Self::Content => "content",
        }
    }

    /// The rule with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// The rule by which an event got its time (docs/contract/events.md#64-clocks).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TimedBy {
    /// The envelope's `timestamp`.
    Envelope,
    /// The Kafka record's timestamp.
    Record,
    /// The record's timestamp, because the envelope's was more than five minutes ahead of it.
    RecordAsEnvelopeIsAhead,
    /// The time that an HTTP caller says it was made.
    Metadata,
    /// The time at which an HTTP request came.
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

    /// As stored beside the event.
    pub fn name(self) -> &'static str {
        match self {
            Self::Envelope => "envelope",
            Self::Record => "record",
            Self::RecordAsEnvelopeIsAhead => "record_envelope_ahead",
            Self::Metadata => "metadata",
            Self::Receipt => "receipt",
        }
    }

    /// The rule with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|rule| rule.name() == name)
    }
}

/// What an event says about a loan, a fee/fine or a patron, in the terms of
/// docs/contract/events.md#7-events and docs/contract/events.md#8-storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fact {
    /// `ITEM_CHECKED_OUT`: a new loan.
    CheckedOut {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// Due date at check-out.
        due_date: DateTime<Utc>,
        /// The loan policy's grace period; none where it is missing or makes no sense
        /// (docs/contract/events.md#71-item_checked_out).
        grace: Option<Grace>,
    },
    /// `ITEM_CHECKED_IN`: the loan has ended.
    CheckedIn {
        /// The loan.
        loan: Uuid,
        /// The borrower, where named.
        user: Option<Uuid>,
    },
    /// `LOAN_CLOSED`: the loan has ended without a check-in.
    LoanClosed {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
    },
    /// `ITEM_DECLARED_LOST` or `ITEM_AGED_TO_LOST`: both mean the same for a patron.
    Lost {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// Whether a background job found it, rather than a person.
        by_age: bool,
    },
    /// `ITEM_CLAIMED_RETURNED`: the patron says the item came back.
    ClaimedReturned {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
    },
    /// `LOAN_DUE_DATE_CHANGED`: the due date after a renewal, a recall, an edit, or no change at all.
    DueDateChanged {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// The due date from now on.
        due_date: DateTime<Utc>,
        /// The loan's recall flag after the change.
        by_recall: bool,
    },
    /// `FEE_FINE_BALANCE_CHANGED`: the new absolute balance; zero closes the fee/fine.
    BalanceChanged {
        /// The fee/fine (account).
        fee_fine: Uuid,
        /// The patron who owes it; absent when the account was deleted.
        user: Option<Uuid>,
        /// The fee/fine type.
        fee_fine_type: Option<Uuid>,
        /// The loan it belongs to, as of this event: absent means none.
        loan: Option<Uuid>,
        /// What is still to be paid, without trailing zeros.
        balance: Decimal,
    },
    /// `circulation.loan`: an open loan as its storage holds it.
    LoanSnapshot {
        /// The loan.
        loan: Uuid,
        /// The borrower.
        user: Uuid,
        /// The due date.
        due_date: DateTime<Utc>,
        /// Whether a recall set it.
        by_recall: bool,
        /// Whether the item is lost; unknown where its status can't be read.
        lost: Option<bool>,
        /// Whether the patron claims to have returned it; unknown where its status can't be read.
        claimed_returned: Option<bool>,
    },
    /// `circulation.loan`: a loan that is not open, or was deleted. It may have no user any more.
    LoanSnapshotClosed {
        /// The loan.
        loan: Uuid,
    },
    /// `circulation.loan`, `ALL_DELETED`: storage holds no loan of the tenant.
    AllLoansDeleted,
    /// `users.users`: the patron group of a user, who may have none, or be there no more.
    PatronGroupChanged {
        /// The patron.
        user: Uuid,
        /// The group's id, as text: it is only compared.
        group: Option<String>,
    },
}

impl Fact {
    /// The kind of event that says this.
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

    /// The loan, fee/fine or patron that it is about; `None` where it is about all loans of the tenant.
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

    /// The patron that it names, if any.
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
