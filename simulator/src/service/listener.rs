//! The listener: consumes the service's block events and compares them with the service's answers about
//! every patron.

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

/// The time that the broker may take for one response.
const BROKER_TIMEOUT: Duration = Duration::from_secs(20);

/// The last block event of one patron.
#[derive(Debug, Default, Clone)]
struct PublishedBlocks {
    sequence: i64,
    data: Value,
    blocks: Vec<Block>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct BlockEvent {
    id: Uuid,
    r#type: String,
    sequence: i64,
    data: Value,
}

/// The consumed block events, and the problems in them.
#[derive(Debug, Default)]
pub struct Listener {
    by_patron: HashMap<Uuid, PublishedBlocks>,
    ids: HashSet<Uuid>,
    next_offsets: HashMap<i32, i64>,
    /// The number of messages, with duplicates.
    pub messages: u64,
    /// The number of duplicates.
    pub duplicates: u64,
    /// The errors in the block events: in their order, or in the previous blocks.
    pub problems: Vec<String>,
}

impl fmt::Display for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let patrons = self.by_patron.len();
        let (messages, duplicates, problems) =
            (self.messages, self.duplicates, self.problems.len());
        write!(
            f,
            "{messages} messages about {patrons} patrons, {duplicates} duplicates, {problems} problems"
        )
    }
}

impl Listener {
    /// Consumes every message of the topic that the listener has not consumed yet.
    pub fn consume(&mut self, bootstrap: &str, topic: &str) -> anyhow::Result<()> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", bootstrap).set("group.id", "listener");
        let consumer: BaseConsumer = config.create().context("no consumer")?;
        let metadata = consumer.fetch_metadata(Some(topic), BROKER_TIMEOUT).context("no topic")?;
        let mut partitions = TopicPartitionList::new();
        let mut end_offsets = HashMap::new();
        for partition in metadata.topics().iter().flat_map(|topic| topic.partitions()) {
            let number = partition.id();
            let (start, end) = consumer.fetch_watermarks(topic, number, BROKER_TIMEOUT)?;
            let next = self.next_offsets.get(&number).copied().unwrap_or(start);
            if next < end {
                partitions.add_partition_offset(topic, number, Offset::Offset(next))?;
                end_offsets.insert(number, end);
            }
        }
        consumer.assign(&partitions)?;
        while !end_offsets.is_empty() {
            let Some(message) = consumer.poll(BROKER_TIMEOUT) else {
                anyhow::bail!("the broker sends no further records of {topic}");
            };
            let Ok(message) = message else { continue };
            let (partition, next) = (message.partition(), message.offset() + 1);
            self.next_offsets.insert(partition, next);
            end_offsets.retain(|number, end| *number != partition || next < *end);
            let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
            self.apply(&key, message.payload().unwrap_or_default())?;
        }
        Ok(())
    }

    fn apply(&mut self, key: &str, payload: &[u8]) -> anyhow::Result<()> {
        let event: BlockEvent =
            serde_json::from_slice(payload).context("a message cannot be read")?;
        let patron: Uuid = key.parse().context("a key is not the id of a patron")?;
        self.messages += 1;
        if !self.ids.insert(event.id) {
            self.duplicates += 1;
            return Ok(());
        }
        let previous = self.by_patron.get(&patron).cloned().unwrap_or_default();
        let BlockEvent { id, r#type, sequence, data } = event;
        let old = data.get("old").cloned().unwrap_or_default();
        let new = data.get("new").cloned().unwrap_or_default();
        if sequence <= previous.sequence {
            self.problems
                .push(format!("{patron}: {id} has a sequence below {}", previous.sequence));
            return Ok(());
        }
        if old != previous.data {
            self.problems.push(format!("{patron}: `old` of {id} differs from the previous `new`"));
        }
        let expected = match (old.is_null(), new.is_null()) {
            (true, false) => "CREATED",
            (false, false) => "UPDATED",
            _ => "DELETED",
        };
        ensure!(expected == r#type, "{id} has type {type}, expected {expected}");
        let blocks = blocks(&new).with_context(|| format!("{id} has no valid blocks"))?;
        if !new.is_null() && blocks == previous.blocks {
            self.problems.push(format!("{patron}: {id} changes no block"));
        }
        self.by_patron.insert(patron, PublishedBlocks { sequence, data: new, blocks });
        Ok(())
    }

    /// Returns the `patrons` with different blocks in the service's answer and in the block events.
    pub async fn differing_patrons(
        &self,
        judge: &Judge,
        patrons: &BTreeSet<Uuid>,
    ) -> anyhow::Result<Vec<Uuid>> {
        let conditions = judge.rules().await?.conditions;
        let messages: HashMap<Uuid, String> =
            conditions.into_iter().map(|condition| (condition.id, condition.message)).collect();
        let mut differing = vec![];
        for patron in patrons {
            let published = self
                .by_patron
                .get(patron)
                .map(|published| &published.blocks[..])
                .unwrap_or_default();
            if publishable(judge.blocks(*patron).await?, &messages) != published {
                differing.push(*patron);
            }
        }
        Ok(differing)
    }
}

/// Removes what changes without a block event from the blocks of an answer: the limit and the numbers. The
/// message becomes the message of the condition with its placeholders.
fn publishable(mut blocks: Vec<Block>, messages: &HashMap<Uuid, String>) -> Vec<Block> {
    for block in &mut blocks {
        block.id = Uuid::nil();
        if let Some(message) = messages.get(&block.patron_block_condition_id) {
            block.message.clone_from(message);
        }
    }
    blocks
}

/// Returns the blocks of a block event in the form of [`publishable`].
fn blocks(data: &Value) -> anyhow::Result<Vec<Block>> {
    let all = data.get("blocks").and_then(Value::as_array).cloned().unwrap_or_default();
    let members = [
        "id",
        "patronBlockConditionId",
        "blockBorrowing",
        "blockRenewals",
        "blockRequests",
        "message",
    ];
    let block = |mut block: Value| {
        if let Some(all) = block.as_object_mut() {
            all.insert("id".to_owned(), Uuid::nil().to_string().into());
            all.retain(|name, _| members.contains(&name.as_str()));
        }
        serde_json::from_value(block).context("a block cannot be read")
    };
    all.into_iter().map(block).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A patron moves to a group with another limit of the same condition.
    #[test]
    fn another_limit_of_the_same_condition_is_no_difference() {
        let condition = Uuid::from_u128(1);
        let block = |id: u128| {
            json!({
                "patronBlockLimitId": Uuid::from_u128(id), "patronBlockConditionId": condition,
                "blockBorrowing": true, "blockRenewals": false, "blockRequests": true,
                "message": "Pay {toSettle}", "limit": 30.0, "measured": 30.77,
            })
        };
        let answer = Block {
            id: Uuid::from_u128(3),
            patron_block_condition_id: condition,
            block_borrowing: true,
            block_renewals: false,
            block_requests: true,
            message: "Pay 20.27".to_owned(),
        };
        let messages = HashMap::from([(condition, "Pay {toSettle}".to_owned())]);
        let published = blocks(&json!({ "blocks": [block(2)] })).unwrap();
        assert_eq!(publishable(vec![answer.clone()], &messages), published);
        let other = Block { block_requests: false, ..answer };
        assert_ne!(publishable(vec![other], &messages), published);
    }
}
