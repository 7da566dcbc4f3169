//! Instances with other settings, and a broker that is away.

use chrono::TimeDelta;
use patron_blocks::blocks::Measure;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{borrow, on, patron, told, topic};
use crate::{
    facts::now,
    world::{TENANT, World},
};

/// How often all patrons were looked at again because of the way in which they are.
const OVERTURNED: &str = "select count(*) from {schema}.overturned";

/// As during a rollout: each would have patrons looked at in its own way, and none does while the other is there.
#[tokio::test(flavor = "multi_thread")]
async fn instances_with_other_settings_leave_each_other_alone() {
    World::tell_with(on, async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 2.0).await;
        let near = patron(world, group).await;
        borrow(world, near, 1).await;
        told(world).await;
        let owned = "select count(*) from {schema}.telling where owned_until > now()";
        let is_owned = async |w: &World| w.count(owned).await == 1;
        world.until("somebody says how patrons are looked at", is_owned).await;
        world
            .meddle(
                "create table {schema}.overturned (at timestamptz default now());
                 create function {schema}.count_overturned() returns trigger language plpgsql as
                   'begin if new.patron_group is null then insert into {schema}.overturned default values; end if;
                    return new; end';
                 create trigger overturned before insert on {schema}.policy_change
                   for each row execute function {schema}.count_overturned()",
            )
            .await;
        world.config.messages.approaching_percent = 50;
        world.start().await;
        let later = now() + TimeDelta::seconds(5);
        world.until("both have looked several times", async |_: &World| now() > later).await;
        assert_eq!(world.count(OVERTURNED).await, 0);
        world.stop_oldest().await;
        let nears = "select count(*) from {schema}.told_patron where approaching is not null";
        let is_told = async |w: &World| w.count(nears).await == 1;
        world.until("the one that is left has its way", is_told).await;
        told(world).await;
        assert_eq!(world.count(OVERTURNED).await, 1);
        let topic = format!("{}.{TENANT}.patron-blocks.approaching-limit", world.log.environment());
        let types: Vec<Value> =
            world.log.read(&topic).iter().map(|told| told.value["type"].clone()).collect();
        assert_eq!(types, ["CREATED"]);
    })
    .await;
}

/// An instance that wants no messages, as one with the setting of yesterday, takes none away from those that do.
#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_wants_no_messages_takes_none_from_others() {
    World::tell_with(on, async |world| {
        let triggers = "select count(*) from pg_trigger where tgname = 'note_inserted'";
        let is_on = async |w: &World| w.count(triggers).await == 1;
        world.until("changes are noted", is_on).await;
        let owned = "select count(*) from {schema}.telling where owned_until > now()";
        world.until("and somebody wants that", async |w: &World| w.count(owned).await == 1).await;
        let since = "select max(oid::text)::bigint from pg_trigger where tgname = 'note_inserted'";
        let before = world.count(since).await;
        world.config.messages.on = false;
        world.start().await;
        let later = now() + TimeDelta::seconds(3);
        world.until("both have looked", async |_: &World| now() > later).await;
        assert_eq!(world.count(since).await, before, "nobody has made them anew");
        world.stop_oldest().await;
        world.stop().await;
        world.start().await;
        world.until("nobody wants them", async |w: &World| w.count(triggers).await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_does_not_wait_for_a_broker_that_is_away() {
    World::tell_with(on, async |world| {
        world.stop().await;
        // Nobody listens there.
        world.config.kafka.bootstrap = "127.0.0.1:1".to_owned();
        let add = format!(
            "insert into {{schema}}.message_outbox (sequence, id, kafka_topic, key, headers, payload)
             values (1, gen_random_uuid(), '{}', 'a', '{{}}', '{{}}')",
            topic(world)
        );
        world.meddle(&add).await;
        world.start_anyhow().await;
        let waits = "from pg_stat_activity where datname = current_database()
                      and state = 'idle in transaction' and state_change < now() - interval '1 second'";
        let waiting = format!("select count(*) {waits}");
        let is_waiting = async |w: &World| w.count(&waiting).await > 0;
        world.until("a message waits for the broker", is_waiting).await;
        let held = format!(
            "select count(*) from pg_locks where relation = '{{schema}}.message_outbox'::regclass
                and pid in (select pid {waits})"
        );
        assert_eq!(world.count(&held).await, 0, "its table can be dropped meanwhile");
        let purge = json!({ "module_from": "mod-patron-blocks-2.0.0", "purge": true });
        assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
        world.stop().await;
        let bootstrap = world.log.bootstrap().to_owned();
        world.config.kafka.bootstrap = bootstrap;
        world.start().await;
        world.enable().await;
    })
    .await;
}
