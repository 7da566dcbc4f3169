//! A consumer of block events, as `docs/block-events.md` shows it.

use std::{collections::HashMap, time::Duration};

use rdkafka::{Message, consumer::BaseConsumer};
use serde_json::Value;

/// By tenant and patron: the sequence of the latest message and its blocks, null without blocks.
pub(crate) type Blocks = HashMap<(String, String), (i64, Value)>;

pub(crate) fn apply_message(known: &mut Blocks, patron: &str, message: &Value) {
    let (tenant, sequence) = (message["tenant"].as_str(), message["sequence"].as_i64());
    let blocks = match message.get("jobId") {
        None => Some(message["data"].get("new").unwrap_or(&Value::Null)),
        Some(_) => message.get("automatedPatronBlocks"), // absent: the patron group is unknown
    };
    let (Some(tenant), Some(sequence), Some(blocks)) = (tenant, sequence, blocks) else { return };
    let latest = known.entry((tenant.to_owned(), patron.to_owned())).or_default();
    if latest.0 < sequence {
        *latest = (sequence, blocks.clone()); // otherwise late or repeated
    }
}

pub(crate) fn poll_until(consumer: &BaseConsumer, mut is_enough: impl FnMut(&str, &Value) -> bool) {
    loop {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let patron = String::from_utf8_lossy(message.key().unwrap_or_default());
        let message = serde_json::from_slice(message.payload().unwrap_or_default());
        if message.is_ok_and(|message| is_enough(&patron, &message)) {
            return;
        }
    }
}
