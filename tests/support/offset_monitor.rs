//! Checks the group's offsets and the positions, at the broker and in the database, during a story.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use patron_blocks::config::GroupProtocol;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
};
use tokio::{sync::oneshot, task::JoinHandle};

use crate::support::world::{World, positions, tenant_schema};

/// The longest time until the group's offsets reach the positions. The owners commit each second.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(20);

type Offsets = HashMap<(String, i32), i64>;

/// A running check: no position goes back, and no group offset exceeds its position. In the classic
/// protocol, no group offset goes back either.
///
/// With KIP-848, brokers accept a commit of any live member, so a repeated commit may undo a later one.
/// This causes no repeated read, because reading starts at the position. In either protocol, the group's
/// offsets reach the positions in the end.
pub(crate) struct OffsetMonitor {
    stop: oneshot::Sender<()>,
    task: JoinHandle<u32>,
}

impl OffsetMonitor {
    pub(crate) fn start(world: &World) -> Self {
        let (db, schema) = (world.db.clone(), tenant_schema());
        let (mut group, topics) = (world.log.group_client(), world.log.topics());
        let fenced = world.config.kafka.group_protocol == GroupProtocol::Classic;
        let (end, mut ended) = oneshot::channel();
        let task = tokio::spawn(async move {
            let (mut committed, mut durable) = (Offsets::new(), Offsets::new());
            let mut polls = 0;
            // The last check runs after the end, when the group's offsets have reached the positions.
            let (mut over, mut last) = (None, false);
            let mut interval = tokio::time::interval(Duration::from_millis(20));
            while !last {
                interval.tick().await;
                if ended.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
                    over.get_or_insert(Instant::now());
                }
                let now;
                (now, group) = committed_offsets(group, topics.clone()).await;
                if fenced {
                    assert_monotonic(&mut committed, now, "the group's offset");
                } else {
                    committed = now;
                }
                assert_monotonic(&mut durable, positions(&db, &schema).await, "the position");
                for (at, offset) in &committed {
                    let durable = durable.get(at).copied().unwrap_or_default();
                    assert!(*offset <= durable, "{at:?}: {offset} is committed, {durable} durable");
                }
                let there = durable.iter().all(|(at, next)| committed.get(at) == Some(next));
                last = over.is_some() && there;
                let waited = over.map_or(Duration::ZERO, |over| over.elapsed());
                assert!(
                    waited < CATCH_UP_TIMEOUT,
                    "{committed:?} is committed, {durable:?} is durable"
                );
                polls += 1;
            }
            polls
        });
        Self { stop: end, task }
    }

    /// Ends the check, after a last comparison.
    pub(crate) async fn finish(self) {
        let _ = self.stop.send(());
        let polls = self.task.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        assert!(polls > 1, "the monitor has polled");
    }
}

fn assert_monotonic(known: &mut Offsets, now: Offsets, what: &str) {
    for (at, before) in known.iter() {
        let now = now.get(at).copied();
        assert!(now >= Some(*before), "{what} of {at:?} decreased from {before} to {now:?}");
    }
    *known = now;
}

async fn committed_offsets(group: BaseConsumer, topics: Vec<String>) -> (Offsets, BaseConsumer) {
    let ask = move || {
        let mut list = TopicPartitionList::new();
        topics.iter().for_each(|topic| {
            list.add_partition_range(topic, 0, 1);
        });
        let committed =
            group.committed_offsets(list, Duration::from_secs(20)).expect("Kafka responds");
        let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            let Offset::Offset(offset) = element.offset() else { return None };
            Some(((element.topic().to_owned(), element.partition()), offset))
        };
        (committed.elements().iter().filter_map(offset).collect(), group)
    };
    tokio::task::spawn_blocking(ask).await.expect("no panic")
}
