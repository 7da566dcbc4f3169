//! Requests of operators: no evaluation waits for them, and every one is bounded.

use std::time::Duration;

use futures_util::future::join_all;
use patron_blocks::{
    blocks::Measure,
    event::{Kind, TenantId},
    store::{self, Tx},
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::time::timeout;
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    log::OutgoingRecord,
    payloads::{balance_change, check_out, minutes_from_now},
    world::{TENANT, World},
};

const DEAD_LETTERS: &str = "/patron-blocks/dead-letters";
const DEAD_LETTER_COUNT: &str = "select count(*) from {schema}.dead_letter";

/// Returns a patron with every action blocked.
async fn blocked_patron(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    world.add_limit(group, Measure::ChargedOut, 0.0).await;
    let user = world.users.add_patron(group);
    let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &payload).await;
    world.until_committed().await;
    assert_eq!(world.block_flags(user).await, [[true; 3]]);
    user
}

/// Locks the dead letters until the transaction ends, so lists of dead letters block.
async fn lock_dead_letters(world: &World) -> Tx {
    let mut tx = store::begin(&world.db).await.unwrap();
    let lock = format!("lock table {}.dead_letter", world.schema.name());
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
    tx
}

async fn until_lock_wait(world: &World) {
    let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock'";
    world.until("a session waits for a lock", async |w: &World| w.count(waiting).await > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_operator_list_does_not_delay_evaluations() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        let tx = lock_dead_letters(world).await;
        let world = &*world;
        // More requests than connections, including the other requests that query dead letters.
        let explanation = format!("/patron-blocks/explanations/{user}");
        let paths = [
            DEAD_LETTERS,
            &explanation,
            "/patron-blocks/ingest",
            "/metrics",
            DEAD_LETTERS,
            DEAD_LETTERS,
            DEAD_LETTERS,
        ];
        let lists = join_all(paths.map(|path| world.get(path)));
        let evaluations = async {
            until_lock_wait(world).await;
            for _ in 0..20 {
                assert_eq!(world.block_flags(user).await, [[true; 3]], "during slow lists");
            }
            until_lock_wait(world).await;
            tx.rollback().await.unwrap();
        };
        tokio::join!(lists, evaluations);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn excess_operator_requests_do_not_block_evaluations() {
    World::run(async |world| {
        let user = blocked_patron(world).await;
        let tx = lock_dead_letters(world).await;
        let world = &*world;
        let lists = join_all((0..700).map(|_| async { world.get(DEAD_LETTERS).await.0 }));
        let evaluations = async {
            until_lock_wait(world).await;
            for _ in 0..20 {
                assert_eq!(
                    world.block_flags(user).await,
                    [[true; 3]],
                    "during queued operator requests"
                );
            }
        };
        let (statuses, ()) = tokio::join!(lists, evaluations);
        tx.rollback().await.unwrap();
        let rejected = statuses.iter().filter(|status| **status == 503).count();
        assert!(rejected > 50, "{rejected} requests were rejected at once");
    })
    .await;
}

/// Inserts dead letters with incompressible payloads of this many bytes.
async fn insert_dead_letters(world: &World, number: u32, bytes: u32) {
    let sql = format!(
        "insert into {{schema}}.dead_letter
           (dead_letter_id, reason, rule, topic, partition, \"offset\", received_at, headers, key, payload)
         select gen_random_uuid(), 'bad_field', 'r', 't', 0, n, now(), '[[\"x\", \"y\"]]', 'k',
                (select string_agg(decode(md5(random()::text || i || n), 'hex'), '')
                   from generate_series(1, {bytes} / 16) i)
           from generate_series(1, {number}) n"
    );
    world.execute_sql(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letter_list_omits_payloads_and_item_has_it() {
    World::run(async |world| {
        insert_dead_letters(world, 40, 100_000).await;
        let (status, page) = world.get(&format!("{DEAD_LETTERS}?limit=2147483647")).await;
        assert_eq!(status, 200);
        assert!(page.len() < 40_000, "a page of 40 letters has {} bytes", page.len());
        let page: Value = serde_json::from_str(&page).unwrap();
        assert_eq!(page["totalRecords"], 40);
        let first = &page["deadLetters"][0];
        assert_eq!((&first["payloadBytes"], first.get("payload")), (&json!(100_000), None));
        let one = format!("{DEAD_LETTERS}/{}", first["id"].as_str().unwrap());
        let one = world.get_json(&one).await;
        assert_eq!(one["payloadBytes"], 100_000);
        assert!(one["payload"]["base64"].as_str().unwrap().len() > 100_000);
        assert_eq!(one["headers"], json!([{ "name": "x", "value": "y" }]));
        world.take_dead_letters().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn page_size_is_capped_and_next_page_continues() {
    World::run(async |world| {
        insert_dead_letters(world, 1100, 16).await;
        let page = world.get_json(&format!("{DEAD_LETTERS}?limit=5000")).await;
        let rest = world.get_json(&format!("{DEAD_LETTERS}?limit=5000&offset=1000")).await;
        let number = |page: &Value| page["deadLetters"].as_array().unwrap().len();
        assert_eq!((number(&page), number(&rest)), (1000, 100));
        assert_eq!((&page["totalRecords"], &rest["totalRecords"]), (&json!(1100), &json!(1100)));
        world.take_dead_letters().await;

        // Limits may have additional members from clients. A page of limits ends before it gets too
        // long.
        let groups = Uuid::new_v4();
        let large_limits = format!(
            "insert into {{schema}}.patron_block_limits (id, jsonb, conditionid)
             select id, jsonb_build_object('id', id, 'patronGroupId', '{groups}', 'value', 1, 'conditionId', c,
                      'note', repeat('x', 900000)), c
               from (select gen_random_uuid() as id, '{}'::uuid as c from generate_series(1, 9)) n",
            Measure::ChargedOut.condition_id()
        );
        world.execute_sql(&large_limits).await;
        let (_, page) = world.get("/patron-block-limits?limit=1500").await;
        assert!(page.len() < 3_000_000, "a page has {} bytes", page.len());
        let page: Value = serde_json::from_str(&page).unwrap();
        let first = page["patronBlockLimits"].as_array().unwrap().len();
        assert_eq!((first > 0, &page["totalRecords"]), (true, &json!(9)));
        let next = world.get_json(&format!("/patron-block-limits?limit=1500&offset={first}")).await;
        assert!(!next["patronBlockLimits"].as_array().unwrap().is_empty());
        // One page of ordinary limits satisfies the settings page.
        let usual = format!(
            "delete from {{schema}}.patron_block_limits;
             insert into {{schema}}.patron_block_limits (id, jsonb, conditionid)
             select id, jsonb_build_object('id', id, 'patronGroupId', '{groups}', 'value', 1, 'conditionId', c,
                      'metadata', jsonb_build_object('createdDate', '2026-08-21T09:15:02.417+00:00',
                        'createdByUserId', id, 'updatedDate', '2026-08-21T09:15:02.417+00:00',
                        'updatedByUserId', id)), c
               from (select gen_random_uuid() as id, '{}'::uuid as c from generate_series(1, 1500)) n",
            Measure::ChargedOut.condition_id()
        );
        world.execute_sql(&usual).await;
        let page = world.get_json("/patron-block-limits?limit=1500").await;
        assert_eq!(page["patronBlockLimits"].as_array().unwrap().len(), 1500);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_and_limits_have_a_maximum_length() {
    World::run(async |world| {
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let mut condition = world.get_json(&path).await;
        condition["blockBorrowing"] = json!(true);
        condition["message"] = json!("ä".repeat(4000));
        assert_eq!(world.put(&path, &condition).await.0, 204);
        condition["message"] = json!("ä".repeat(4001));
        let (status, why) = world.put(&path, &condition).await;
        assert!(status == 422 && why.contains("must not be longer than 4000 characters"), "{why}");
        assert!(why.len() < 1000, "the response repeats the whole value: {} bytes", why.len());
        condition["message"] = json!("short");
        condition["note"] = json!("x".repeat(100_000));
        assert_eq!(world.put(&path, &condition).await.0, 422);
        let limit = json!({
            "id": Uuid::new_v4(), "patronGroupId": Uuid::new_v4(), "value": 1,
            "conditionId": Measure::ChargedOut.condition_id(), "note": "x".repeat(100_000),
        });
        assert_eq!(world.post("/patron-block-limits", &limit).await.0, 422);
    })
    .await;
}

/// PostgreSQL writes all digits of a number: seven characters can become a megabyte in a response.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_expand_when_stored_are_rejected() {
    World::run(async |world| {
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let condition = world.get_json(&path).await;
        let limit = json!({
            "id": Uuid::new_v4(), "patronGroupId": Uuid::new_v4(), "value": 1,
            "conditionId": Measure::ChargedOut.condition_id(),
        });
        let enable = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let long = "7".repeat(41);
        let exact = format!("0.{}", "1".repeat(40));
        for bad in ["1e131000", "-1E+400", "1e-16000", "0e-16000", "0.0e-400", &long, &exact] {
            let number: Value = serde_json::from_str(bad).unwrap();
            for note in [number.clone(), json!({ "deep": [[1, { "er": number }]] })] {
                let with = |record: &Value| {
                    let mut record = record.clone();
                    record["note"] = note.clone();
                    record
                };
                let answers = [
                    world.put(&path, &with(&condition)).await,
                    world.post("/patron-block-limits", &with(&limit)).await,
                    world.post("/_/tenant", &with(&enable)).await,
                ];
                for (status, why) in answers {
                    assert!(status == 400 && why.contains("number"), "{bad}: {status} {why}");
                }
            }
        }
        let mut usual = limit.clone();
        usual["note"] =
            serde_json::from_str("[0, -1, 12.50, 1e300, -5e-324, 1.7976931348623157E+308]")
                .unwrap();
        assert_eq!(world.post("/patron-block-limits", &usual).await.0, 201);
        let stored = world.get_json("/patron-block-limits").await;
        assert_eq!(stored["patronBlockLimits"][0]["note"][2].to_string(), "12.50");
    })
    .await;
}

/// Connections of operators with the lookup of a tenant as their last statement.
const TENANT_LOOKUPS: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and application_name = 'mod-patron-blocks operators'
      and query like 'select enabled_at, initial_fill_id%'";

#[tokio::test(flavor = "multi_thread")]
async fn unknown_tenant_job_uses_no_writer_connection() {
    World::run(async |world| {
        assert_eq!(world.count(TENANT_LOOKUPS).await, 0);
        let path = format!("/_/tenant/{}", Uuid::new_v4());
        let ask = world.request(Method::GET, &path).header("X-Okapi-Tenant", "southlib");
        let answer = ask.send().await.unwrap();
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.text().await.unwrap(), "Tenant not found southlib");
        assert_eq!(world.count(TENANT_LOOKUPS).await, 1, "over a connection of operators");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tenant_job_starts_while_operator_connections_are_busy() {
    World::run(async |world| {
        let tx = lock_dead_letters(world).await;
        let world = &*world;
        // More lists than can time out while the story waits for the job.
        let lists = join_all((0..100).map(|_| world.get(DEAD_LETTERS)));
        let install = async {
            let waiting = "select count(*) from pg_stat_activity
                            where datname = current_database() and wait_event_type = 'Lock'
                              and application_name = 'mod-patron-blocks operators'";
            let busy = async |w: &World| w.count(waiting).await == 2;
            world.until("both connections are busy", busy).await;
            let attributes = json!({ "module_to": "mod-patron-blocks-2.0.0" });
            let ask = world.request(Method::POST, "/_/tenant").json(&attributes);
            let answer = ask.header("X-Okapi-Tenant", TENANT).send().await.unwrap();
            let (status, at) = (answer.status(), answer.headers().get("Location").cloned());
            let body = answer.text().await.unwrap();
            tx.rollback().await.unwrap();
            assert_eq!(status, 201, "{body}");
            let job: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((&job["complete"], &job["tenantAttributes"]), (&json!(false), &attributes));
            assert_eq!(at.unwrap(), format!("/_/tenant/{}", job["id"].as_str().unwrap()));
            job
        };
        let (_, job) = tokio::join!(lists, install);
        let path = format!("/_/tenant/{}?wait=60000", job["id"].as_str().unwrap());
        assert_eq!(world.get_json(&path).await["complete"], true);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_retry_ends_while_database_is_unresponsive() {
    World::run(async |world| {
        let bad = "alter table {schema}.fee_fine add constraint small check (balance < 5)";
        world.execute_sql(bad).await;
        world
            .publish(
                Kind::FeeFineBalanceChanged,
                &balance_change(Uuid::new_v4(), Uuid::new_v4(), None, 9.0),
            )
            .await;
        world.until_committed().await;
        world
            .until("a dead letter is stored", async |w: &World| {
                w.count(DEAD_LETTER_COUNT).await == 1
            })
            .await;
        let id =
            world.get_json(DEAD_LETTERS).await["deadLetters"][0]["id"].as_str().unwrap().to_owned();
        // After a retry of many, the response names the letter after which the next request continues.
        for (path, expected) in [
            (format!("{DEAD_LETTERS}/{id}/retry"), 500),
            (format!("{DEAD_LETTERS}/retry?query=cql.allRecords=1"), 200),
        ] {
            // The retry waits for the tenant lock, and its connection goes silent during the wait.
            let mut tx = store::begin(&world.db).await.unwrap();
            let tenant = TenantId::parse(TENANT).unwrap();
            store::tenants::lock_exclusive(&mut tx, &tenant).await.unwrap();
            let world = &*world;
            let retry = async {
                let nothing = json!({});
                timeout(Duration::from_secs(30), world.post(&path, &nothing)).await
            };
            let fall_silent = async {
                until_lock_wait(world).await;
                world.proxy.freeze();
                tx.rollback().await.unwrap();
            };
            let (answer, ()) = tokio::join!(retry, fall_silent);
            let (status, text) = answer.expect("the retry returns a response");
            assert_eq!(status, expected, "{text}");
            assert_eq!(text.contains(&id), expected == 200, "{text}");
            world.proxy.restore();
        }
        world.execute_sql("alter table {schema}.fee_fine drop constraint small").await;
        world
            .until("the database is available again", async |w: &World| {
                w.post(&format!("{DEAD_LETTERS}/{id}/retry"), &json!({})).await.0 != 500
            })
            .await;
        world
            .until("the dead letter is applied", async |w: &World| {
                w.count(DEAD_LETTER_COUNT).await == 0
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn update_ends_while_database_is_unresponsive() {
    World::run(async |world| {
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let condition = world.get_json(&path).await;
        let mut tx = store::begin(&world.db).await.unwrap();
        let lock =
            format!("select from {}.patron_block_conditions for update", world.schema.name());
        sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
        let world = &*world;
        let change = timeout(Duration::from_secs(50), world.put(&path, &condition));
        let fall_silent = async {
            until_lock_wait(world).await;
            world.proxy.freeze();
            tx.rollback().await.unwrap();
        };
        let (answer, ()) = tokio::join!(change, fall_silent);
        assert_eq!(answer.expect("the request returns a response").0, 500);
        world.proxy.restore();
        world
            .until("the database is available again", async |w: &World| {
                w.put(&path, &condition).await.0 == 204
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_cli_resolves_shared_incidents() {
    World::run(async |world| {
        let (shared, own, other_tenant) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        for (id, tenant) in
            [(shared, "null".to_owned()), (own, format!("'{TENANT}'")), (other_tenant, "'eastlib'".into())]
        {
            let raise = format!(
                "insert into mod_patron_blocks.incident (incident_id, kind, tenant, topic, partition,
                   from_offset, to_offset, detail, raised_at)
                 values ('{id}', 'partition_stopped', {tenant}, 'a topic', 0, 1, 2, 'stopped', now())"
            );
            world.execute_sql(&raise).await;
        }
        let resolve = async |id: Uuid| {
            world.post(&format!("/patron-blocks/incidents/{id}/resolve"), &json!({})).await
        };
        let seen = world.get_json("/patron-blocks/ingest").await["incidents"].to_string();
        assert!(seen.contains(&shared.to_string()) && !seen.contains(&other_tenant.to_string()));
        let (status, why) = resolve(shared).await;
        assert!(status == 403 && why.contains("command line"), "{status} {why}");
        assert_eq!(resolve(other_tenant).await.0, 404);
        assert_eq!(resolve(own).await.0, 204);
        let (code, output) =
            run_cli(world, &["incidents", "resolve", "--tenant", TENANT, &shared.to_string()]);
        assert_eq!(code, Some(2), "a tenant cannot resolve the incident: {output}");
        let done = run_cli(world, &["incidents", "resolve", &shared.to_string()]);
        assert_eq!(done, (Some(0), "resolved\n".to_owned()));
        assert_eq!(world.take_incidents().await, ["partition_stopped"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_label_only_enabled_tenants() {
    World::run(async |world| {
        let unknown_tenant = format!("t{}", &Uuid::new_v4().simple().to_string()[..20]);
        let all = world.log.topic("ALL", Kind::ItemCheckedOut);
        world.log.create_topics(vec![all.clone()]).await;
        let payload = check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60)).to_string();
        let draft = |tenant| OutgoingRecord {
            topic: all.clone(),
            headers: vec![("folio.tenantId", tenant)],
            payload: Some(payload.as_bytes()),
            timestamp: None,
        };
        let (_, partition, offset) = world.log.send_untracked(draft(&unknown_tenant)).await;
        let read = format!(
            "select count(*) from mod_patron_blocks.ingest_position
              where topic = '{all}' and partition = {partition} and next_offset > {offset}"
        );
        world.until("the records are read", async |w: &World| w.count(&read).await == 1).await;
        let (_, metrics) = world.get("/metrics").await;
        assert!(!metrics.contains(&unknown_tenant), "a record adds no metrics");

        // The same applies to a caller who disables an unknown tenant.
        let purge =
            world.request(Method::POST, "/_/tenant").header("X-Okapi-Tenant", &unknown_tenant);
        let purge = purge.json(&json!({ "module_from": "mod-patron-blocks-2.0.0" }));
        assert_eq!(purge.send().await.unwrap().status(), 204);
        let unknown_tenant = TenantId::parse(&unknown_tenant).unwrap();
        assert!(
            !patron_blocks::metrics::recorder().is_hidden(&unknown_tenant),
            "an unknown tenant has no hidden metrics"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bad_records_do_not_fill_the_disk() {
    World::run(async |world| {
        world.stop().await;
        world.config.housekeeping.dead_letters_bytes_max = 2 << 20;
        world.start().await;
        let mut seed = 1_u32;
        for _ in 0..80 {
            // Incompressible bytes that are not JSON.
            let bytes: Vec<u8> = (0..100_000)
                .map(|_| {
                    seed ^= seed << 13;
                    seed ^= seed >> 17;
                    seed ^= seed << 5;
                    seed.to_be_bytes()[0]
                })
                .collect();
            world.log.publish(Kind::LoanClosed, &bytes).await;
        }
        let size = "select coalesce(sum(octet_length(payload)), 0)::int8 from {schema}.dead_letter";
        world.until_committed().await;
        world
            .until("the oldest dead letters are deleted", async |w: &World| {
                w.count(size).await <= 3 << 20
            })
            .await;
        assert!(world.count(size).await > 1 << 20, "housekeeping deletes only the surplus");
        world.take_dead_letters().await;
    })
    .await;
}
