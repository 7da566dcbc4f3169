//! Several instances in one group, in both group protocols: they come, go, die and freeze, and every
//! record counts once.

use std::time::{Duration, Instant};

use patron_blocks::event::Kind;
use uuid::Uuid;

use crate::{
    binary::{Process, ended, serve, signal},
    facts::{check_out, minutes_from_now},
    log::Draft,
    watch::Watch,
    world::{TENANT, World},
};

/// A topic of each kind, of two partitions each.
const PARTITIONS: u64 = 2 * Kind::ALL.len() as u64;

/// How long the group waits for an instance that died, where nobody is to wait for it.
const LONG_SESSION: Duration = Duration::from_secs(40);

/// How soon partitions are read again after an instance came or went in good order. It takes a second
/// or two; a session that runs out would take twice as long as this.
const SOON: Duration = Duration::from_secs(20);

macro_rules! in_both_protocols {
    ($($story:ident),* $(,)?) => {
        mod classic {
            use patron_blocks::config::GroupProtocol::Classic;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() { crate::world::World::tell_in(Classic, super::$story).await; })*
        }
        mod consumer {
            use patron_blocks::config::GroupProtocol::Consumer;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $story() { crate::world::World::tell_in(Consumer, super::$story).await; })*
        }
    };
}

in_both_protocols![
    instances_join_and_leave_while_records_flow,
    nobody_waits_for_the_session_of_an_instance_that_stopped,
    the_others_take_over_from_an_instance_that_was_killed,
    an_instance_frozen_in_the_middle_of_a_batch_holds_up_nobody_and_harms_nothing,
    topics_and_partitions_that_appear_while_running_are_read,
];

async fn publish_check_outs(world: &World, user: Uuid, number: usize) {
    let tomorrow = minutes_from_now(1440);
    let payloads: Vec<String> =
        (0..number).map(|_| check_out(user, Uuid::new_v4(), &tomorrow).to_string()).collect();
    let draft = |payload| Draft {
        topic: world.log.topic(TENANT, Kind::ItemCheckedOut),
        headers: vec![],
        payload: Some(str::as_bytes(payload)),
        timestamp: None,
    };
    for payloads in payloads.chunks(50) {
        world.log.send_all(payloads.iter().map(|payload| draft(payload))).await;
    }
}

async fn stored(world: &World) -> i64 {
    world.count("select count(*) from {schema}.inbox").await
}

async fn counted(world: &World) -> i64 {
    world.count("select coalesce(sum(open_loans), 0)::bigint from {schema}.patron_counter").await
}

/// Waits until these instances share all partitions, each with some.
async fn shared_by(world: &World, instances: usize) {
    world
        .until(&format!("{instances} share all partitions"), async |w: &World| {
            let reading = w.reading().await;
            assert_eq!(reading.len(), instances);
            reading.iter().all(|partitions| *partitions > 0)
                && reading.iter().sum::<u64>() == PARTITIONS
        })
        .await;
}

async fn instances_join_and_leave_while_records_flow(world: &mut World) {
    let user = Uuid::new_v4();
    let watch = Watch::begin(world);
    let mut published = 0;
    // Whether one more joins, or the oldest leaves, and how many there are then.
    for (joins, instances) in [(true, 2), (true, 3), (false, 2), (true, 3), (false, 2), (false, 1)]
    {
        publish_check_outs(world, user, 300).await;
        if joins {
            world.start().await;
        } else {
            world.stop_oldest().await;
        }
        tokio::join!(publish_check_outs(world, user, 300), shared_by(world, instances));
        published += 600;
    }
    world.settled().await;
    watch.end().await;
    assert_eq!((stored(world).await, counted(world).await), (published, published));
}

async fn nobody_waits_for_the_session_of_an_instance_that_stopped(world: &mut World) {
    world.log.sessions_last(LONG_SESSION).await;
    world.config.kafka.session_timeout = LONG_SESSION;
    world.stop().await;
    world.start().await;
    world.start().await;
    shared_by(world, 2).await;

    let asked = Instant::now();
    world.stop_oldest().await;
    shared_by(world, 1).await;
    assert!(asked.elapsed() < SOON, "to hand over took {:?}", asked.elapsed());

    let asked = Instant::now();
    world.stop().await;
    world.start().await;
    shared_by(world, 1).await;
    assert!(asked.elapsed() < SOON, "to restart took {:?}", asked.elapsed());
}

async fn the_others_take_over_from_an_instance_that_was_killed(world: &mut World) {
    let user = Uuid::new_v4();
    let watch = Watch::begin(world);
    for round in 1..=2 {
        let child = serve(world);
        world
            .until("they share", async |w: &World| (1..PARTITIONS).contains(&w.reading().await[0]))
            .await;
        let before = stored(world).await;
        tokio::join!(publish_check_outs(world, user, 1000), async {
            world.until("it is in the middle", async |w: &World| stored(w).await > before).await;
            signal(&child, "-KILL");
        });
        assert!(!ended(child).await.success(), "round {round}");
        world.settled().await;
        shared_by(world, 1).await;
    }
    watch.end().await;
    assert_eq!((stored(world).await, counted(world).await), (2000, 2000));
}

/// Holds the writers up, so that the instance can be frozen in the middle of a transaction.
async fn freeze_in_mid_batch(world: &World, child: &Process) {
    let mut blocked = world.db.begin().await.unwrap();
    let lock = format!("lock table {}.loan in exclusive mode", world.schema.name());
    sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *blocked).await.unwrap();
    publish_check_outs(world, Uuid::new_v4(), 300).await;
    let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock'";
    world.until("it waits in a transaction", async |w: &World| w.count(waiting).await > 0).await;
    signal(child, "-STOP");
    blocked.rollback().await.unwrap();
    let idle = "select count(*) from pg_stat_activity
                 where datname = current_database() and state = 'idle in transaction'";
    world.until("its transaction stays open", async |w: &World| w.count(idle).await > 0).await;
}

async fn an_instance_frozen_in_the_middle_of_a_batch_holds_up_nobody_and_harms_nothing(
    world: &mut World,
) {
    world.stop().await;
    let watch = Watch::begin(world);
    let user = Uuid::new_v4();
    let child = serve(world);
    publish_check_outs(world, user, 100).await;
    world.settled().await;
    freeze_in_mid_batch(world, &child).await;

    // Its session ends, and the others read what it had in hand.
    world.start().await;
    shared_by(world, 1).await;
    publish_check_outs(world, user, 300).await;
    world.settled().await;
    assert_eq!((stored(world).await, counted(world).await), (700, 700));

    signal(&child, "-CONT");
    let shares = async |w: &World| (1..PARTITIONS).contains(&w.reading().await[0]);
    world.until("it is a member again", shares).await;
    publish_check_outs(world, user, 300).await;
    world.settled().await;
    signal(&child, "-TERM");
    assert_eq!(ended(child).await.code(), Some(0));
    shared_by(world, 1).await;
    watch.end().await;
    assert_eq!((stored(world).await, counted(world).await), (1000, 1000));
}

async fn topics_and_partitions_that_appear_while_running_are_read(world: &mut World) {
    world.start().await;
    shared_by(world, 2).await;
    let user = Uuid::new_v4();
    let payload = || check_out(user, Uuid::new_v4(), &minutes_from_now(1440)).to_string();
    let (ours, all) = (
        world.log.topic(TENANT, Kind::ItemCheckedOut),
        world.log.topic("ALL", Kind::ItemCheckedOut),
    );
    world.log.partition(&ours, 4).await;
    world.log.make(vec![all.clone()]).await;
    for partition in 0..4 {
        let payload = payload();
        let headers = vec![("folio.tenantId", TENANT)];
        let draft = |topic: &String| Draft {
            topic: topic.clone(),
            headers: headers.clone(),
            payload: Some(payload.as_bytes()),
            timestamp: None,
        };
        world.log.send_to(partition, draft(&ours)).await;
    }
    let payload = payload();
    let headers = vec![("folio.tenantId", TENANT)];
    let draft = Draft { topic: all, headers, payload: Some(payload.as_bytes()), timestamp: None };
    world.log.place(draft).await;
    world.until("all of it is read", async |w: &World| stored(w).await == 5).await;
    world.settled().await;
    assert_eq!(counted(world).await, 5);
}
