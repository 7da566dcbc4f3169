//! Several instances in one group, in both group protocols: instances join, leave, die and freeze, and
//! every record counts once.

use std::time::{Duration, Instant};

use patron_blocks::event::Kind;
use uuid::Uuid;

use crate::support::{
    binary::{Process, serve, signal, wait_for_exit},
    log::OutgoingRecord,
    offset_monitor::OffsetMonitor,
    payloads::{check_out, minutes_from_now},
    world::{TENANT, World},
};

/// Two partitions for the topic of each kind.
const PARTITIONS: u64 = 2 * Kind::ALL.len() as u64;

/// A session timeout so long that a wait for a dead instance would fail the story.
const LONG_SESSION_TIMEOUT: Duration = Duration::from_secs(40);

/// The longest time until partitions are read again after an instance joined or left in order. A
/// handover takes a second or two; an expired session would take twice this time.
const HANDOVER_MAX: Duration = Duration::from_secs(20);

macro_rules! in_both_protocols {
    ($($story:ident),* $(,)?) => {
        mod classic {
            use patron_blocks::config::GroupProtocol::Classic;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() { crate::support::world::World::run_with_protocol(Classic, super::$story).await; })*
        }
        mod consumer {
            use patron_blocks::config::GroupProtocol::Consumer;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() { crate::support::world::World::run_with_protocol(Consumer, super::$story).await; })*
        }
    };
}

in_both_protocols![
    instances_join_and_leave_during_ingest,
    stopped_instance_leaves_without_session_timeout,
    other_instances_take_over_from_a_killed_one,
    instance_frozen_in_mid_batch_blocks_no_other_instance,
    new_topics_and_partitions_are_read_while_running,
];

async fn publish_check_outs(world: &World, user: Uuid, number: usize) {
    let tomorrow = minutes_from_now(1440);
    let payloads: Vec<String> =
        (0..number).map(|_| check_out(user, Uuid::new_v4(), &tomorrow).to_string()).collect();
    let draft = |payload| OutgoingRecord {
        topic: world.log.topic(TENANT, Kind::ItemCheckedOut),
        headers: vec![],
        payload: Some(str::as_bytes(payload)),
        timestamp: None,
    };
    for payloads in payloads.chunks(50) {
        world.log.send_all(payloads.iter().map(|payload| draft(payload))).await;
    }
}

async fn inbox_count(world: &World) -> i64 {
    world.count("select count(*) from {schema}.inbox").await
}

async fn open_loan_count(world: &World) -> i64 {
    world.count("select coalesce(sum(open_loans), 0)::bigint from {schema}.patron_counter").await
}

/// Waits until this number of instances share all partitions, each with at least one.
async fn until_shared_by(world: &World, instances: usize) {
    world
        .until(&format!("{instances} share all partitions"), async |w: &World| {
            let reading = w.partitions_read().await;
            assert_eq!(reading.len(), instances);
            reading.iter().all(|partitions| *partitions > 0)
                && reading.iter().sum::<u64>() == PARTITIONS
        })
        .await;
}

async fn instances_join_and_leave_during_ingest(world: &mut World) {
    let user = Uuid::new_v4();
    let watch = OffsetMonitor::start(world);
    let mut published = 0;
    // Each step: `true` if an instance joins, `false` if the oldest leaves; and the number of instances
    // afterwards.
    for (joins, instances) in [(true, 2), (true, 3), (false, 2), (true, 3), (false, 2), (false, 1)]
    {
        publish_check_outs(world, user, 300).await;
        if joins {
            world.start().await;
        } else {
            world.stop_oldest().await;
        }
        tokio::join!(publish_check_outs(world, user, 300), until_shared_by(world, instances));
        published += 600;
    }
    world.until_committed().await;
    watch.finish().await;
    assert_eq!((inbox_count(world).await, open_loan_count(world).await), (published, published));
}

async fn stopped_instance_leaves_without_session_timeout(world: &mut World) {
    world.log.set_session_timeout(LONG_SESSION_TIMEOUT).await;
    world.config.kafka.session_timeout = LONG_SESSION_TIMEOUT;
    world.stop().await;
    world.start().await;
    world.start().await;
    until_shared_by(world, 2).await;

    let asked = Instant::now();
    world.stop_oldest().await;
    until_shared_by(world, 1).await;
    assert!(asked.elapsed() < HANDOVER_MAX, "to hand over took {:?}", asked.elapsed());

    let asked = Instant::now();
    world.stop().await;
    world.start().await;
    until_shared_by(world, 1).await;
    assert!(asked.elapsed() < HANDOVER_MAX, "to restart took {:?}", asked.elapsed());
}

async fn other_instances_take_over_from_a_killed_one(world: &mut World) {
    let user = Uuid::new_v4();
    let watch = OffsetMonitor::start(world);
    for round in 1..=2 {
        let child = serve(world);
        world
            .until("the instances share the partitions", async |w: &World| {
                (1..PARTITIONS).contains(&w.partitions_read().await[0])
            })
            .await;
        let before = inbox_count(world).await;
        tokio::join!(publish_check_outs(world, user, 1000), async {
            world
                .until("the instance has stored some events", async |w: &World| {
                    inbox_count(w).await > before
                })
                .await;
            signal(&child, "-KILL");
        });
        assert!(!wait_for_exit(child).await.success(), "round {round}");
        world.until_committed().await;
        until_shared_by(world, 1).await;
    }
    watch.finish().await;
    assert_eq!((inbox_count(world).await, open_loan_count(world).await), (2000, 2000));
}

/// Blocks the writers with a lock and freezes the instance inside a transaction.
async fn freeze_during_batch(world: &World, child: &Process) {
    let mut blocked = world.db.begin().await.unwrap();
    let lock = format!("lock table {}.loan in exclusive mode", world.schema.name());
    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *blocked).await.unwrap();
    publish_check_outs(world, Uuid::new_v4(), 300).await;
    let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock'";
    world
        .until("the instance waits for a lock", async |w: &World| w.count(waiting).await > 0)
        .await;
    signal(child, "-STOP");
    blocked.rollback().await.unwrap();
    let idle = "select count(*) from pg_stat_activity
                 where datname = current_database() and state = 'idle in transaction'";
    world.until("the transaction stays open", async |w: &World| w.count(idle).await > 0).await;
}

async fn instance_frozen_in_mid_batch_blocks_no_other_instance(world: &mut World) {
    world.stop().await;
    let watch = OffsetMonitor::start(world);
    let user = Uuid::new_v4();
    let child = serve(world);
    publish_check_outs(world, user, 100).await;
    world.until_committed().await;
    freeze_during_batch(world, &child).await;

    // The session of the frozen instance expires, and the new instance reads the unfinished records.
    world.start().await;
    until_shared_by(world, 1).await;
    publish_check_outs(world, user, 300).await;
    world.until_committed().await;
    assert_eq!((inbox_count(world).await, open_loan_count(world).await), (700, 700));

    signal(&child, "-CONT");
    let shares = async |w: &World| (1..PARTITIONS).contains(&w.partitions_read().await[0]);
    world.until("the instance is a member of the group again", shares).await;
    publish_check_outs(world, user, 300).await;
    world.until_committed().await;
    signal(&child, "-TERM");
    assert_eq!(wait_for_exit(child).await.code(), Some(0));
    until_shared_by(world, 1).await;
    watch.finish().await;
    assert_eq!((inbox_count(world).await, open_loan_count(world).await), (1000, 1000));
}

async fn new_topics_and_partitions_are_read_while_running(world: &mut World) {
    world.start().await;
    until_shared_by(world, 2).await;
    let user = Uuid::new_v4();
    let payload = || check_out(user, Uuid::new_v4(), &minutes_from_now(1440)).to_string();
    let (own_topic, all) = (
        world.log.topic(TENANT, Kind::ItemCheckedOut),
        world.log.topic("ALL", Kind::ItemCheckedOut),
    );
    world.log.add_partitions(&own_topic, 4).await;
    world.log.create_topics(vec![all.clone()]).await;
    for partition in 0..4 {
        let payload = payload();
        let headers = vec![("folio.tenantId", TENANT)];
        let draft = |topic: &String| OutgoingRecord {
            topic: topic.clone(),
            headers: headers.clone(),
            payload: Some(payload.as_bytes()),
            timestamp: None,
        };
        world.log.send_to_partition(partition, draft(&own_topic)).await;
    }
    let payload = payload();
    let headers = vec![("folio.tenantId", TENANT)];
    let draft =
        OutgoingRecord { topic: all, headers, payload: Some(payload.as_bytes()), timestamp: None };
    world.log.send_untracked(draft).await;
    world.until("all records are stored", async |w: &World| inbox_count(w).await == 5).await;
    world.until_committed().await;
    assert_eq!(open_loan_count(world).await, 5);
}
