//! A consumer of what others are told, as `docs/learning-of-blocks.md` shows it.

use std::{collections::HashMap, time::Duration};

use rdkafka::{Message, consumer::BaseConsumer};
use serde_json::Value;

/// By tenant and patron: the number of the latest word, and the blocks, which are null where there are none.
pub(crate) type Blocks = HashMap<(String, String), (i64, Value)>;

pub(crate) fn apply_message(known: &mut Blocks, patron: &str, message: &Value) {
    let (tenant, sequence) = (message["tenant"].as_str(), message["sequence"].as_i64());
    let blocks = match message.get("jobId") {
        None => Some(message["data"].get("new").unwrap_or(&Value::Null)),
        Some(_) => message.get("automatedPatronBlocks"), // not there: nobody knows the patron group yet
    };
    let (Some(tenant), Some(sequence), Some(blocks)) = (tenant, sequence, blocks) else { return };
    let latest = known.entry((tenant.to_owned(), patron.to_owned())).or_default();
    if latest.0 < sequence {
        *latest = (sequence, blocks.clone()); // else it comes late, or again
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
