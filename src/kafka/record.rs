//! From a message of the client to a record of ours.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use chrono::{DateTime, Datelike, Utc};
use rdkafka::{
    Message,
    message::{BorrowedMessage, Headers},
};

use crate::event::{Place, Record};

/// Beyond the calendar's years no database could keep it, nor could it be true.
pub(super) fn time_of(message: &BorrowedMessage<'_>) -> Option<DateTime<Utc>> {
    let at = message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis);
    at.filter(|at| (1..=9999).contains(&at.year()))
}

pub(super) fn copy(
    message: &BorrowedMessage<'_>,
    topic: Arc<str>,
    timestamp: Option<DateTime<Utc>>,
) -> Record {
    Record {
        place: Place { topic, partition: message.partition(), offset: message.offset() },
        timestamp,
        key: message.key().map(<[u8]>::to_vec),
        headers: headers(message).map(|(name, value)| (name.to_owned(), value.to_vec())).collect(),
        payload: message.payload().map(<[u8]>::to_vec),
    }
}

/// The record's headers. One whose name is not UTF-8 is none that anybody reads, and the client's library
/// panics at it: whoever writes such a record must not stop those who read.
pub(super) fn headers<'a>(
    message: &'a BorrowedMessage<'_>,
) -> impl Iterator<Item = (&'a str, &'a [u8])> {
    message.headers().into_iter().flat_map(|headers| {
        let read = |n| catch_unwind(AssertUnwindSafe(|| headers.try_get(n))).ok().flatten();
        let read = (0..headers.count()).filter_map(read);
        read.map(|header| (header.key, header.value.unwrap_or_default()))
    })
}
