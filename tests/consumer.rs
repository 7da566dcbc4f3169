//! A consumer of what others are told, as `docs/learning-of-blocks.md` shows it.

use std::{collections::HashMap, time::Duration};

use rdkafka::{Message, consumer::BaseConsumer};
use serde_json::Value;

/// Who is blocked from what, by tenant and patron: a topic may be of several tenants.
#[derive(Default)]
pub(crate) struct Blocks(HashMap<(String, String), (i64, Value)>);

impl Blocks {
    /// Takes note of a message, unless as much or more is known of the patron: then it is late, or a repeat.
    pub(crate) fn hear(&mut self, patron: &str, message: &Value) {
        let sequence = message["sequence"].as_i64().expect("each message has a number");
        let blocks = match message.get("jobId") {
            None => message["data"].get("new").unwrap_or(&Value::Null),
            Some(_) => match message.get("automatedPatronBlocks") {
                Some(blocks) => blocks,
                None => return,
            },
        };
        let tenant = message["tenant"].as_str().expect("each message has a tenant");
        let of = (tenant.to_owned(), patron.to_owned());
        let known = self.0.entry(of).or_insert((-1, Value::Null));
        if known.0 < sequence {
            *known = (sequence, blocks.clone());
        }
    }

    /// What is known of a patron: null where nothing is blocked.
    pub(crate) fn of(&self, tenant: &str, patron: &str) -> &Value {
        let of = (tenant.to_owned(), patron.to_owned());
        self.0.get(&of).map_or(&Value::Null, |(_, blocks)| blocks)
    }
}

/// Hears what comes, until it is enough.
pub(crate) fn follow(consumer: &BaseConsumer, mut is_enough: impl FnMut(&str, &Value) -> bool) {
    loop {
        let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
        let patron = message.key().map(String::from_utf8_lossy).expect("the key is the patron");
        let payload = message.payload().expect("each message has a value");
        if is_enough(&patron, &serde_json::from_slice(payload).expect("it is JSON")) {
            return;
        }
    }
}
