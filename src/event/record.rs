//! Records of Kafka before they are decoded.

use std::sync::Arc;

use chrono::{DateTime, Utc};

/// The name of a topic and the number of a partition.
pub type TopicPartition = (Arc<str>, i32);

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
