//! What others are told as settings have it: nothing, limits that are near too, and what waits.

use patron_blocks::{
    blocks::Measure,
    config::Config,
    event::{Collection, Kind},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{IN, borrow, is, is_what_the_desk_says, of, on, patron, told, topic};
use crate::{
    facts::{about, fee},
    schemas::message_validator,
    world::{TENANT, World},
};

#[tokio::test(flavor = "multi_thread")]
async fn limits_that_are_near_are_told_where_that_is_wanted() {
    let near = |config: &mut Config| {
        on(config);
        config.messages.approaching_percent = 20;
        config.messages.collection = Collection::parse("ALL");
    };
    World::tell_with(near, async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::FeeFineBalance, 10.0).await;
        let user = patron(world, group).await;
        let owed = Uuid::new_v4();
        for balance in [7.99, 8.0, 10.0, 10.01, 0.0] {
            let payload = fee(user, owed, None, balance);
            world.publish(Kind::FeeFineBalanceChanged, &payload).await;
            world.settled().await;
            told(world).await;
        }
        let topic = format!("{}.ALL.patron-blocks.approaching-limit", world.log.environment());
        let heard = world.log.read(&topic);
        let types: Vec<&Value> = heard.iter().map(|told| &told.value["type"]).collect();
        assert_eq!(types, ["CREATED", "DELETED"]);
        assert_eq!(heard[0].value["data"]["new"]["limits"][0]["measured"].to_string(), "8");
        assert!(message_validator("approaching-limit").is_valid(&heard[0].value));
        let blocks = format!("{}.ALL.patron-blocks.automated-block", world.log.environment());
        let heard = world.log.read(&blocks);
        assert_eq!(of(&heard, user).len(), 2, "{heard:?}");
    })
    .await;
}

/// What concerns all, and what no event tells of: another setting, and a tenant that was purged.
#[tokio::test(flavor = "multi_thread")]
async fn another_setting_is_another_look_at_all_and_numbers_never_go_back() {
    World::tell_with(on, async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 2.0).await;
        let (near, user) = (patron(world, group).await, patron(world, group).await);
        borrow(world, near, 1).await;
        borrow(world, user, 2).await;
        told(world).await;
        world.stop().await;
        world.config.messages.approaching_percent = 50;
        world.start().await;
        let topic_of_near =
            format!("{}.{TENANT}.patron-blocks.approaching-limit", world.log.environment());
        let nears = "select count(*) from {schema}.told_patron where approaching is not null";
        world
            .until("who is near is told", async |world: &World| world.count(nears).await == 1)
            .await;
        told(world).await;
        let heard = world.log.read(&topic_of_near);
        assert_eq!((heard.len(), heard[0].key.as_str()), (1, near.to_string().as_str()));

        let last = world.log.read(&topic(world))[0].value["sequence"].as_i64().unwrap();
        let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
        world.enable().await;
        world.limit(group, Measure::ChargedOut, 2.0).await;
        world
            .until("it is told again", async |world: &World| {
                of(&world.log.read(&topic(world)), user).len() == 2
            })
            .await;
        let heard = world.log.read(&topic(world));
        let greatest = heard.iter().map(|told| told.value["sequence"].as_i64().unwrap()).max();
        assert!(greatest.unwrap() > last);
        is_what_the_desk_says(world, &heard, &[near, user]).await;

        // As after a database came back from a copy of yesterday's.
        world.count("select setval('{schema}.message_sequence', 1)").await;
        borrow(world, user, 1).await;
        told(world).await;
        let heard = world.log.read(&topic(world));
        let newest = heard.iter().map(|told| told.value["sequence"].as_i64().unwrap()).max();
        assert!(newest > greatest, "{newest:?} {greatest:?}");
        is_what_the_desk_says(world, &heard, &[near, user]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_noted_until_it_is_wanted_and_then_all_that_is_so_is_told() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 1.0).await;
        let user = patron(world, group).await;
        let loans = borrow(world, user, 3).await;
        let noted = "select count(*) from {schema}.touched_patron";
        let triggers = "select count(*) from pg_trigger where tgname like 'note_%' and tgname not like 'note_inbox%'
                          and tgrelid::regclass::text like '%_mod_patron_blocks.%'";
        assert_eq!((world.count(noted).await, world.count(triggers).await), (0, 0));
        let restart = async |world: &mut World, on: bool| {
            world.stop().await;
            world.config.messages.on = on;
            world.start().await;
            world
                .until("it is as wanted", async |world: &World| {
                    (world.count(triggers).await > 0) == on
                })
                .await;
        };
        restart(world, true).await;
        told(world).await;
        world
            .until("it is told", async |world: &World| {
                of(&world.log.read(&topic(world)), user).len() == 1
            })
            .await;
        restart(world, false).await;
        world.publish(IN, &about(user, loans[0])).await;
        world.publish(IN, &about(user, loans[1])).await;
        world.publish(IN, &about(user, loans[2])).await;
        world.settled().await;
        assert_eq!(world.count(noted).await, 0);
        restart(world, true).await;
        world
            .until("what happened meanwhile is told", async |world: &World| {
                of(&world.log.read(&topic(world)), user).len() == 2
            })
            .await;
        let heard = world.log.read(&topic(world));
        let expected = [is("CREATED", "begun", &[[true; 3]]), is("DELETED", "", &[])];
        assert_eq!(of(&heard, user), expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_can_not_be_sent_wait_and_say_so_and_those_sent_long_ago_go() {
    let soon = |config: &mut Config| {
        on(config);
        config.messages.alarm = std::time::Duration::from_millis(500);
        config.messages.shape.replication = 3;
        config.housekeeping.interval = std::time::Duration::from_millis(200);
    };
    World::tell_with(soon, async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 1.0).await;
        let user = patron(world, group).await;
        borrow(world, user, 1).await;
        // One broker makes no three copies.
        world
            .until("it says that they are late", async |world: &World| {
                let ready = world.read("/admin/ready").await;
                ready["messages"]["late"] == true && ready["messages"]["waiting"] == 1
            })
            .await;
        assert_eq!(world.blocks(user).await, [[true, false, false]]);
        let (_, metrics) = world.get("/metrics").await;
        assert!(metrics.contains("patron_blocks_messages_late 1"), "{metrics}");
        world.log.make(vec![topic(world)]).await;
        told(world).await;
        assert_eq!(of(&world.log.read(&topic(world)), user).len(), 1);
        world
            .meddle("update {schema}.message_outbox set sent_at = sent_at - interval '25 hours'")
            .await;
        world
            .until("they are removed", async |world: &World| {
                world.count("select count(*) from {schema}.message_outbox").await == 0
            })
            .await;
    })
    .await;
}

/// It waits, and says so; those before it were sent, once.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_broker_takes_has_none_of_those_before_it_be_sent_again_and_again() {
    let late = |config: &mut Config| {
        on(config);
        config.messages.alarm = std::time::Duration::from_secs(5);
    };
    World::tell_with(late, async |world| {
        let topic = topic(world);
        let add = format!(
            "insert into {{schema}}.message_outbox (sequence, id, kafka_topic, key, headers, payload)
             values (1, gen_random_uuid(), '{topic}', 'small', '{{}}', '{{}}'),
                    (2, gen_random_uuid(), '{topic}', 'large', '{{}}', to_json(repeat('x', 1100000))::text)"
        );
        world.meddle(&add).await;
        world
            .until("it says that one is late", async |world: &World| {
                let ready = world.read("/admin/ready").await;
                ready["messages"]["late"] == true && ready["messages"]["waiting"] == 1
            })
            .await;
        let heard = world.log.read(&topic);
        assert_eq!(heard.iter().map(|told| &*told.key).collect::<Vec<_>>(), ["small"]);
        world.meddle("delete from {schema}.message_outbox where key = 'large'").await;
    })
    .await;
}
