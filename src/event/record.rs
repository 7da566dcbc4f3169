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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_counts_key_headers_and_value() {
        let record = |key: Option<&str>, headers: &[(&str, &str)], payload: Option<&str>| Record {
            position: RecordPosition { topic: "t".into(), partition: 0, offset: 0 },
            timestamp: None,
            key: key.map(|key| key.as_bytes().to_vec()),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), value.as_bytes().to_vec()))
                .collect(),
            payload: payload.map(|payload| payload.as_bytes().to_vec()),
        };
        assert_eq!(record(None, &[], None).size_bytes(), 0);
        assert_eq!(record(Some("key"), &[], None).size_bytes(), 3);
        assert_eq!(record(None, &[], Some("value")).size_bytes(), 5);
        // Each header costs its vectors, too: a record of many empty headers is not free.
        let headers = [("name", "v"), ("", "")];
        assert_eq!(record(None, &headers, None).size_bytes(), 4 + 1 + 2 * 64);
        assert_eq!(record(Some("key"), &headers, Some("value")).size_bytes(), 3 + 133 + 5);
    }

    #[test]
    fn credentials_are_secret_in_any_case() {
        for name in ["x-okapi-token", "X-Okapi-Token", "Authorization"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["x-okapi-tenant", "x-okapi-token-2", ""] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
