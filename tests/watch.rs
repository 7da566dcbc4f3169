//! Looks at how far the group is, in the database and at the broker, for as long as a story lasts.

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

use crate::world::{World, positions, tenant_schema};

/// How long the group may take to come to what is durable: its owners commit each second.
const PATIENCE: Duration = Duration::from_secs(20);

type Offsets = HashMap<(String, i32), i64>;

/// While it lasts no position goes back, and the group is never further than what is durable. Nor does an
/// offset of the group go back in the classic protocol. Where brokers assign (KIP-848) they take a commit of
/// any member that is alive, so that one which had to be sent again may undo a later one; nothing is read again
/// for it, because where reading goes on is the position's to say. In either protocol the group comes to what
/// is durable in the end.
pub(crate) struct Watch {
    end: oneshot::Sender<()>,
    watching: JoinHandle<u32>,
}

impl Watch {
    pub(crate) fn begin(world: &World) -> Self {
        let (db, schema) = (world.db.clone(), tenant_schema());
        let (mut group, topics) = (world.log.group(), world.log.topics());
        let fenced = world.config.kafka.protocol == GroupProtocol::Classic;
        let (end, mut ended) = oneshot::channel();
        let watching = tokio::spawn(async move {
            let (mut committed, mut durable) = (Offsets::new(), Offsets::new());
            let mut looks = 0;
            // The last look is after the end, when the group has come to what is durable.
            let (mut over, mut last) = (None, false);
            let mut look = tokio::time::interval(Duration::from_millis(20));
            while !last {
                look.tick().await;
                if ended.try_recv() != Err(oneshot::error::TryRecvError::Empty) {
                    over.get_or_insert(Instant::now());
                }
                let now;
                (now, group) = of_group(group, topics.clone()).await;
                if fenced {
                    moved_on(&mut committed, now, "the group's offset");
                } else {
                    committed = now;
                }
                moved_on(&mut durable, positions(&db, &schema).await, "the position");
                for (at, offset) in &committed {
                    let durable = durable.get(at).copied().unwrap_or_default();
                    assert!(*offset <= durable, "{at:?}: {offset} is committed, {durable} durable");
                }
                let there = durable.iter().all(|(at, next)| committed.get(at) == Some(next));
                last = over.is_some() && there;
                let waited = over.map_or(Duration::ZERO, |over| over.elapsed());
                assert!(waited < PATIENCE, "{committed:?} is committed of {durable:?}");
                looks += 1;
            }
            looks
        });
        Self { end, watching }
    }

    /// Ends with a last look.
    pub(crate) async fn end(self) {
        let _ = self.end.send(());
        let looks =
            self.watching.await.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()));
        assert!(looks > 1, "nothing was watched");
    }
}

fn moved_on(known: &mut Offsets, now: Offsets, what: &str) {
    for (at, before) in known.iter() {
        let now = now.get(at).copied();
        assert!(now >= Some(*before), "{what} of {at:?} went back from {before} to {now:?}");
    }
    *known = now;
}

async fn of_group(group: BaseConsumer, topics: Vec<String>) -> (Offsets, BaseConsumer) {
    let ask = move || {
        let mut list = TopicPartitionList::new();
        topics.iter().for_each(|topic| {
            list.add_partition_range(topic, 0, 1);
        });
        let told = group.committed_offsets(list, Duration::from_secs(20)).expect("Kafka is there");
        let offset = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            let Offset::Offset(offset) = element.offset() else { return None };
            Some(((element.topic().to_owned(), element.partition()), offset))
        };
        (told.elements().iter().filter_map(offset).collect(), group)
    };
    tokio::task::spawn_blocking(ask).await.expect("no panic")
}
