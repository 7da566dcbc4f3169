//! The total order of events about one loan or fee/fine.

use std::fmt;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::{Fact, Kind, RecordPosition};

/// The rank of an event, without ties (docs/contract/events.md#64-clocks): milliseconds, kind, source, and
/// a tie-breaker among records of one source. A stamp depends only on the event, so a replay, a copy or
/// another order of arrival has the same result.
///
/// The order of the bytes is the order of the stamps. PostgreSQL compares `bytea` byte by byte, so the SQL
/// merge and this type always agree.
///
/// | bytes | content |
/// |---|---|
/// | 8 | epoch milliseconds, big endian, sign bit flipped |
/// | 1 | rank of the kind; 0 for a snapshot, which is below all business events |
/// | 1 | rank of the source: HTTP and snapshot 0, enveloped record 1, bare record 2 |
/// | 16 | snapshot: its subject; enveloped: its id; bare: offset (8), partition (4), digest of the topic
/// (4); HTTP: see [`Stamp::from_http`] |
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp([u8; Stamp::LEN]);

const SNAPSHOT: u8 = 0;
const SOURCE_HTTP: u8 = 0;
const SOURCE_ENVELOPE: u8 = 1;
const SOURCE_POSITION: u8 = 2;

impl Stamp {
    /// Size of a stamp in bytes.
    pub const LEN: usize = 26;

    /// Returns the stamp of a state at an instant; every event of the same millisecond has a greater stamp.
    /// `subject` is the patron, loan or fee/fine of the state.
    pub fn from_snapshot(at: DateTime<Utc>, subject: Uuid) -> Self {
        Self::new(at, SNAPSHOT, SNAPSHOT, subject.into_bytes())
    }

    /// Returns the stamp of a record with an envelope id; a copy at another offset has the same stamp.
    pub fn from_envelope(at: DateTime<Utc>, kind: Kind, id: Uuid) -> Self {
        Self::new(at, kind.rank(), SOURCE_ENVELOPE, id.into_bytes())
    }

    /// Returns the stamp of a record that only its position identifies.
    pub fn from_position(at: DateTime<Utc>, kind: Kind, position: &RecordPosition) -> Self {
        let mut tail = [0; 16];
        tail[..8].copy_from_slice(&sortable_bytes(position.offset));
        tail[8..12].copy_from_slice(&position.partition.to_be_bytes());
        tail[12..].copy_from_slice(&digest(position.topic.as_bytes())[..4]);
        Self::new(at, kind.rank(), SOURCE_POSITION, tail)
    }

    /// Returns the stamp of an HTTP call, which only its content identifies. The later due date wins, then
    /// recalled over not recalled, or the smaller balance; finally a digest of the body decides.
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

    /// Returns the time of the event.
    pub fn at(&self) -> DateTime<Utc> {
        instant_of(self.0.first_chunk().copied().unwrap_or_default())
    }

    /// Returns the bytes for storage.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the stamp with these bytes; `None` if the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }

    /// Returns whether the stamp is of a requested state; no log contains such a stamp.
    pub fn is_snapshot(&self) -> bool {
        self.0[8..10] == [SNAPSHOT, SNAPSHOT]
    }

    /// Returns whether the stamp is of an HTTP call.
    pub fn is_http(&self) -> bool {
        self.0[8] != SNAPSHOT && self.0[9] == SOURCE_HTTP
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// The instant of a complete snapshot (docs/contract/events.md#10-hazards): a record that was opened
/// earlier and is not in the snapshot is closed. Its bytes are the prefix of every stamp of its
/// millisecond, so `stamp >= horizon` has the same result in SQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Horizon([u8; 8]);

impl Horizon {
    /// Returns the horizon at an instant.
    pub fn at(instant: DateTime<Utc>) -> Self {
        Self(sortable_bytes(instant.timestamp_millis()))
    }

    /// After all times: admits no evidence.
    pub const NEVER: Self = Self([u8::MAX; 8]);

    /// Returns whether evidence with this stamp is new enough to count.
    pub fn admits(self, evidence: &Stamp) -> bool {
        evidence.0[..8] >= self.0[..]
    }

    /// Returns the instant of the horizon.
    pub fn instant(self) -> DateTime<Utc> {
        instant_of(self.0)
    }

    /// Returns the bytes for storage.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the horizon with these bytes; `None` if the length is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

fn digest(bytes: &[u8]) -> [u8; 16] {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, bytes).into_bytes()
}

/// Converts a balance to an integer, finer than any currency. The result is below 2^95, because balances
/// are below 10^15.
fn billionths(balance: Decimal) -> i128 {
    let mut rounded = balance.trunc_with_scale(9);
    rounded.rescale(9);
    rounded.mantissa()
}

/// Returns the instant whose milliseconds [`sortable_bytes`] encoded.
fn instant_of(bytes: [u8; 8]) -> DateTime<Utc> {
    let milliseconds = i64::from_be_bytes(bytes) ^ i64::MIN;
    DateTime::from_timestamp_millis(milliseconds).unwrap_or_default()
}

/// Returns big-endian bytes in the order of the numbers.
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
    fn stored_bytes_are_the_stamp_and_name_its_source() {
        let id = Uuid::from_u128(1);
        let fact = Fact::LoanClosed { loan: id, user: id };
        let http = Stamp::from_http(at(5), &fact, b"body");
        let enveloped = Stamp::from_envelope(at(5), Kind::LoanClosed, id);
        let snapshot = Stamp::from_snapshot(at(5), id);
        let bare = Stamp::from_position(at(5), Kind::LoanClosed, &position("t", 0, 0));
        for stamp in [http, enveloped, snapshot, bare] {
            assert_eq!(Stamp::from_bytes(stamp.as_bytes()), Some(stamp));
            assert_eq!(Stamp::from_bytes(&stamp.as_bytes()[1..]), None);
            assert_eq!(stamp.is_http(), stamp == http, "{stamp:?}");
            assert_eq!(stamp.is_snapshot(), stamp == snapshot, "{stamp:?}");
        }
        let horizon = Horizon::at(at(5));
        assert_eq!(Horizon::from_bytes(horizon.as_bytes()), Some(horizon));
        assert_eq!(horizon.instant(), at(5));
        assert_eq!(Horizon::from_bytes(&horizon.as_bytes()[1..]), None);
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
