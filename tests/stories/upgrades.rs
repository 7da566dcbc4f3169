//! Upgrades: an upgrade call preserves a tenant's identity. An instance serves and ingests a tenant only
//! once the tenant's schema is at the version of the instance.

use std::time::Duration;

use patron_blocks::{
    blocks::Measure,
    config::Config,
    event::{Kind, TenantId},
    store::{self, PoolSettings, Schema, migrate},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Postgres, Transaction};
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{check_out, minutes_from_now},
    story_database::{pool, with_database},
    world::{TENANT, World},
};

/// Seeds of the keys of a tenant's advisory locks.
const WRITERS: i64 = 0;
const MIGRATIONS: i64 = 1;

/// Acquires one lock of each tenant in a session of the story.
async fn lock(world: &World, tenants: &[&str], seed: i64) -> Transaction<'static, Postgres> {
    let mut tx = world.db.begin().await.unwrap();
    for tenant in tenants {
        sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, $2))")
            .bind(format!("mod_patron_blocks/{tenant}"))
            .bind(seed)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx
}

/// The number of sessions of this database that wait for an advisory lock.
const LOCK_WAITERS: &str =
    "select count(*) from pg_locks l join pg_database d on d.oid = l.database
     where l.locktype = 'advisory' and not l.granted and d.datname = current_database()";

/// Publishes check-outs of a patron to the topic of the tenant collection.
pub(super) async fn publish(world: &World, topic: &str, user: Uuid, number: usize) {
    let tomorrow = minutes_from_now(1440);
    let payloads: Vec<String> =
        (0..number).map(|_| check_out(user, Uuid::new_v4(), &tomorrow).to_string()).collect();
    let draft = |payload| OutgoingRecord {
        topic: topic.to_owned(),
        headers: vec![("folio.tenantId", TENANT)],
        payload: Some(str::as_bytes(payload)),
        timestamp: None,
    };
    world.log.send_all_to_partition(0, payloads.iter().map(|payload| draft(payload))).await;
}

pub(super) async fn collection_topic(world: &World) -> String {
    let topic = world.log.topic("ALL", Kind::ItemCheckedOut);
    world.log.create_topics(vec![topic.clone()]).await;
    topic
}

/// Waits until the position of the collection topic's first partition reaches this offset.
async fn until_committed_to(world: &World, offset: usize) {
    let next = "select coalesce(max(next_offset), 0) from mod_patron_blocks.ingest_position
                 where topic like '%.ALL.%' and partition = 0";
    let offset = i64::try_from(offset).unwrap();
    world
        .until("the position reaches the end of the collection topic", async |w: &World| {
            w.count(next).await >= offset
        })
        .await;
}

const OPEN_LOANS: &str = "select count(*) from {schema}.loan where is_open";

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_with_waiting_record_loses_no_record() {
    World::run(async |world| {
        let topic = collection_topic(world).await;
        let user = Uuid::new_v4();
        publish(world, &topic, user, 1).await;
        until_committed_to(world, 1).await;

        let locked = lock(world, &[TENANT], WRITERS).await;
        publish(world, &topic, user, 1).await;
        world
            .until("a writer waits for a lock", async |w: &World| w.count(LOCK_WAITERS).await > 0)
            .await;
        world.execute_sql("update mod_patron_blocks.tenant set changed_at = now()").await;
        locked.rollback().await.unwrap();
        until_committed_to(world, 2).await;
        assert_eq!(world.count(OPEN_LOANS).await, 2, "a record of an enabled tenant is lost");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_upgrades_during_ingest_lose_no_record() {
    World::run(async |world| {
        let topic = collection_topic(world).await;
        let user = Uuid::new_v4();
        publish(world, &topic, user, 1).await;
        until_committed_to(world, 1).await;

        let world = &*world;
        let upgrade = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let (ended, mut published) = (std::cell::Cell::new(false), 1);
        let upgrades = async {
            for _ in 0..20 {
                let (status, body) = world.post("/_/tenant", &upgrade).await;
                assert_eq!(status, 201, "{body}");
                let job: Value = serde_json::from_str(&body).unwrap();
                let path = format!("/_/tenant/{}?wait=30000", job["id"].as_str().unwrap());
                assert_eq!(world.get_json(&path).await["complete"], true);
            }
            ended.set(true);
        };
        let events = async {
            while !ended.get() {
                publish(world, &topic, user, 50).await;
                published += 50;
            }
        };
        tokio::join!(upgrades, events);
        until_committed_to(world, published).await;
        let open = usize::try_from(world.count(OPEN_LOANS).await).unwrap();
        assert_eq!(open, published, "records of an enabled tenant are lost");
    })
    .await;
}

/// Removes the record of one migration of a tenant. The migration can be applied again.
const VERSION_BEFORE: &str = "delete from {schema}._sqlx_migrations where version = 14";

/// Returns a patron with one loan and a limit of zero.
async fn blocked_patron(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    let user = world.users.add_patron(group);
    world.add_limit(group, Measure::ChargedOut, 1.0).await;
    let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(1440));
    world.publish(Kind::ItemCheckedOut, &payload).await;
    world.until_committed().await;
    assert_eq!(world.block_flags(user).await.len(), 1);
    user
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_waits_until_it_is_migrated() {
    World::run(async |world| {
        let topic = collection_topic(world).await;
        let user = blocked_patron(world).await;
        publish(world, &topic, user, 1).await;
        until_committed_to(world, 1).await;
        world.stop().await;

        // The next version finds an older schema, and the lock prevents the migration.
        world.execute_sql(VERSION_BEFORE).await;
        let locked = lock(world, &[TENANT], MIGRATIONS).await;
        world.start_unready().await;
        let path = format!("/automated-patron-blocks/{user}");
        world
            .until("readiness reports the pending migration", async |w: &World| {
                let (status, body) = w.get(&path).await;
                assert_ne!(status, 200, "a blocked patron gets no response without blocks: {body}");
                let readiness = w.get_json_any_status("/admin/ready").await;
                let problems = readiness["problems"].as_array().unwrap();
                let named = problems.iter().any(|problem| {
                    let text = problem["problem"].as_str().unwrap_or_default();
                    problem["part"] == "tenants" && text.contains("northlib")
                });
                status == 503 && named
            })
            .await;
        assert_eq!(world.get("/admin/ready").await.0, 503);
        publish(world, &topic, user, 2).await;
        let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(1440));
        world.publish(Kind::ItemCheckedOut, &payload).await;
        let event = world.post("/automated-patron-blocks/handlers/item-checked-out", &payload);
        assert_eq!(event.await.0, 503, "the sender of an HTTP event has to retry");
        assert_eq!(world.count(OPEN_LOANS).await, 2);

        locked.rollback().await.unwrap();
        world
            .until("the service is ready", async |w: &World| w.get("/admin/ready").await.0 == 200)
            .await;
        assert_eq!(world.block_flags(user).await.len(), 1);
        until_committed_to(world, 3).await;
        world.until_committed().await;
        // If the migration took long, records of the collection became dead letters for a while.
        world.until("all loans are open", async |w: &World| w.count(OPEN_LOANS).await == 5).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_recreated_by_older_instance_is_migrated() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        // An instance of the previous version purges the tenant and enables it again.
        let recreated_tenant = format!(
            "delete from mod_patron_blocks.tenant;
             {VERSION_BEFORE};
             insert into mod_patron_blocks.tenant (tenant, enabled, module_id, changed_at)
             values ('{TENANT}', true, 'mod-patron-blocks-1.9.0', now());
             select pg_notify('mod_patron_blocks_tenant', '{TENANT}')"
        );
        world.execute_sql(&recreated_tenant).await;
        let migrated = "select count(*) from {schema}._sqlx_migrations where version = 14";
        world.until("the schema is migrated", async |w: &World| w.count(migrated).await == 1).await;
        world
            .until("the evaluation succeeds", async |w: &World| {
                w.get(&format!("/automated-patron-blocks/{user}")).await.0 == 200
            })
            .await;
        assert_eq!(world.block_flags(user).await.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tenant_is_rejected_while_writers_wait() {
    // Writers wait longer for the lock than a caller waits for a connection of the writers.
    let long_timeout =
        |config: &mut Config| config.database.statement_timeout = Duration::from_secs(30);
    World::run_with(long_timeout, async |world| {
        let writers = world.config.kafka.writers;
        for partition in 0..2 {
            let payload =
                check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60)).to_string();
            let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
            let payload = Some(payload.as_bytes());
            let draft = OutgoingRecord { topic, headers: vec![], payload, timestamp: None };
            world.log.send_to_partition(partition, draft).await;
        }
        world.until_committed().await;
        let locked = lock(world, &[TENANT], WRITERS).await;
        world
            .until("all writers wait for locks", async |w: &World| {
                let payload = check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60));
                for kind in [Kind::ItemCheckedOut, Kind::ItemCheckedIn, Kind::LoanClosed] {
                    w.publish(kind, &payload).await;
                }
                w.count(LOCK_WAITERS).await >= i64::from(writers)
            })
            .await;
        let path = format!("/user-summary/{}", Uuid::new_v4());
        let request = world.request(Method::GET, &path).header("X-Okapi-Tenant", "nowhere");
        assert_eq!(request.send().await.unwrap().status(), 400);
        locked.rollback().await.unwrap();
        world.until_committed().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_migrations_leave_connections_for_ingest() {
    World::run(async |world| {
        // More migrations wait for their locks than the writers have connections.
        let number = world.config.database.max_connections;
        let tenants: Vec<String> = (0..number).map(|n| format!("lib{n}")).collect();
        let ids: Vec<&str> = tenants.iter().map(String::as_str).collect();
        let locked = lock(world, &ids, MIGRATIONS).await;
        for tenant in &tenants {
            let install = world.request(Method::POST, "/_/tenant");
            let install = install.header("X-Okapi-Tenant", tenant);
            let install = install.json(&json!({ "module_to": "mod-patron-blocks-2.0.0" }));
            assert_eq!(install.send().await.unwrap().status(), 201);
        }
        let tries = "select count(*) from pg_stat_activity where datname = current_database()
                      and application_name like '%work' and query like '%pg_try_advisory_lock%'";
        world.until("a migration tries its lock", async |w: &World| w.count(tries).await > 0).await;
        let user = blocked_patron(world).await;
        assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 200);
        locked.rollback().await.unwrap();
        let installed =
            "select count(*) from mod_patron_blocks.tenant where tenant like 'lib%' and enabled";
        world
            .until("all tenants are installed", async |w: &World| {
                w.count(installed).await == i64::from(number)
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_may_exceed_the_statement_timeout() {
    with_database(async |login| {
        let db = pool(&login);
        for sql in [
            "create function slow_down() returns event_trigger language plpgsql as
             $$ begin perform pg_sleep(0.3); end $$",
            "create event trigger slow_down on ddl_command_start when tag in ('CREATE TABLE')
             execute function slow_down()",
        ] {
            sqlx::query(AssertSqlSafe(sql)).execute(&db).await.unwrap();
        }
        let statement_timeout = Duration::from_millis(150);
        let acquire_timeout = Duration::from_secs(60);
        let settings = PoolSettings {
            name: "story",
            max_connections: 2,
            acquire_timeout,
            statement_timeout,
            verify_on_release: false,
        };
        let quick = store::pool(&login, settings);
        let tenant = TenantId::parse(TENANT).unwrap();
        migrate::module(&quick).await.unwrap();
        migrate::tenant(&quick, &tenant, &Schema::of(&tenant)).await.unwrap();
        for pool in [quick, db] {
            pool.close().await;
        }
    })
    .await;
}
