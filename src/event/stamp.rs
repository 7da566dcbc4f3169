//! The total order in which facts about one loan or fee/fine count.

use std::fmt;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::{Fact, Kind, RecordPosition};

/// When something was said, with every tie decided (docs/contract/events.md#64-clocks):
/// milliseconds, then the kind, then the source, then what tells two records of one source apart.
/// It is made only of what belongs to the event itself, so a replay, a copy or another order of
/// arrival decides the same.
///
/// The bytes are laid out so that comparing them one by one is the comparison of stamps. PostgreSQL
/// compares `bytea` just so, and therefore the SQL merge and this type can't disagree.
///
/// | bytes | what |
/// |---|---|
/// | 8 | epoch milliseconds, big endian, sign bit flipped |
/// | 1 | rank of the kind; a snapshot, which comes before all business events, has 0 |
/// | 1 | rank of the source: HTTP and snapshot 0, enveloped record 1, bare record 2 |
/// | 16 | snapshot: what it is of; enveloped: its id; bare: offset (8), partition (4), digest of the topic (4); HTTP: see [`Stamp::called`] |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp([u8; Stamp::LEN]);

const SNAPSHOT: u8 = 0;
const SOURCE_HTTP: u8 = 0;
const SOURCE_ENVELOPE: u8 = 1;
const SOURCE_POSITION: u8 = 2;

impl Stamp {
    /// Bytes in a stamp.
    pub const LEN: usize = 26;

    /// The stamp of what somebody held to be so at an instant, rather than of something that happened:
    /// every event of that millisecond outranks it. `of` is whose state it is, or what it is about.
    pub fn from_snapshot(at: DateTime<Utc>, subject: Uuid) -> Self {
        Self::new(at, SNAPSHOT, SNAPSHOT, subject.into_bytes())
    }

    /// The stamp of a record whose envelope brought an id: a copy at another offset is the same.
    pub fn from_envelope(at: DateTime<Utc>, kind: Kind, id: Uuid) -> Self {
        Self::new(at, kind.rank(), SOURCE_ENVELOPE, id.into_bytes())
    }

    /// The stamp of a record that has no identity but its place in the log.
    pub fn from_position(at: DateTime<Utc>, kind: Kind, position: &RecordPosition) -> Self {
        let mut tail = [0; 16];
        tail[..8].copy_from_slice(&sortable_bytes(position.offset));
        tail[8..12].copy_from_slice(&position.partition.to_be_bytes());
        tail[12..].copy_from_slice(&digest(position.topic.as_bytes())[..4]);
        Self::new(at, kind.rank(), SOURCE_POSITION, tail)
    }

    /// The stamp of what HTTP brought, which has nothing but its value to be told apart by: the later due
    /// date wins, recalled over not recalled, the smaller balance; at last a digest of the whole body.
    pub fn from_http(at: DateTime<Utc>, fact: &Fact, body: &[u8]) -> Self {
        let mut tail = [0; 16];
        tail[9..].copy_from_slice(&digest(body)[..7]);
        match fact {
            Fact::CheckedOut { due_date, .. } => {
                tail[..8].copy_from_slice(&sortable_bytes(due_date.timestamp_millis()));
            }
            Fact::DueDateChanged { due_date, by_recall, .. } => {
                tail[..8].copy_from_slice(&sortable_bytes(due_date.timestamp_millis()));
                tail[8] = u8::from(*by_recall);
            }
            Fact::BalanceChanged { balance, .. } => {
                let smaller_first = (1_i128 << 95) - billionths(*balance);
                tail[..12].copy_from_slice(&smaller_first.to_be_bytes()[4..]);
            }
            _ => {}
        }
        Self::new(at, fact.kind().rank(), SOURCE_HTTP, tail)
    }

    fn new(at: DateTime<Utc>, kind: u8, source: u8, tail: [u8; 16]) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes[..8].copy_from_slice(&sortable_bytes(at.timestamp_millis()));
        bytes[8] = kind;
        bytes[9] = source;
        bytes[10..].copy_from_slice(&tail);
        Self(bytes)
    }

    /// When it was said.
    pub fn at(&self) -> DateTime<Utc> {
        let millis = self.0.first_chunk().copied().unwrap_or_default();
        let milliseconds = i64::from_be_bytes(millis) ^ i64::MIN;
        DateTime::from_timestamp_millis(milliseconds).unwrap_or_default()
    }

    /// The bytes, as stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The stamp of which these are the bytes; `None` where they are too few or too many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Whether it is of a state that was asked for, rather than of a record: no log has it.
    pub fn is_snapshot(&self) -> bool {
        self.0[8..10] == [SNAPSHOT, SNAPSHOT]
    }

    /// Whether it is of what came over HTTP.
    pub fn is_http(&self) -> bool {
        self.0[8] != SNAPSHOT && self.0[9] == SOURCE_HTTP
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The instant up to which a complete snapshot speaks (docs/contract/events.md#10-hazards): what
/// was opened before it and isn't in the snapshot is closed. As bytes it is the prefix of every
/// stamp of its millisecond, so `stamp >= horizon` reads the same in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Horizon([u8; 8]);

impl Horizon {
    /// A horizon at an instant.
    pub fn at(instant: DateTime<Utc>) -> Self {
        Self(sortable_bytes(instant.timestamp_millis()))
    }

    /// After all times: it admits nothing.
    pub const NEVER: Self = Self([u8::MAX; 8]);

    /// Whether evidence with this stamp is new enough to count.
    pub fn admits(self, evidence: &Stamp) -> bool {
        evidence.0[..8] >= self.0[..]
    }

    /// The bytes, as stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The horizon of which these are the bytes; `None` where they are too few or too many.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, bytes).into_bytes()
}

/// A balance as a whole number, finer than any currency divides; less than 2^95 in size, since balances
/// stay below 10^15.
fn billionths(balance: Decimal) -> i128 {
    let mut rounded = balance.trunc_with_scale(9);
    rounded.rescale(9);
    rounded.mantissa()
}

/// Big-endian bytes that compare as the number does.
fn sortable_bytes(number: i64) -> [u8; 8] {
    (number ^ i64::MIN).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: i64) -> DateTime<Utc> {
        DateTime::from_timestamp_millis(ms).unwrap()
    }

    fn position(topic: &str, partition: i32, offset: i64) -> RecordPosition {
        RecordPosition { topic: topic.into(), partition, offset }
    }

    #[test]
    fn ties_in_a_millisecond_follow_the_kind_order() {
        let position = position("t", 0, 0);
        let stamps = Kind::BUSINESS.map(|kind| Stamp::from_position(at(5), kind, &position));
        assert!(stamps.is_sorted_by(|one, next| one < next));
        for kind in [Kind::StoredLoan, Kind::StoredUser] {
            let newest =
                Stamp::from_position(at(5), kind, &self::position("t", i32::MAX, i64::MAX));
            assert!(newest < Stamp::from_envelope(at(5), Kind::ItemCheckedOut, Uuid::nil()));
        }
    }

    #[test]
    fn snapshot_precedes_every_event_of_its_millisecond() {
        let of = Uuid::from_u128(u128::MAX);
        let snapshot = Stamp::from_snapshot(at(5), of);
        assert_eq!(snapshot.as_bytes()[..8], *Horizon::at(at(5)).as_bytes());
        assert_eq!(snapshot.as_bytes()[8..], [&[0, 0], &of.as_bytes()[..]].concat());
        for kind in Kind::ALL {
            assert!(snapshot < Stamp::from_envelope(at(5), kind, Uuid::nil()));
            assert!(
                Stamp::from_position(at(4), kind, &position("t", i32::MAX, i64::MAX)) < snapshot
            );
        }
    }

    #[test]
    fn bare_record_outranks_enveloped_one_in_a_tie() {
        let id = Uuid::from_u128(u128::MAX);
        assert!(
            Stamp::from_envelope(at(5), Kind::LoanClosed, id)
                < Stamp::from_position(at(5), Kind::LoanClosed, &position("t", 0, 0))
        );
    }

    #[test]
    fn enveloped_records_are_ordered_by_id() {
        let enveloped = |id| Stamp::from_envelope(at(5), Kind::LoanClosed, Uuid::from_u128(id));
        assert!(enveloped(1) < enveloped(2));
        assert!(enveloped(2) < enveloped(1 << 127));
        assert_eq!(enveloped(7), enveloped(7));
    }

    #[test]
    fn bare_records_are_ordered_by_offset_then_partition() {
        let bare = |topic, partition, offset| {
            Stamp::from_position(at(5), Kind::LoanClosed, &position(topic, partition, offset))
        };
        assert!(bare("a", 9, 1) < bare("a", 0, 2));
        assert!(bare("a", 0, 2) < bare("a", 1, 2));
        assert_ne!(bare("a", 0, 2), bare("b", 0, 2));
    }

    #[test]
    fn http_events_are_ordered_by_value_below_other_sources() {
        let id = Uuid::from_u128(1);
        let due = |ms, by_recall| {
            let fact = Fact::DueDateChanged { loan: id, user: id, due_date: at(ms), by_recall };
            Stamp::from_http(at(5), &fact, b"body")
        };
        assert!(due(1, true) < due(2, false));
        assert!(due(2, false) < due(2, true));
        assert!(due(2, true) < Stamp::from_envelope(at(5), Kind::LoanDueDateChanged, Uuid::nil()));
        let out = |ms| {
            let fact = Fact::CheckedOut { loan: id, user: id, due_date: at(ms), grace: None };
            Stamp::from_http(at(5), &fact, b"body")
        };
        assert!(out(-1) < out(2));
        let owes = |balance: &str| {
            let balance = balance.parse().unwrap();
            let (user, fee_fine_type, loan) = (None, None, None);
            let fact = Fact::BalanceChanged { fee_fine: id, user, fee_fine_type, loan, balance };
            Stamp::from_http(at(5), &fact, b"body")
        };
        for pair in
            ["-999999999999999.5", "-1", "0", "0.01", "0.010001", "999999999999999.99"].windows(2)
        {
            assert!(owes(pair[0]) > owes(pair[1]), "{pair:?}");
        }
        let other =
            Stamp::from_http(at(5), &Fact::LoanClosed { loan: id, user: id }, b"other body");
        assert_ne!(
            other,
            Stamp::from_http(at(5), &Fact::LoanClosed { loan: id, user: id }, b"body")
        );
    }

    proptest! {
        #[test]
        fn earlier_millisecond_has_the_smaller_stamp(
            a in -62_135_596_800_000_i64..253_402_300_799_999,
            b in -62_135_596_800_000_i64..253_402_300_799_999,
            kinds in (0..Kind::ALL.len(), 0..Kind::ALL.len()),
        ) {
            let stamp = |ms, kind: usize| Stamp::from_position(at(ms), Kind::ALL[kind], &position("t", 0, 0));
            prop_assume!(a != b);
            prop_assert_eq!(a < b, stamp(a, kinds.0) < stamp(b, kinds.1));
            prop_assert_eq!(Horizon::at(at(a)).admits(&stamp(b, kinds.1)), a <= b);
            prop_assert_eq!(stamp(a, kinds.0).at(), at(a));
        }
    }
}
