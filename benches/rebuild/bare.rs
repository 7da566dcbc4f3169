//! The floor of reading: a consumer that only decodes the records.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::DateTime;
use patron_blocks::event::{self, DecodeOutcome, Environment, Record, RecordPosition};
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::{BorrowedMessage, Headers},
};

use crate::{
    fixture::print_line,
    jobs::Job,
    library::{Month, bootstrap},
};

/// Reads all topics of the month, and prints the rate with the rate of a dry run.
pub(crate) fn report(month: &Month, dry: &Job) {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", bootstrap())
        .set("group.id", "none")
        .set("enable.auto.commit", "false")
        .create()
        .expect("a consumer");
    let (mut all, mut wanted) = (TopicPartitionList::new(), 0);
    for (topic, partitions) in month.topics() {
        for partition in 0..partitions {
            all.add_partition_offset(&topic, partition, Offset::Beginning).expect("an offset");
            let wait = Duration::from_secs(10);
            let (start, end) =
                client.fetch_watermarks(&topic, partition, wait).expect("the watermarks");
            wanted += end - start;
        }
    }
    client.assign(&all).expect("the broker accepts the partitions");
    let environment = Environment::new(Some(&month.environment));
    let (began, mut read, mut understood) = (Instant::now(), 0, 0);
    while read < wanted {
        let Some(Ok(message)) = client.poll(Duration::from_secs(10)) else { continue };
        let topic = environment.parse(message.topic()).expect("a kind of event");
        let record = record(&message);
        understood += i64::from(matches!(
            event::decode_record(&record, &topic, "c"),
            DecodeOutcome::Event(..)
        ));
        read += 1;
    }
    assert_eq!(understood, wanted);
    let bare = wanted as f64 / began.elapsed().as_secs_f64();
    let (replay, whole) = (dry.records as f64 / dry.replay, dry.records as f64 / dry.reading);
    print_line(&format!(
        "  {wanted} records: bare consumer with decoding {bare:.0}/s; replay of the dry run {replay:.0}/s, \
         ratio {:.2}; the whole read {whole:.0}/s, ratio {:.2}",
        replay / bare,
        whole / bare
    ));
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
    let topic = Arc::from(message.topic());
    Record {
        position: RecordPosition {
            topic,
            partition: message.partition(),
            offset: message.offset(),
        },
        timestamp: message.timestamp().to_millis().and_then(DateTime::from_timestamp_millis),
        key: message.key().map(<[u8]>::to_vec),
        headers: headers
            .map(|h| (h.key.to_owned(), h.value.unwrap_or_default().to_vec()))
            .collect(),
        payload: message.payload().map(<[u8]>::to_vec),
    }
}
