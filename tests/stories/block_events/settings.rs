//! Block events and their settings: off, limits that are nearly reached, and messages that wait.

use patron_blocks::{
    blocks::Measure,
    config::Config,
    event::{Collection, Kind},
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    IN, assert_matches_api, block_event, enable_publishing, publish_check_outs, publish_patron,
    published_for, topic, until_published,
};
use crate::{
    repository::schemas::message_validator,
    support::{
        payloads::{balance_change, loan_event},
        world::{TENANT, World},
    },
};

#[tokio::test(flavor = "multi_thread")]
async fn approaching_limits_are_published_if_configured() {
    let with_approaching = |config: &mut Config| {
        enable_publishing(config);
        config.block_events.approaching_percent = 20;
        config.block_events.collection = Collection::parse("ALL");
    };
    World::run_with(with_approaching, async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::FeeFineBalance, 10.0).await;
        let user = publish_patron(world, group).await;
        let owed = Uuid::new_v4();
        for balance in [7.99, 8.0, 10.0, 10.01, 0.0] {
            let payload = balance_change(user, owed, None, balance);
            world.publish(Kind::FeeFineBalanceChanged, &payload).await;
            world.until_committed().await;
            until_published(world).await;
        }
        let topic = format!("{}.ALL.patron-blocks.approaching-limit", world.log.environment());
        let messages = world.log.read_topic(&topic);
        let types: Vec<&Value> = messages.iter().map(|message| &message.value["type"]).collect();
        assert_eq!(types, ["CREATED", "DELETED"]);
        assert_eq!(messages[0].value["data"]["new"]["limits"][0]["measured"].to_string(), "8");
        assert!(message_validator("approaching-limit").is_valid(&messages[0].value));
        let blocks = format!("{}.ALL.patron-blocks.automated-block", world.log.environment());
        let messages = world.log.read_topic(&blocks);
        assert_eq!(published_for(&messages, user).len(), 2, "{messages:?}");
    })
    .await;
}

/// Two changes without an event affect all patrons: a changed setting, and a purge of the tenant.
#[tokio::test(flavor = "multi_thread")]
async fn changed_setting_reevaluates_all_and_sequence_grows() {
    World::run_with(enable_publishing, async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 2.0).await;
        let (near_limit, user) =
            (publish_patron(world, group).await, publish_patron(world, group).await);
        publish_check_outs(world, near_limit, 1).await;
        publish_check_outs(world, user, 2).await;
        until_published(world).await;
        world.stop().await;
        world.config.block_events.approaching_percent = 50;
        world.start().await;
        let near_limit_topic =
            format!("{}.{TENANT}.patron-blocks.approaching-limit", world.log.environment());
        let near_limit_count =
            "select count(*) from {schema}.published_patron where approaching is not null";
        world
            .until("the approaching limit is published", async |world: &World| {
                world.count(near_limit_count).await == 1
            })
            .await;
        until_published(world).await;
        let messages = world.log.read_topic(&near_limit_topic);
        assert_eq!(
            (messages.len(), messages[0].key.as_str()),
            (1, near_limit.to_string().as_str())
        );

        let last = world.log.read_topic(&topic(world))[0].value["sequence"].as_i64().unwrap();
        let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
        world.enable().await;
        world.add_limit(group, Measure::ChargedOut, 2.0).await;
        world
            .until("the message is published again", async |world: &World| {
                published_for(&world.log.read_topic(&topic(world)), user).len() == 2
            })
            .await;
        let messages = world.log.read_topic(&topic(world));
        let greatest =
            messages.iter().map(|message| message.value["sequence"].as_i64().unwrap()).max();
        assert!(greatest.unwrap() > last);
        assert_matches_api(world, &messages, &[near_limit, user]).await;

        // A restore from yesterday's backup would reset the sequence like this.
        world.count("select setval('{schema}.message_sequence', 1)").await;
        publish_check_outs(world, user, 1).await;
        until_published(world).await;
        let messages = world.log.read_topic(&topic(world));
        let newest =
            messages.iter().map(|message| message.value["sequence"].as_i64().unwrap()).max();
        assert!(newest > greatest, "{newest:?} {greatest:?}");
        assert_matches_api(world, &messages, &[near_limit, user]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishing_starts_with_all_current_blocks() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 1.0).await;
        let user = publish_patron(world, group).await;
        let loans = publish_check_outs(world, user, 3).await;
        let noted = "select count(*) from {schema}.pending_patron";
        let triggers = "select count(*) from pg_trigger where tgname like 'pending_%'
                          and tgrelid::regclass::text like '%_mod_patron_blocks.%'";
        assert_eq!((world.count(noted).await, world.count(triggers).await), (0, 0));
        let restart = async |world: &mut World, on: bool| {
            world.stop().await;
            world.config.block_events.enabled = on;
            world.start().await;
            world
                .until("the triggers follow the setting", async |world: &World| {
                    (world.count(triggers).await > 0) == on
                })
                .await;
        };
        restart(world, true).await;
        until_published(world).await;
        world
            .until("the message is published", async |world: &World| {
                published_for(&world.log.read_topic(&topic(world)), user).len() == 1
            })
            .await;
        restart(world, false).await;
        world.publish(IN, &loan_event(user, loans[0])).await;
        world.publish(IN, &loan_event(user, loans[1])).await;
        world.publish(IN, &loan_event(user, loans[2])).await;
        world.until_committed().await;
        assert_eq!(world.count(noted).await, 0);
        restart(world, true).await;
        world
            .until("the changes in the meantime are published", async |world: &World| {
                published_for(&world.log.read_topic(&topic(world)), user).len() == 2
            })
            .await;
        let messages = world.log.read_topic(&topic(world));
        let expected = [
            block_event("CREATED", "publishing_enabled", &[[true; 3]]),
            block_event("DELETED", "", &[]),
        ];
        assert_eq!(published_for(&messages, user), expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unsendable_messages_are_reported_and_old_ones_pruned() {
    let soon = |config: &mut Config| {
        enable_publishing(config);
        config.block_events.overdue_after = std::time::Duration::from_millis(500);
        config.block_events.replication = 3;
        config.housekeeping.interval = std::time::Duration::from_millis(200);
    };
    World::run_with(soon, async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 1.0).await;
        let user = publish_patron(world, group).await;
        publish_check_outs(world, user, 1).await;
        // A single broker cannot store three replicas.
        world
            .until("readiness reports an overdue message", async |world: &World| {
                let ready = world.get_json("/admin/ready").await;
                ready["messages"]["overdue"] == true && ready["messages"]["waiting"] == 1
            })
            .await;
        assert_eq!(world.block_flags(user).await, [[true, false, false]]);
        let (_, metrics) = world.get("/metrics").await;
        assert!(metrics.contains("patron_blocks_outbox_overdue 1"), "{metrics}");
        world.log.create_topics(vec![topic(world)]).await;
        until_published(world).await;
        assert_eq!(published_for(&world.log.read_topic(&topic(world)), user).len(), 1);
        world
            .execute_sql(
                "update {schema}.message_outbox set sent_at = sent_at - interval '25 hours'",
            )
            .await;
        world
            .until("the sent messages are deleted", async |world: &World| {
                world.count("select count(*) from {schema}.message_outbox").await == 0
            })
            .await;
    })
    .await;
}

/// The oversized message waits, and readiness reports it as overdue. The earlier messages are sent once.
#[tokio::test(flavor = "multi_thread")]
async fn oversized_message_does_not_resend_earlier_ones() {
    let late = |config: &mut Config| {
        enable_publishing(config);
        config.block_events.overdue_after = std::time::Duration::from_secs(5);
    };
    World::run_with(late, async |world| {
        let topic = topic(world);
        let add = format!(
            "insert into {{schema}}.message_outbox (sequence, id, kafka_topic, key, headers, payload)
             values (1, gen_random_uuid(), '{topic}', 'small', '{{}}', '{{}}'),
                    (2, gen_random_uuid(), '{topic}', 'large', '{{}}', to_json(repeat('x', 1100000))::text)"
        );
        world.execute_sql(&add).await;
        world
            .until("readiness reports an overdue message", async |world: &World| {
                let ready = world.get_json("/admin/ready").await;
                ready["messages"]["overdue"] == true && ready["messages"]["waiting"] == 1
            })
            .await;
        let messages = world.log.read_topic(&topic);
        assert_eq!(messages.iter().map(|message| &*message.key).collect::<Vec<_>>(), ["small"]);
        world.execute_sql("delete from {schema}.message_outbox where key = 'large'").await;
    })
    .await;
}
