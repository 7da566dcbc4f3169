//! The listener: knows of blocks only what the service has told by Kafka, and compares that with what the service
//! answers about every patron.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, Message, Offset, TopicPartitionList};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use super::Judge;
use crate::blocks::Block;

/// How long the broker may take for one answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was told of one patron.
#[derive(Debug, Default, Clone)]
struct Told {
    sequence: i64,
    data: Value,
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Letter {
    id: Uuid,
    r#type: String,
    sequence: i64,
    data: Value,
}

/// What a listener has heard.
#[derive(Debug, Default)]
pub struct Listener {
    told: HashMap<Uuid, Told>,
    ids: HashSet<Uuid>,
    next: HashMap<i32, i64>,
    /// Messages, those that came again among them.
    pub messages: u64,
    /// Messages that came again.
    pub repeats: u64,
    /// What is wrong with what was told: order, and what was before.
    pub problems: Vec<String>,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patrons = self.told.len();
        let (messages, repeats, problems) = (self.messages, self.repeats, self.problems.len());
        write!(
            f,
            "{messages} messages about {patrons} patrons, {repeats} came again, {problems} problems"
        )
    }
}

impl Listener {
    /// Hears everything that stands in a topic beyond what it has heard.
    pub fn listen(&mut self, bootstrap: &str, topic: &str) -> anyhow::Result<()> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("group.id", "listener");
        let consumer: BaseConsumer = config.create().context("no consumer")?;
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).context("no topic")?;
        let mut parts = TopicPartitionList::new();
        let mut left = HashMap::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let number = partition.id();
            let (start, end) = consumer.fetch_watermarks(topic, number, PATIENCE)?;
            let next = self.next.get(&number).copied().unwrap_or(start);
            if next < end {
                parts.add_partition_offset(topic, number, Offset::Offset(next))?;
                left.insert(number, end);
            }
        }
        consumer.assign(&parts)?;
        while !left.is_empty() {
            let Some(message) = consumer.poll(PATIENCE) else {
                anyhow::bail!("the broker says nothing more of {topic}");
            };
            let Ok(message) = message else { continue };
            let (partition, next) = (message.partition(), message.offset() + 1);
            self.next.insert(partition, next);
            left.retain(|number, end| *number != partition || next < *end);
            let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
            self.hear(&key, message.payload().unwrap_or_default())?;
        }
        Ok(())
    }

    fn hear(&mut self, key: &str, payload: &[u8]) -> anyhow::Result<()> {
        let letter: Letter = serde_json::from_slice(payload).context("a message can't be read")?;
        let patron: Uuid = key.parse().context("a key is no id of a patron")?;
        self.messages += 1;
        if !self.ids.insert(letter.id) {
            self.repeats += 1;
            return Ok(());
        }
        let before = self.told.get(&patron).cloned().unwrap_or_default();
        let Letter { id, r#type, sequence, data } = letter;
        let old = data.get("old").cloned().unwrap_or_default();
        let new = data.get("new").cloned().unwrap_or_default();
        if sequence <= before.sequence {
            self.problems.push(format!("{patron}: {id} comes after {}", before.sequence));
            return Ok(());
        }
        if old != before.data {
            self.problems.push(format!("{patron}: {id} says that something else was told before"));
        }
        let expected = match (old.is_null(), new.is_null()) {
            (true, false) => "CREATED",
            (false, false) => "UPDATED",
            _ => "DELETED",
        };
        ensure!(expected == r#type, "{id} is {type} and should be {expected}");
        let blocks = blocks(&new).with_context(|| format!("{id} tells no blocks"))?;
        if !new.is_null() && blocks == before.blocks {
            self.problems.push(format!("{patron}: {id} says nothing new"));
        }
        self.told.insert(patron, Told { sequence, data: new, blocks });
        Ok(())
    }

    /// The patrons, among all of them, of whom the service answers something else.
    pub async fn differing(
        &self,
        judge: &Judge,
        patrons: &BTreeSet<Uuid>,
    ) -> anyhow::Result<Vec<Uuid>> {
        let mut differing = vec![];
        for patron in patrons {
            let told = self.told.get(patron).map(|told| &told.blocks[..]).unwrap_or_default();
            if judge.blocks(*patron).await? != told {
                differing.push(*patron);
            }
        }
        Ok(differing)
    }
}

/// As the desk is answered.
fn blocks(told: &Value) -> anyhow::Result<Vec<Block>> {
    let all = told.get("blocks").and_then(Value::as_array).cloned().unwrap_or_default();
    let members =
        ["patronBlockConditionId", "blockBorrowing", "blockRenewals", "blockRequests", "message"];
    let block = |mut block: Value| {
        if let Some(all) = block.as_object_mut() {
            all.retain(|name, _| members.contains(&name.as_str()));
        }
        serde_json::from_value(block).context("a block can't be read")
    };
    all.into_iter().map(block).collect()
}
