//! Conversion of messages of the Kafka client into [`Record`]s.

use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use chrono::{DateTime, Datelike, Utc};
use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};

use crate::event::{Environment, Record, RecordPosition, Topic, decode, is_secret};

/// Bytes for headers that decoding does not use. A dead letter shows these headers to identify the
/// sender; real headers have a few hundred bytes. Headers beyond the limit are dropped.
const UNUSED_HEADER_BYTES_MAX: usize = 4096;

/// Returns the message's timestamp, or `None` outside the years 1 to 9999. The database could not
/// store it, and no real record has it.
pub(super) fn timestamp_of(message: &BorrowedMessage<'_>) -> Option<DateTime<Utc>> {
    let timestamp = message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis);
    timestamp.filter(|timestamp| (1..=9999).contains(&timestamp.year()))
}

pub(super) fn to_record(
    message: &BorrowedMessage<'_>,
    topic: Arc<str>,
    timestamp: Option<DateTime<Utc>>,
) -> Record {
    Record {
        position: RecordPosition {
            topic,
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp,
        key: message.key().map(<[u8]>::to_vec),
        headers: retained(headers(message)),
        payload: message.payload().map(<[u8]>::to_vec),
    }
}

/// Returns the headers that decoding uses, and other headers without credentials as far as they fit.
fn retained<'a>(headers: impl Iterator<Item = (&'a str, &'a [u8])>) -> Vec<(String, Vec<u8>)> {
    let mut room = UNUSED_HEADER_BYTES_MAX;
    let selected = headers.filter(|(name, value)| {
        if decode::is_tenant_header(name) {
            return true;
        }
        let size = name.len() + value.len();
        let fits = size <= room && !is_secret(name);
        room -= if fits { size } else { 0 };
        fits
    });
    selected.map(|(name, value)| (name.to_owned(), value.to_vec())).collect()
}

/// Returns the headers of a message, without headers that have a name in another encoding than UTF-8.
/// The client library panics at such names, and one bad record must not stop the reader.
pub(super) fn headers<'a>(
    message: &'a BorrowedMessage<'_>,
) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    message.headers().into_iter().flat_map(|headers| {
        let read = |n| catch_unwind(AssertUnwindSafe(|| headers.try_get(n))).ok().flatten();
        let read = (0..headers.count()).filter_map(read);
        read.map(|header| (header.key, header.value.unwrap_or_default()))
    })
}

/// Returns the parsed topic of a name, parsed once and cached.
pub(super) fn cached_topic(
    topics: &mut HashMap<Arc<str>, Arc<Topic>>,
    environment: &Environment,
    name: &str,
) -> Option<(Arc<str>, Arc<Topic>)> {
    if let Some((name, topic)) = topics.get_key_value(name) {
        return Some((name.clone(), topic.clone()));
    }
    let (name, topic) = (Arc::<str>::from(name), Arc::new(environment.parse(name)?));
    topics.insert(name.clone(), topic.clone());
    Some((name, topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn required_and_small_headers_are_retained() {
        let large = vec![b'x'; UNUSED_HEADER_BYTES_MAX];
        let headers: [(&str, &[u8]); 7] = [
            ("trace", &large),
            ("x-okapi-request-id", b"0815"),
            ("X-Okapi-Token", b"a.secret.token"),
            ("Authorization", b"Bearer secret"),
            ("Folio.TenantId", &large),
            ("X-OKAPI-TENANT", b"northlib"),
            ("x-okapi-user-id", b""),
        ];
        let retained = retained(headers.into_iter());
        let names: Vec<&str> = retained.iter().map(|(name, _)| name.as_str()).collect();
        let expected =
            ["x-okapi-request-id", "Folio.TenantId", "X-OKAPI-TENANT", "x-okapi-user-id"];
        assert_eq!(names, expected);
        assert_eq!(retained[1].1, large, "an invalid tenant id is decoded unchanged");
    }
}
