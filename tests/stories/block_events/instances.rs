//! Block events of instances with different settings, and of an instance without a broker.

use chrono::TimeDelta;
use patron_blocks::blocks::Measure;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{enable_publishing, publish_check_outs, publish_patron, topic, until_published};
use crate::support::{
    payloads::now,
    world::{TENANT, World},
};

/// The number of evaluations of all patrons that a change of the settings caused.
const REEVALUATIONS: &str = "select count(*) from {schema}.overturned";

/// During a rollout, two instances have different settings. Neither evaluates all patrons again while
/// the other one runs.
#[tokio::test(flavor = "multi_thread")]
async fn instances_with_different_settings_do_not_compete() {
    World::run_with(enable_publishing, async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 2.0).await;
        let near_limit = publish_patron(world, group).await;
        publish_check_outs(world, near_limit, 1).await;
        until_published(world).await;
        let owned = "select count(*) from {schema}.block_event_settings where lease_expires_at > now()";
        let is_owned = async |w: &World| w.count(owned).await == 1;
        world.until("an instance has the lease on the detection settings", is_owned).await;
        world
            .execute_sql(
                "create table {schema}.overturned (at timestamptz default now());
                 create function {schema}.count_overturned() returns trigger language plpgsql as
                   'begin if new.patron_group is null then insert into {schema}.overturned default values; end if;
                    return new; end';
                 create trigger overturned before insert on {schema}.pending_group
                   for each row execute function {schema}.count_overturned()",
            )
            .await;
        world.config.block_events.approaching_percent = 50;
        world.start().await;
        let later = now() + TimeDelta::seconds(5);
        world.until("both instances have polled several times", async |_: &World| now() > later).await;
        assert_eq!(world.count(REEVALUATIONS).await, 0);
        world.stop_oldest().await;
        let near_limit_count = "select count(*) from {schema}.published_patron where approaching is not null";
        let is_published = async |w: &World| w.count(near_limit_count).await == 1;
        world.until("the remaining instance publishes with its own settings", is_published).await;
        until_published(world).await;
        assert_eq!(world.count(REEVALUATIONS).await, 1);
        let topic = format!("{}.{TENANT}.patron-blocks.approaching-limit", world.log.environment());
        let types: Vec<Value> =
            world.log.read_topic(&topic).iter().map(|message| message.value["type"].clone()).collect();
        assert_eq!(types, ["CREATED"]);
    })
    .await;
}

/// An instance without block events, such as one with an old setting, disables none of another
/// instance's triggers.
#[tokio::test(flavor = "multi_thread")]
async fn instance_with_publishing_off_stops_no_other_instance() {
    World::run_with(enable_publishing, async |world| {
        let triggers = "select count(*) from pg_trigger where tgname = 'pending_counter_inserted'";
        let is_on = async |w: &World| w.count(triggers).await == 1;
        world.until("the triggers record changes", is_on).await;
        let owned = "select count(*) from {schema}.block_event_settings where lease_expires_at > now()";
        world
            .until("an instance has the lease on the detection settings", async |w: &World| {
                w.count(owned).await == 1
            })
            .await;
        let since = "select max(oid::text)::bigint from pg_trigger where tgname = 'pending_counter_inserted'";
        let before = world.count(since).await;
        world.config.block_events.enabled = false;
        world.start().await;
        let later = now() + TimeDelta::seconds(3);
        world.until("both instances have polled", async |_: &World| now() > later).await;
        assert_eq!(world.count(since).await, before, "no instance recreated the triggers");
        world.stop_oldest().await;
        world.stop().await;
        world.start().await;
        world.until("the triggers are removed", async |w: &World| w.count(triggers).await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn purge_does_not_wait_for_an_unavailable_broker() {
    World::run_with(enable_publishing, async |world| {
        world.stop().await;
        // No broker listens on this port.
        let port = std::mem::replace(&mut world.config.kafka.broker_port, 1);
        let add = format!(
            "insert into {{schema}}.message_outbox (sequence, id, kafka_topic, key, headers, payload)
             values (1, gen_random_uuid(), '{}', 'a', '{{}}', '{{}}')",
            topic(world)
        );
        world.execute_sql(&add).await;
        world.start_unready().await;
        let blocked_ddl = "from pg_stat_activity where datname = current_database()
                      and state = 'idle in transaction' and state_change < now() - interval '1 second'";
        let waiting = format!("select count(*) {blocked_ddl}");
        let is_waiting = async |w: &World| w.count(&waiting).await > 0;
        world.until("a message waits for the broker", is_waiting).await;
        let table_locks = format!(
            "select count(*) from pg_locks where relation = '{{schema}}.message_outbox'::regclass
                and pid in (select pid {blocked_ddl})"
        );
        assert_eq!(world.count(&table_locks).await, 0, "the table can be dropped meanwhile");
        let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
        world.stop().await;
        world.config.kafka.broker_port = port;
        world.start().await;
        world.enable().await;
    })
    .await;
}
