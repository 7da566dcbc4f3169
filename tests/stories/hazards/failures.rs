//! H8 to H12: concurrent events, a crash inside a transaction, a database outage, and the offsets.

use std::time::Duration;

use futures_util::future::join_all;
use patron_blocks::{event::Kind, store};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use super::{assert_nothing_open, balances, draft, open_entries, strict_group};
use crate::support::{
    payloads::{balance_change, check_out, in_envelope, loan_event, minutes_from_now, now},
    world::{TENANT, World},
};

const OUT: Kind = Kind::ItemCheckedOut;
const FEE: Kind = Kind::FeeFineBalanceChanged;
const INBOX: &str = "select count(*) from {schema}.inbox";

/// Publishes all payloads at once, each in one of the two shapes.
async fn publish_all(world: &World, payloads: Vec<(Kind, serde_json::Value)>) {
    let publish = payloads.into_iter().enumerate().map(async |(n, (kind, payload))| {
        let payload = if n % 2 == 0 { payload } else { in_envelope(&payload, now()) };
        world.publish(kind, &payload).await;
    });
    join_all(publish).await;
}

/// Locks the counters, so a writer's transaction stops after its claims.
async fn lock_counters(world: &World) -> store::Tx {
    let mut tx = store::begin(&world.db).await.unwrap();
    let sql = format!("lock table {}.patron_counter in exclusive mode", world.schema.name());
    (*tx).execute(AssertSqlSafe(sql)).await.unwrap();
    tx
}

async fn until_writer_waits(world: &World) {
    let waiting = "select count(*) from pg_locks
                    where not granted and relation = '{schema}.patron_counter'::regclass";
    world
        .until("a writer waits inside its transaction", async |w: &World| {
            w.count(waiting).await > 0
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h08_concurrent_first_events_of_new_patrons_all_count() {
    World::run(async |world| {
        let tomorrow = minutes_from_now(1440);
        let patrons: Vec<[Uuid; 4]> = (0..40).map(|_| [(); 4].map(|()| Uuid::new_v4())).collect();
        let events = patrons.iter().flat_map(|[user, one, other, owed]| {
            [
                (OUT, check_out(*user, *one, &tomorrow)),
                (OUT, check_out(*user, *other, &tomorrow)),
                (FEE, balance_change(*user, *owed, None, 2.5)),
                (Kind::ItemDeclaredLost, loan_event(*user, *one)),
                (Kind::ItemClaimedReturned, loan_event(*user, *other)),
            ]
        });
        publish_all(world, events.collect()).await;
        world.until_committed().await;
        for [user, one, ..] in patrons {
            let loans = open_entries(world, user, "openLoans").await;
            let lost = loans.iter().filter(|loan| loan["itemLost"] == json!(true));
            let lost: Vec<_> = lost.map(|loan| loan["loanId"].clone()).collect();
            assert_eq!((loans.len(), lost), (2, vec![json!(one)]));
            assert_eq!(balances(world, user).await, ["2.5"]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h09_last_loan_ends_during_other_events_of_patron() {
    World::run(async |world| {
        let group = strict_group(world).await;
        let tomorrow = minutes_from_now(1440);
        let patrons: Vec<[Uuid; 3]> = (0..40)
            .map(|_| [world.users.add_patron(group), Uuid::new_v4(), Uuid::new_v4()])
            .collect();
        let first = patrons.iter().map(|[user, old, _]| (OUT, check_out(*user, *old, &tomorrow)));
        publish_all(world, first.collect()).await;
        world.until_committed().await;
        // A quarter of the patrons borrow again, a quarter get a fee/fine, and half only return.
        let events = patrons.iter().enumerate().flat_map(|(n, [user, old, new])| {
            let next = match n % 4 {
                0 => Some((OUT, check_out(*user, *new, &tomorrow))),
                1 => Some((FEE, balance_change(*user, *new, None, 2.5))),
                _ => None,
            };
            let end = if n % 8 < 4 { Kind::ItemCheckedIn } else { Kind::LoanClosed };
            [Some((end, loan_event(*user, *old))), next]
        });
        publish_all(world, events.flatten().collect()).await;
        world.until_committed().await;
        for (n, [user, _, new]) in patrons.into_iter().enumerate() {
            match n % 4 {
                0 => assert_eq!(
                    open_entries(world, user, "openLoans").await[0]["loanId"],
                    json!(new)
                ),
                1 => assert_eq!(balances(world, user).await, ["2.5"]),
                _ => assert_nothing_open(world, user, "the last event closes the item").await,
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h10_crash_between_inbox_and_loans_leaves_neither() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let lock = lock_counters(world).await;
        let tomorrow = minutes_from_now(1440);
        let events = (0..50).map(|_| (OUT, check_out(user, Uuid::new_v4(), &tomorrow)));
        publish_all(world, events.collect()).await;
        until_writer_waits(world).await;
        world.proxy.disconnect();
        lock.rollback().await.unwrap();
        let busy = "select count(*) from pg_locks
                     where relation = '{schema}.inbox'::regclass and mode = 'RowExclusiveLock'";
        world
            .until("the transaction of the instance has ended", async |w: &World| {
                w.count(busy).await == 0
            })
            .await;
        let stored = "select (select count(*) from {schema}.inbox)
                           + (select count(*) from {schema}.loan)
                           + (select count(*) from {schema}.patron_counter)";
        assert_eq!(world.count(stored).await, 0);
        world.proxy.restore();
        world.until_committed().await;
        assert_eq!(open_entries(world, user, "openLoans").await.len(), 50);
        assert_eq!(world.count(INBOX).await, 50);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn h11_no_record_is_lost_while_database_is_unavailable() {
    World::run(async |world| {
        let (user, tomorrow) = (Uuid::new_v4(), minutes_from_now(1440));
        let mut loans = Vec::new();
        for round in 0..3 {
            world.proxy.disconnect();
            let loan = Uuid::new_v4();
            world.log.publish(OUT, b"poison").await;
            publish_all(
                world,
                vec![
                    (Kind::ItemAgedToLost, loan_event(user, loan)),
                    (OUT, check_out(user, loan, &tomorrow)),
                    (FEE, balance_change(user, Uuid::new_v4(), Some(loan), 1.5)),
                ],
            )
            .await;
            loans.push(loan);
            assert_eq!(world.count(INBOX).await, 3 * round, "no event is stored");
            world.proxy.restore();
            world.until_committed().await;
            let open_loans = open_entries(world, user, "openLoans").await;
            assert!(
                open_loans.iter().all(|loan| loan["itemLost"] == json!(true)),
                "{open_loans:?}"
            );
            assert_eq!(open_loans.len(), loans.len());
            assert_eq!(balances(world, user).await.len(), loans.len());
        }
        assert_eq!(world.take_dead_letters().await, ["malformed_json"; 3]);
    })
    .await;
}

/// The group's committed offsets, read by a client outside the group.
struct GroupOffsets(BaseConsumer);

impl GroupOffsets {
    fn of(world: &World) -> Self {
        let kafka = &world.config.kafka;
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", kafka.bootstrap_servers());
        client.set("group.id", kafka.environment().consumer_group());
        Self(client.create().unwrap())
    }

    /// Returns the committed offset per partition, zero without one.
    fn committed(&self, topic: &str) -> Vec<(i32, i64)> {
        let mut wanted = TopicPartitionList::new();
        wanted.add_partition_range(topic, 0, 1);
        let offsets = tokio::task::block_in_place(|| {
            self.0.committed_offsets(wanted, Duration::from_secs(20)).unwrap()
        });
        let next = |offset| if let Offset::Offset(next) = offset { next } else { 0 };
        offsets.elements().iter().map(|of| (of.partition(), next(of.offset()))).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn h12_committed_offset_covers_only_stored_records() {
    World::run(async |world| {
        let (user, tomorrow) = (Uuid::new_v4(), minutes_from_now(1440));
        let (group, topic) = (GroupOffsets::of(world), world.log.topic(TENANT, OUT));
        // The inbox must contain every offset below a committed one. The offset is read before the
        // inbox.
        let assert_stored_below = async |world: &World| {
            let mut least = i64::MAX;
            for (partition, next) in group.committed(&topic) {
                let below = format!(
                    "select count(*) from {{schema}}.inbox
                      where topic = '{topic}' and partition = {partition} and \"offset\" < {next}"
                );
                assert_eq!(world.count(&below).await, next, "below the offset of {partition}");
                least = least.min(next);
            }
            least
        };
        let publish = async |world: &World| {
            let check_out = || check_out(user, Uuid::new_v4(), &tomorrow).to_string();
            let texts: Vec<String> = (0..60).map(|_| check_out()).collect();
            let send = texts.iter().zip((0..2).cycle()).map(|(text, partition)| {
                world.log.send_to_partition(partition, draft(world, OUT, text))
            });
            join_all(send).await;
        };
        let before = world.count(INBOX).await;
        tokio::join!(publish(world), async {
            let is_started = async |w: &World| w.count(INBOX).await > before;
            world.until("some records are stored", is_started).await;
            world.proxy.disconnect();
        });
        assert_stored_below(world).await;
        world.proxy.restore();
        world
            .until("all events are committed", async |w: &World| assert_stored_below(w).await == 30)
            .await;

        // The lock prevents further writes. The instance leaves the group and commits the offsets that
        // it may commit.
        let lock = lock_counters(world).await;
        publish(world).await;
        until_writer_waits(world).await;
        world.stop().await;
        assert_eq!(assert_stored_below(world).await, 30);
        lock.rollback().await.unwrap();
        world.start().await;
        world
            .until("all events are committed", async |w: &World| assert_stored_below(w).await == 60)
            .await;
        assert_eq!(open_entries(world, user, "openLoans").await.len(), 120);
    })
    .await;
}
