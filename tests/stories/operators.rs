//! What operators ask: nobody at a desk waits for it, and all of it is bounded.

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

use crate::{
    binary::console,
    facts::{check_out, fee, minutes_from_now},
    log::Draft,
    world::{TENANT, World},
};

const LETTERS: &str = "/patron-blocks/dead-letters";
const EVERY: &str = "select count(*) from {schema}.dead_letter";

/// A patron who is blocked from everything.
async fn blocked(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    world.limit(group, Measure::ChargedOut, 0.0).await;
    let user = world.users.patron(group);
    let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
    world.publish(Kind::ItemCheckedOut, &payload).await;
    world.settled().await;
    assert_eq!(world.blocks(user).await, [[true; 3]]);
    user
}

/// Locks the dead letters until the transaction ends: lists of them are slow.
async fn locked(world: &World) -> Tx {
    let mut tx = store::begin(&world.db).await.unwrap();
    let lock = format!("lock table {}.dead_letter", world.schema.name());
    sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
    tx
}

async fn somebody_waits_for_a_lock(world: &World) {
    let waiting = "select count(*) from pg_stat_activity
                    where datname = current_database() and wait_event_type = 'Lock'";
    world.until("somebody waits", async |w: &World| w.count(waiting).await > 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_slow_list_keeps_no_desk_waiting() {
    World::tell(async |world| {
        let user = blocked(world).await;
        let tx = locked(world).await;
        let world = &*world;
        // Some more than there are connections; what else asks for dead letters is among it.
        let paths = [LETTERS, "/patron-blocks/ingest", "/metrics", LETTERS, LETTERS, LETTERS];
        let lists = join_all(paths.map(|path| world.get(path)));
        let desk = async {
            somebody_waits_for_a_lock(world).await;
            for _ in 0..20 {
                assert_eq!(world.blocks(user).await, [[true; 3]], "while lists are slow");
            }
            somebody_waits_for_a_lock(world).await;
            tx.rollback().await.unwrap();
        };
        tokio::join!(lists, desk);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_operators_than_can_be_served_keep_no_desk_out() {
    World::tell(async |world| {
        let user = blocked(world).await;
        let tx = locked(world).await;
        let world = &*world;
        let lists = join_all((0..700).map(|_| async { world.get(LETTERS).await.0 }));
        let desk = async {
            somebody_waits_for_a_lock(world).await;
            for _ in 0..20 {
                assert_eq!(world.blocks(user).await, [[true; 3]], "while operators queue");
            }
        };
        let (statuses, ()) = tokio::join!(lists, desk);
        tx.rollback().await.unwrap();
        let sent_away = statuses.iter().filter(|status| **status == 503).count();
        assert!(sent_away > 50, "{sent_away} were sent away at once");
    })
    .await;
}

/// Letters with payloads of so many bytes that can't be made smaller.
async fn park(world: &World, number: u32, bytes: u32) {
    let sql = format!(
        "insert into {{schema}}.dead_letter
           (dead_letter_id, reason, rule, topic, partition, \"offset\", received_at, headers, key, payload)
         select gen_random_uuid(), 'bad_field', 'r', 't', 0, n, now(), '[[\"x\", \"y\"]]', 'k',
                (select string_agg(decode(md5(random()::text || i || n), 'hex'), '')
                   from generate_series(1, {bytes} / 16) i)
           from generate_series(1, {number}) n"
    );
    world.meddle(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_large_letters_is_small_and_one_is_whole() {
    World::tell(async |world| {
        park(world, 40, 100_000).await;
        let (status, page) = world.get(&format!("{LETTERS}?limit=2147483647")).await;
        assert_eq!(status, 200);
        assert!(page.len() < 40_000, "a page of 40 letters has {} bytes", page.len());
        let page: Value = serde_json::from_str(&page).unwrap();
        assert_eq!(page["totalRecords"], 40);
        let first = &page["deadLetters"][0];
        assert_eq!((&first["payloadBytes"], first.get("payload")), (&json!(100_000), None));
        let one = format!("{LETTERS}/{}", first["id"].as_str().unwrap());
        let one = world.read(&one).await;
        assert_eq!(one["payloadBytes"], 100_000);
        assert!(one["payload"]["base64"].as_str().unwrap().len() > 100_000);
        assert_eq!(one["headers"], json!([{ "name": "x", "value": "y" }]));
        world.take_dead_letters().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_has_a_most_and_the_next_one_goes_on() {
    World::tell(async |world| {
        park(world, 1100, 16).await;
        let page = world.read(&format!("{LETTERS}?limit=5000")).await;
        let rest = world.read(&format!("{LETTERS}?limit=5000&offset=1000")).await;
        let number = |page: &Value| page["deadLetters"].as_array().unwrap().len();
        assert_eq!((number(&page), number(&rest)), (1000, 100));
        assert_eq!((&page["totalRecords"], &rest["totalRecords"]), (&json!(1100), &json!(1100)));
        world.take_dead_letters().await;

        // Limits have whatever members their writers gave them. A page of them ends before it gets too long.
        let groups = Uuid::new_v4();
        let wide = format!(
            "insert into {{schema}}.patron_block_limits (id, jsonb, conditionid)
             select id, jsonb_build_object('id', id, 'patronGroupId', '{groups}', 'value', 1, 'conditionId', c,
                      'note', repeat('x', 900000)), c
               from (select gen_random_uuid() as id, '{}'::uuid as c from generate_series(1, 9)) n",
            Measure::ChargedOut.condition_id()
        );
        world.meddle(&wide).await;
        let (_, page) = world.get("/patron-block-limits?limit=1500").await;
        assert!(page.len() < 3_000_000, "a page has {} bytes", page.len());
        let page: Value = serde_json::from_str(&page).unwrap();
        let first = page["patronBlockLimits"].as_array().unwrap().len();
        assert_eq!((first > 0, &page["totalRecords"]), (true, &json!(9)));
        let next = world.read(&format!("/patron-block-limits?limit=1500&offset={first}")).await;
        assert!(!next["patronBlockLimits"].as_array().unwrap().is_empty());
        // A page of ordinary ones has all that the settings' page asks for.
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
        world.meddle(&usual).await;
        let page = world.read("/patron-block-limits?limit=1500").await;
        assert_eq!(page["patronBlockLimits"].as_array().unwrap().len(), 1500);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_for_desks_has_a_bounded_length() {
    World::tell(async |world| {
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let mut condition = world.read(&path).await;
        condition["blockBorrowing"] = json!(true);
        condition["message"] = json!("ä".repeat(4000));
        assert_eq!(world.put(&path, &condition).await.0, 204);
        condition["message"] = json!("ä".repeat(4001));
        let (status, why) = world.put(&path, &condition).await;
        assert!(status == 422 && why.contains("must not be longer than 4000 characters"), "{why}");
        assert!(why.len() < 1000, "the answer repeats all of it: {} bytes", why.len());
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

/// PostgreSQL writes out all digits of a number: seven characters can be a megabyte in an answer.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_grow_when_stored_are_refused() {
    World::tell(async |world| {
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let condition = world.read(&path).await;
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
        let stored = world.read("/patron-block-limits").await;
        assert_eq!(stored["patronBlockLimits"][0]["note"][2].to_string(), "12.50");
    })
    .await;
}

/// A connection of operators whose last statement looked a tenant up.
const LOOKED_UP: &str = "select count(*) from pg_stat_activity
    where datname = current_database() and application_name = 'mod-patron-blocks operators'
      and query like 'select enabled_at, filled_by%'";

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_job_is_no_matter_of_writers() {
    World::tell(async |world| {
        assert_eq!(world.count(LOOKED_UP).await, 0);
        let path = format!("/_/tenant/{}", Uuid::new_v4());
        let ask = world.request(Method::GET, &path).header("X-Okapi-Tenant", "southlib");
        let answer = ask.send().await.unwrap();
        assert_eq!(answer.status(), 404);
        assert_eq!(answer.text().await.unwrap(), "Tenant not found southlib");
        assert_eq!(world.count(LOOKED_UP).await, 1, "over a connection of operators");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_has_begun_though_operators_connections_are_busy() {
    World::tell(async |world| {
        let tx = locked(world).await;
        let world = &*world;
        // More than can time out while the job is waited for.
        let lists = join_all((0..100).map(|_| world.get(LETTERS)));
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
        assert_eq!(world.read(&path).await["complete"], true);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_over_http_ends_while_the_database_says_nothing() {
    World::tell(async |world| {
        let bad = "alter table {schema}.fee_fine add constraint small check (balance < 5)";
        world.meddle(bad).await;
        world
            .publish(Kind::FeeFineBalanceChanged, &fee(Uuid::new_v4(), Uuid::new_v4(), None, 9.0))
            .await;
        world.settled().await;
        world.until("it is parked", async |w: &World| w.count(EVERY).await == 1).await;
        let id = world.read(LETTERS).await["deadLetters"][0]["id"].as_str().unwrap().to_owned();
        // Of many the answer says behind which letter the next request goes on.
        for (path, expected) in [
            (format!("{LETTERS}/{id}/retry"), 500),
            (format!("{LETTERS}/retry?query=cql.allRecords=1"), 200),
        ] {
            // The retry waits for the tenant, and while it does its connection falls silent.
            let mut tx = store::begin(&world.db).await.unwrap();
            let tenant = TenantId::parse(TENANT).unwrap();
            store::tenants::enter_alone(&mut tx, &tenant).await.unwrap();
            let world = &*world;
            let retry = async {
                let nothing = json!({});
                timeout(Duration::from_secs(30), world.post(&path, &nothing)).await
            };
            let fall_silent = async {
                somebody_waits_for_a_lock(world).await;
                world.wire.freeze();
                tx.rollback().await.unwrap();
            };
            let (answer, ()) = tokio::join!(retry, fall_silent);
            let (status, text) = answer.expect("the retry is answered");
            assert_eq!(status, expected, "{text}");
            assert_eq!(text.contains(&id), expected == 200, "{text}");
            world.wire.mend();
        }
        world.meddle("alter table {schema}.fee_fine drop constraint small").await;
        world
            .until("it works again", async |w: &World| {
                w.post(&format!("{LETTERS}/{id}/retry"), &json!({})).await.0 != 500
            })
            .await;
        world.until("it is applied", async |w: &World| w.count(EVERY).await == 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_ends_while_the_database_says_nothing() {
    World::tell(async |world| {
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let condition = world.read(&path).await;
        let mut tx = store::begin(&world.db).await.unwrap();
        let lock =
            format!("select from {}.patron_block_conditions for update", world.schema.name());
        sqlx::query(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
        let world = &*world;
        let change = timeout(Duration::from_secs(50), world.put(&path, &condition));
        let fall_silent = async {
            somebody_waits_for_a_lock(world).await;
            world.wire.freeze();
            tx.rollback().await.unwrap();
        };
        let (answer, ()) = tokio::join!(change, fall_silent);
        assert_eq!(answer.expect("it is answered").0, 500);
        world.wire.mend();
        world
            .until("it works again", async |w: &World| w.put(&path, &condition).await.0 == 204)
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_command_line_resolves_what_tenants_share() {
    World::tell(async |world| {
        let (shared, own, theirs) = (Uuid::new_v4(), Uuid::new_v4(), Uuid::new_v4());
        for (id, tenant) in
            [(shared, "null".to_owned()), (own, format!("'{TENANT}'")), (theirs, "'eastlib'".into())]
        {
            let raise = format!(
                "insert into mod_patron_blocks.incident (incident_id, kind, tenant, topic, partition,
                   from_offset, to_offset, detail, raised_at)
                 values ('{id}', 'partition_stopped', {tenant}, 'a topic', 0, 1, 2, 'stopped', now())"
            );
            world.meddle(&raise).await;
        }
        let resolve = async |id: Uuid| {
            world.post(&format!("/patron-blocks/incidents/{id}/resolve"), &json!({})).await
        };
        let seen = world.read("/patron-blocks/ingest").await["incidents"].to_string();
        assert!(seen.contains(&shared.to_string()) && !seen.contains(&theirs.to_string()));
        let (status, why) = resolve(shared).await;
        assert!(status == 403 && why.contains("command line"), "{status} {why}");
        assert_eq!(resolve(theirs).await.0, 404);
        assert_eq!(resolve(own).await.0, 204);
        let (code, said) =
            console(world, &["incidents", "resolve", "--tenant", TENANT, &shared.to_string()]);
        assert_eq!(code, Some(2), "for one tenant it is not to be resolved: {said}");
        let done = console(world, &["incidents", "resolve", &shared.to_string()]);
        assert_eq!(done, (Some(0), "resolved\n".to_owned()));
        assert_eq!(world.take_incidents().await, ["partition_stopped"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_name_only_tenants_that_are_enabled() {
    World::tell(async |world| {
        let stranger = format!("t{}", &Uuid::new_v4().simple().to_string()[..20]);
        let all = world.log.topic("ALL", Kind::ItemCheckedOut);
        world.log.make(vec![all.clone()]).await;
        let payload = check_out(Uuid::new_v4(), Uuid::new_v4(), &minutes_from_now(60)).to_string();
        let draft = |tenant| Draft {
            topic: all.clone(),
            headers: vec![("folio.tenantId", tenant)],
            payload: Some(payload.as_bytes()),
            timestamp: None,
        };
        let (_, partition, offset) = world.log.place(draft(&stranger)).await;
        let read = format!(
            "select count(*) from mod_patron_blocks.ingest_position
              where topic = '{all}' and partition = {partition} and next_offset > {offset}"
        );
        world.until("it is read", async |w: &World| w.count(&read).await == 1).await;
        let (_, told) = world.get("/metrics").await;
        assert!(!told.contains(&stranger), "a record decides what figures there are");

        // Nor does a caller decide it who disables a tenant that never was.
        let gone = world.request(Method::POST, "/_/tenant").header("X-Okapi-Tenant", &stranger);
        let gone = gone.json(&json!({ "module_from": "mod-patron-blocks-2.0.0" }));
        assert_eq!(gone.send().await.unwrap().status(), 204);
        let stranger = TenantId::parse(&stranger).unwrap();
        assert!(!patron_blocks::figures::figures().is_hidden(&stranger), "it is remembered");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bad_records_do_not_fill_the_disk_between_two_rounds() {
    World::tell(async |world| {
        world.stop().await;
        world.config.housekeeping.dead_letters_bytes = 2 << 20;
        world.start().await;
        let mut seed = 1_u32;
        for _ in 0..80 {
            // Nothing that can be made smaller, and no JSON.
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
        world.settled().await;
        world.until("the oldest went", async |w: &World| w.count(size).await <= 3 << 20).await;
        assert!(world.count(size).await > 1 << 20, "no more than has to");
        world.take_dead_letters().await;
    })
    .await;
}
