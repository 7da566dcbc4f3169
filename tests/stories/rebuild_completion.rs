//! The end of a rebuild while a tenant, a database or a broker blocks it.

use std::sync::Arc;

use serde_json::json;
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::world::{TENANT, World};

const REBUILDS: &str = "/patron-blocks/rebuilds";
const MODULE: &str = "mod-patron-blocks-2.0.0";

async fn purge(world: &World) {
    let purge = json!({ "module_from": MODULE, "purge": true });
    assert_eq!(world.post("/_/tenant", &purge).await.0, 204);
}

/// Enables the tenant again while no instance works on rebuilds. Returns the waiting initial fill and
/// its shadow.
async fn tenant_before_initial_fill(world: &mut World) -> (String, String) {
    purge(world).await;
    world.stop().await;
    world.config.rebuild.concurrency = 0;
    world.start_unready().await;
    assert_eq!(world.post("/_/tenant", &json!({ "module_to": MODULE })).await.0, 201);
    let is_entered = async |world: &World| {
        let (status, answer) = world.get(REBUILDS).await;
        status == 200 && answer.contains("enabling")
    };
    world.until("the initial fill is inserted", is_entered).await;
    let all = world.get_json(REBUILDS).await;
    let id = all["rebuilds"][0]["id"].as_str().unwrap().to_owned();
    let shadow = format!("{}_r{}", world.schema.name(), &id[..8]);
    (id, shadow)
}

/// A crash empties the shadow, including the record of what the topics lacked.
#[tokio::test(flavor = "multi_thread")]
async fn crash_at_end_of_initial_fill_leaves_it_incomplete() {
    World::run(async |world| {
        let topic = world.log.topic(TENANT, patron_blocks::event::Kind::ItemCheckedOut);
        for _ in 0..6 {
            let out = crate::support::payloads::check_out(
                Uuid::new_v4(),
                Uuid::new_v4(),
                &crate::support::payloads::minutes_from_now(60),
            );
            world.publish(patron_blocks::event::Kind::ItemCheckedOut, &out).await;
        }
        world.until_committed().await;
        for partition in 0..2 {
            world.log.delete_records_before(&topic, partition, 1).await;
        }
        let (_, shadow) = tenant_before_initial_fill(world).await;
        // This trigger crashes right after the last step, before the completeness is recorded.
        world
            .execute_sql(&format!(
                "create table public.crashed (once int);
                 create function public.crash() returns trigger language plpgsql as $$ begin
                   if not exists (select from public.crashed) then
                     insert into public.crashed values (1);
                     delete from {shadow}.shadow_state;
                   end if;
                   return new;
                 end $$;
                 insert into {{schema}}.tenant_horizon (horizon) values ('\\x0000000000000000');
                 create trigger crash before insert on {{schema}}.tenant_horizon
                   for each row execute function public.crash();"
            ))
            .await;
        world.stop().await;
        world.config.rebuild.concurrency = 2;
        world.start().await;
        let is_filled = async |world: &World| {
            world.get_json("/patron-blocks/ingest").await["knowledge"] != "filling"
        };
        world.until("the initial fill ends", is_filled).await;
        assert_eq!(
            world.count("select count(*) from public.crashed").await,
            1,
            "the crash happened"
        );
        assert_eq!(world.get_json("/patron-blocks/ingest").await["knowledge"], "incomplete");
        world.take_incidents().await;
    })
    .await;
}

/// The number of backends that wait for a lock.
const WAITING: &str = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'
                         and datname = current_database()";

#[tokio::test(flavor = "multi_thread")]
async fn purge_during_initial_fill_does_not_deadlock() {
    World::run(async |world| {
        let port = world.config.kafka.broker_port;
        let (id, shadow) = tenant_before_initial_fill(world).await;
        world.stop().await;
        // The initial fill cannot progress without the broker.
        world.config.kafka.broker_port = 1;
        world.config.rebuild.concurrency = 2;
        world.start_unready().await;
        let is_reading = format!(
            "select count(*) from mod_patron_blocks.job where id = '{id}' and status = 'reading'"
        );
        world
            .until("the rebuild is reading", async |world: &World| {
                world.count(&is_reading).await == 1
            })
            .await;
        world
            .execute_sql(&format!("create schema {shadow}; create table {shadow}.reading (n int)"))
            .await;
        let mut tx = world.db.begin().await.unwrap();
        let lock = format!("lock table {shadow}.reading in access share mode");
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
        assert_eq!(world.delete(&format!("{REBUILDS}/{id}")).await.0, 204);
        world
            .until("the rebuild waits for a lock", async |w: &World| w.count(WAITING).await >= 1)
            .await;
        let body = json!({ "module_from": MODULE, "purge": true });
        let request = world.request(reqwest::Method::POST, "/_/tenant").json(&body);
        let purge = tokio::spawn(request.header("X-Okapi-Tenant", TENANT).send());
        let observed = Arc::new(purge);
        world
            .until("the purge waits for the rebuild", async |w: &World| {
                w.count(WAITING).await >= 2 || observed.is_finished()
            })
            .await;
        tx.rollback().await.unwrap();
        let purge = Arc::into_inner(observed).unwrap();
        let answer = purge.await.unwrap().unwrap();
        let status = answer.status();
        assert_eq!(status, 204, "{}", answer.text().await.unwrap());
        world.stop().await;
        world.config.kafka.broker_port = port;
        world.start().await;
        world.enable().await;
        world.take_incidents().await;
    })
    .await;
}

/// A rebuild that waits for a broker or a leader uses no slot.
#[tokio::test(flavor = "multi_thread")]
async fn waiting_initial_fill_delays_no_other_rebuild() {
    World::run(async |world| {
        let port = world.config.kafka.broker_port;
        world.stop().await;
        world.config.kafka.broker_port = 1;
        world.config.rebuild.concurrency = 1;
        world.start_unready().await;
        let install = world.request(reqwest::Method::POST, "/_/tenant");
        let install = install.header("X-Okapi-Tenant", "southlib");
        let install = install.json(&json!({ "module_to": MODULE })).send().await.unwrap();
        assert_eq!(install.status(), 201);
        let is_reading = "select count(*) from mod_patron_blocks.job where tenant = 'southlib'
                           and status = 'reading'";
        world
            .until("the rebuild is reading", async |world: &World| {
                world.count(is_reading).await == 1
            })
            .await;
        let (status, body) = world.post(REBUILDS, &json!({ "source": "inbox" })).await;
        assert_eq!(status, 201, "{body}");
        let asked: serde_json::Value = serde_json::from_str(&body).unwrap();
        let path = format!("{REBUILDS}/{}", asked["id"].as_str().unwrap());
        world
            .until("the other rebuild is done", async |world: &World| {
                world.get_json(&path).await["status"] == "done"
            })
            .await;
        world.stop().await;
        world.config.kafka.broker_port = port;
        world.start().await;
    })
    .await;
}
