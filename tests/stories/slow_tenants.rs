//! Slow work: it runs in steps and delays no other tenant.

use chrono::TimeDelta;
use patron_blocks::{config::Config, event::Kind};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Executor};
use uuid::Uuid;

use super::upgrades::{collection_topic, publish};
use crate::support::{
    log::OutgoingRecord,
    payloads::{check_out, entity_change, minutes_from_now, now},
    world::{TENANT, World},
};

const OUT: Kind = Kind::ItemCheckedOut;

async fn open_loans(world: &World, user: Uuid) -> usize {
    let summary = world.get_json_or_null(&format!("/user-summary/{user}")).await;
    summary["openLoans"].as_array().map_or(0, Vec::len)
}

/// A single statement that ends all loans would exceed the statement timeout on any machine.
#[tokio::test(flavor = "multi_thread")]
async fn all_loans_are_closed_in_timely_steps() {
    World::run(async |world| {
        let (user, later) = (Uuid::new_v4(), Uuid::new_v4());
        world.publish(OUT, &check_out(user, Uuid::new_v4(), &minutes_from_now(60))).await;
        world.until_committed().await;
        world
            .execute_sql(
                "insert into {schema}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date)
                 select gen_random_uuid(), check_out_stamp, gen_random_uuid(), check_out_due_date
                   from {schema}.loan, generate_series(1, 4000);
                 insert into {schema}.patron_counter (user_id, open_loans, lost_loans, claimed_returned_loans,
                   recalled_loans, open_fees_fines, fee_fine_balance)
                 select user_id, 1, 0, 0, 0, 0, 0 from {schema}.loan on conflict do nothing;
                 create function {schema}.take_time() returns trigger language plpgsql as
                   'begin perform pg_sleep(0.001); return new; end';
                 create trigger take_time before update on {schema}.loan
                   for each row execute function {schema}.take_time()",
            )
            .await;
        let at = now() + TimeDelta::seconds(1);
        world.publish(Kind::StoredLoan, &entity_change("ALL_DELETED", &Value::Null, at)).await;
        let open = "select count(*) from {schema}.loan where is_open";
        world.until("all loans are closed", async |w: &World| w.count(open).await == 0).await;
        world.until("the time has passed", async |_: &World| now() > at).await;
        let out = check_out(later, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(OUT, &crate::support::payloads::in_envelope(&out, now())).await;
        world.until_committed().await;
        assert_eq!((world.count(open).await, open_loans(world, later).await), (1, 1));
    })
    .await;
}

/// With one lane, a waiting tenant would delay all others.
#[tokio::test(flavor = "multi_thread")]
async fn tenant_with_locked_tables_delays_no_other_tenant() {
    let one_lane = |config: &mut Config| config.kafka.writers = 1;
    World::run_with(one_lane, async |world| {
        let install = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let install = world.request(reqwest::Method::POST, "/_/tenant").json(&install);
        let install = install.header("X-Okapi-Tenant", "southlib").send().await.unwrap();
        assert_eq!(install.status(), 201);
        let other_topic = world.log.topic("southlib", OUT);
        let all = world.log.topic("ALL", OUT);
        world.log.create_topics(vec![other_topic.clone(), all.clone()]).await;
        let there = "select count(*) from mod_patron_blocks.tenant
                      where tenant = 'southlib' and enabled and initial_fill_id is null";
        world.until("the other tenant is enabled", async |w: &World| w.count(there).await == 1).await;
        let mut locked = world.db.begin().await.unwrap();
        let lock = "lock table southlib_mod_patron_blocks.loan in exclusive mode";
        (*locked).execute(AssertSqlSafe(lock)).await.unwrap();

        let user = Uuid::new_v4();
        let payload = || check_out(user, Uuid::new_v4(), &minutes_from_now(60)).to_string();
        let place = async |topic: &str, tenant: &str| {
            let payload = payload();
            let draft = OutgoingRecord {
                topic: topic.to_owned(),
                headers: vec![("folio.tenantId", tenant)],
                payload: Some(payload.as_bytes()),
                timestamp: None,
            };
            world.log.send_untracked(draft).await;
        };
        let open = "select count(*) from mod_patron_blocks.incident
                     where kind = 'tenant_unusable' and resolved_at is null and tenant = 'southlib'";
        for _ in 0..3 {
            place(&other_topic, "southlib").await;
            place(&all, "southlib").await;
        }
        world.until("the incident is open", async |w: &World| w.count(open).await > 0).await;
        for _ in 0..3 {
            place(&all, TENANT).await;
            world.publish(OUT, &check_out(user, Uuid::new_v4(), &minutes_from_now(60))).await;
        }
        world
            .until("the records of the other tenant are applied", async |w: &World| {
                open_loans(w, user).await == 6
            })
            .await;
        let read = "select count(*) from southlib_mod_patron_blocks.inbox";
        assert_eq!(world.count(read).await, 0, "the records of the locked tenant wait");
        locked.rollback().await.unwrap();
        // In the shared topic, the records became dead letters, and the service retries them.
        world.until("all waiting records are applied", async |w: &World| w.count(read).await == 6).await;
        world.until("the incident is resolved", async |w: &World| w.count(open).await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_waiting_record_delays_no_other_record() {
    World::run(async |world| {
        let topic = collection_topic(world).await;
        let user = Uuid::new_v4();
        publish(world, &topic, user, 1).await;
        let applied = "select count(*) from {schema}.inbox";
        world.until("the patron is known", async |w: &World| w.count(applied).await == 1).await;
        let lock = |sql: &str| sql.replace("{schema}", world.schema.name());
        let mut table = world.db.begin().await.unwrap();
        let exclusive = lock("lock table {schema}.loan in exclusive mode");
        (*table).execute(AssertSqlSafe(exclusive)).await.unwrap();
        publish(world, &topic, user, 1).await;
        for _ in 0..3 {
            publish(world, &topic, Uuid::new_v4(), 1).await;
        }
        let waiting =
            format!("select count(*) from mod_patron_blocks.dead_letter where tenant = '{TENANT}'");
        world.until("four records wait", async |w: &World| w.count(&waiting).await == 4).await;

        // From now on, only the counters of one patron are locked.
        let mut row = world.db.begin().await.unwrap();
        let counters = lock("select from {schema}.patron_counter for update");
        (*row).execute(AssertSqlSafe(counters)).await.unwrap();
        table.rollback().await.unwrap();
        world.until("the others are applied", async |w: &World| w.count(applied).await == 4).await;
        assert_eq!(world.count(&waiting).await, 1);
        row.rollback().await.unwrap();
        world.until("all are applied", async |w: &World| w.count(&waiting).await == 0).await;
        assert_eq!(open_loans(world, user).await, 2);
        let open = "select count(*) from mod_patron_blocks.incident where resolved_at is null";
        world.until("no incident is open", async |w: &World| w.count(open).await == 0).await;
    })
    .await;
}
