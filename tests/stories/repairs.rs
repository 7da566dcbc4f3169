//! Repairs from the storage modules that must not be applied as they are, or that leave something standing.

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::{
    binary::console,
    facts::{check_out, enveloped, fee, held, minutes_from_now, now},
    shelf::{ACCOUNTS, Fault, LOANS},
    world::{TENANT, World},
};

const JOB: &str = "/automated-patron-blocks/synchronization/job";
const START: &str = "/automated-patron-blocks/synchronization/start";
const REBUILDS: &str = "/patron-blocks/rebuilds";
const SOUTH: &str = "southlib";

async fn ask(world: &World, tenant: &str, body: &Value) -> String {
    let request = world.request(reqwest::Method::POST, JOB).json(body);
    let answer = request.header("X-Okapi-Tenant", tenant).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let job: Value = answer.json().await.unwrap();
    job["id"].as_str().unwrap().to_owned()
}

async fn start(world: &World, tenant: &str) {
    start_with(world, tenant, "any").await;
}

async fn start_with(world: &World, tenant: &str, token: &str) {
    let request = world.request(reqwest::Method::POST, START).header("X-Okapi-Tenant", tenant);
    let request = request.header("X-Okapi-Token", token);
    let answer = request.header("X-Okapi-Url", world.users.url()).send().await.unwrap();
    assert_eq!(answer.status(), 202);
}

/// A full synchronisation of the tenant, begun.
async fn synchronise(world: &World) -> String {
    let id = ask(world, TENANT, &json!({ "scope": "full" })).await;
    start(world, TENANT).await;
    id
}

async fn install(world: &World, tenant: &str) {
    let request = world.request(reqwest::Method::POST, "/_/tenant");
    let request = request.header("X-Okapi-Tenant", tenant);
    let request = request.json(&json!({ "module_to": "mod-patron-blocks-2.0.0" }));
    assert_eq!(request.send().await.unwrap().status(), 201);
}

async fn job_of(world: &World, tenant: &str, id: &str) -> Value {
    let request = world.request(reqwest::Method::GET, &format!("{JOB}/{id}"));
    let answer = request.header("X-Okapi-Tenant", tenant).send().await.unwrap();
    answer.json().await.unwrap()
}

async fn status_of(world: &World, tenant: &str, id: &str) -> String {
    job_of(world, tenant, id).await["status"].as_str().unwrap().to_owned()
}

async fn rebuild_is(world: &World, id: &str, status: &str) -> Value {
    let path = format!("{REBUILDS}/{id}");
    let is = async |world: &World| world.read(&path).await["status"] == status;
    world.until(&format!("the rebuild is {status}"), is).await;
    world.read(&path).await
}

/// So many loans, of one patron each, and as many fees/fines.
async fn open(world: &World, loans: usize, fees: usize) -> Vec<(Uuid, Uuid)> {
    let hour = now() - TimeDelta::hours(1);
    let mut all = Vec::new();
    for _ in 0..loans {
        let (user, loan) = (world.users.patron(Uuid::new_v4()), Uuid::new_v4());
        let out = check_out(user, loan, &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &enveloped(&out, hour)).await;
        all.push((user, loan));
    }
    for _ in 0..fees {
        let owed = fee(Uuid::new_v4(), Uuid::new_v4(), None, 5.0);
        world.publish(Kind::FeeFineBalanceChanged, &enveloped(&owed, hour)).await;
    }
    world.settled().await;
    all
}

const OPEN_LOANS: &str = "select count(*) from {schema}.loan where is_open";
const OPEN_FEES: &str = "select count(*) from {schema}.fee_fine where is_open";

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_would_close_too_much_waits_for_an_operator() {
    World::tell(async |world| {
        let loans = open(world, 40, 0).await;
        // Storage answers as if it had lost nearly all.
        for (user, loan) in &loans[..10] {
            world.users.shelf.put(LOANS, held(*user, *loan, &minutes_from_now(60)));
        }
        let id = synchronise(world).await;
        let answer = rebuild_is(world, &id, "compared").await;
        assert_eq!(answer["summary"]["loans"]["onlyHere"], 30, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains("30 of 40 open loans"), "{answer}");
        assert_eq!(world.count(OPEN_LOANS).await, 40, "nothing is closed");
        let job = world.read(&format!("{JOB}/{id}")).await;
        assert_eq!(job["status"], "in-progress", "{job}");
        assert!(job["errors"][0].as_str().unwrap().contains("30 of 40 open loans"), "{job}");
        let incidents = world.read("/patron-blocks/ingest").await["incidents"].clone();
        assert_eq!(incidents[0]["kind"], "snapshot_not_applied", "{incidents}");
        assert!(incidents[0]["detail"].as_str().unwrap().contains(&id), "{incidents}");

        // Cancelled, all stays as it is.
        assert_eq!(world.delete(&format!("{REBUILDS}/{id}")).await.0, 204);
        rebuild_is(world, &id, "cancelled").await;
        let ingest = world.read("/patron-blocks/ingest").await;
        assert_eq!(ingest["incidents"], json!([]), "{ingest}");
        assert_eq!(world.count(OPEN_LOANS).await, 40);

        // Applied, it goes through. The next one waits no more for another than a token.
        let id = synchronise(world).await;
        rebuild_is(world, &id, "compared").await;
        assert_eq!(world.post(&format!("{REBUILDS}/{id}/apply"), &json!({})).await.0, 202);
        rebuild_is(world, &id, "done").await;
        assert_eq!(world.count(OPEN_LOANS).await, 10);
        let ingest = world.read("/patron-blocks/ingest").await;
        assert_eq!(ingest["incidents"], json!([]), "{ingest}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_empty_pages_close_no_fees_of_a_tenant_either() {
    World::tell(async |world| {
        open(world, 0, 40).await;
        let id = synchronise(world).await;
        let answer = rebuild_is(world, &id, "compared").await;
        let problem = answer["error"].as_str().unwrap();
        assert!(problem.contains("40 of 40 open fees/fines"), "{answer}");
        assert_eq!(world.count(OPEN_FEES).await, 40);
        assert_eq!(world.take_incidents().await, ["snapshot_not_applied"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_that_know_too_little_wait_for_an_operator_too() {
    World::tell(async |world| {
        open(world, 4, 0).await;
        // What the log never had: as many rows as of another tenant's dump.
        world
            .meddle(
                "insert into {schema}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date)
                 select gen_random_uuid(), check_out_stamp, check_out_user, check_out_due_date
                   from {schema}.loan, generate_series(1, 10)",
            )
            .await;
        world
            .meddle("update {schema}.patron_counter set open_loans = open_loans + 10")
            .await;
        let (code, output) = console(world, &["rebuild", "--tenant", TENANT, "--apply"]);
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains("40 of 44 open loans") && output.contains("--apply --id"), "{output}");
        assert_eq!(world.count(OPEN_LOANS).await, 44);
        assert_eq!(world.take_incidents().await, ["snapshot_not_applied"]);
        let id = world.read(&format!("{REBUILDS}?limit=1")).await["rebuilds"][0]["id"].clone();
        let arguments = ["rebuild", "--tenant", TENANT, "--apply", "--id", id.as_str().unwrap()];
        let (code, output) = console(world, &arguments);
        assert_eq!(code, Some(0), "{output}");
        assert_eq!(world.count(OPEN_LOANS).await, 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_tenants_few_loans_are_closed_without_asking() {
    World::tell(async |world| {
        open(world, 2, 2).await;
        let id = synchronise(world).await;
        rebuild_is(world, &id, "done").await;
        assert_eq!(world.count(OPEN_LOANS).await + world.count(OPEN_FEES).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_leaves_something_standing_says_so() {
    World::tell(async |world| {
        let loans = open(world, 2, 0).await;
        let [(first, open), (_, odd)] = loans[..] else { unreachable!() };
        let shelf = world.users.shelf.clone();
        shelf.put(LOANS, held(first, open, &minutes_from_now(60)));
        shelf.put(LOANS, json!({ "id": odd, "status": { "name": "Open" } }));
        world
            .meddle(
                "update mod_patron_blocks.tenant set lacks_before = now();
                 select pg_notify('mod_patron_blocks_tenant', 'a test')",
            )
            .await;
        let is_known = async |world: &World, as_: &str| {
            world.read("/patron-blocks/ingest").await["knowledge"] == as_
        };
        world.until("it lacks something", async |w: &World| is_known(w, "incomplete").await).await;
        let id = synchronise(world).await;
        // So clients of a synchronisation know it; the errors say what was passed over.
        let answer = rebuild_is(world, &id, "done").await;
        assert_eq!(answer["summary"]["passedOver"], 1, "{answer}");
        let job = world.read(&format!("{JOB}/{id}")).await;
        assert_eq!((&job["status"], job["errors"].as_array().unwrap().len()), (&json!("done"), 1));
        let ingest = world.read("/patron-blocks/ingest").await;
        assert_eq!(ingest["incidents"][0]["kind"], "repair_incomplete", "{ingest}");
        assert_eq!(ingest["knowledge"], "incomplete", "{ingest}");
        let token = ["--source", "storage", "--token", "any", "--apply"];
        let arguments = [&["rebuild", "--tenant", TENANT][..], &token].concat();
        let url = world.users.url();
        let arguments = [&arguments[..], &["--okapi-url", &url]].concat();
        let (code, output) = console(world, &arguments);
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains(&format!("loan {odd} is passed over")), "{output}");

        // Once storage says all of it, all is known, and the incident is over.
        shelf.remove(LOANS, odd);
        let id = synchronise(world).await;
        let answer = rebuild_is(world, &id, "done").await;
        assert_eq!(answer["summary"]["passedOver"], 0, "{answer}");
        world.until("all is known", async |w: &World| is_known(w, "complete").await).await;
        assert_eq!(world.read("/patron-blocks/ingest").await["incidents"], json!([]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_storage_keeps_no_other_tenant_waiting() {
    let patient = |config: &mut patron_blocks::config::Config| {
        config.rebuild.page_patience = std::time::Duration::from_secs(3600);
    };
    World::tell_with(patient, async |world| {
        install(world, SOUTH).await;
        let shelf = world.users.shelf.clone();
        shelf.ignore(TENANT);
        synchronise(world).await;
        world.until("storage was asked", async |_: &World| shelf.asked() > 0).await;
        let job = ask(world, SOUTH, &json!({ "scope": "full" })).await;
        start(world, SOUTH).await;
        world
            .until("the other tenant is synchronised", async |world: &World| {
                status_of(world, SOUTH, &job).await == "done"
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_storage_will_never_have_is_asked_for_once() {
    let patient = |config: &mut patron_blocks::config::Config| {
        config.rebuild.page_patience = std::time::Duration::from_secs(3600);
    };
    World::tell_with(patient, async |world| {
        let shelf = world.users.shelf.clone();
        for status in [404, 405, 501] {
            shelf.faults([Fault::Status(status)]);
            shelf.take_asked();
            let id = synchronise(world).await;
            let answer = rebuild_is(world, &id, "failed").await;
            assert!(answer["error"].as_str().unwrap().contains(&status.to_string()), "{answer}");
            assert_eq!(shelf.take_asked().len(), 1, "{status}");
        }
        shelf.faults([Fault::None, Fault::Status(503), Fault::Status(429)]);
        let id = synchronise(world).await;
        rebuild_is(world, &id, "done").await;
        assert_eq!(shelf.take_asked().iter().filter(|(path, _)| path == ACCOUNTS).count(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repair_that_waits_for_its_turn_uses_the_newest_token() {
    World::tell(async |world| {
        install(world, SOUTH).await;
        // The first repair has the only turn, and can't go on.
        let mut tx = world.db.begin().await.unwrap();
        let lock = format!("lock table {}.rebuild_patron", world.schema.name());
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
        let first = synchronise(world).await;
        let waits = "select count(*) from pg_stat_activity where datname = current_database()
                      and wait_event_type = 'Lock' and query like '%.rebuild_patron where%'";
        world.until("the first one waits", async |w: &World| w.count(waits).await == 1).await;

        world.users.shelf.take_only("new");
        let second = ask(world, SOUTH, &json!({ "scope": "full" })).await;
        start_with(world, SOUTH, "old").await;
        // An instance looks at its tokens before it takes what needs none.
        let other = world.request(reqwest::Method::POST, REBUILDS).header("X-Okapi-Tenant", SOUTH);
        let other = other.json(&json!({ "source": "inbox" })).send().await.unwrap();
        let other: Value = other.json().await.unwrap();
        let path = format!("{REBUILDS}/{}", other["id"].as_str().unwrap());
        let is_done = async |world: &World| {
            let request = world.request(reqwest::Method::GET, &path);
            let answer = request.header("X-Okapi-Tenant", SOUTH).send().await.unwrap();
            answer.json::<Value>().await.unwrap()["status"] == "done"
        };
        world.until("another kind of rebuild is done", is_done).await;
        start_with(world, SOUTH, "new").await;
        tx.rollback().await.unwrap();
        rebuild_is(world, &first, "done").await;
        let is_over = async |world: &World| {
            let job = job_of(world, SOUTH, &second).await;
            job["status"] == "done" || job["errors"] != json!([])
        };
        world.until("the second one is over", is_over).await;
        let job = job_of(world, SOUTH, &second).await;
        assert_eq!((&job["status"], &job["errors"]), (&json!("done"), &json!([])), "{job}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caution_outlives_a_statement_that_fails() {
    World::tell(async |world| {
        let loans = open(world, 40, 0).await;
        for (user, loan) in &loans[..10] {
            world.users.shelf.put(LOANS, held(*user, *loan, &minutes_from_now(60)));
        }
        // The second time that differences are summed up, the database fails for a passing reason.
        world
            .meddle(
                "create sequence public.summed;
                 create function public.stumble() returns boolean language plpgsql as $$ begin
                   if current_query() like '%as kinds%' then
                     if nextval('public.summed') = 2 then
                       raise exception 'a story' using errcode = '40001';
                     end if;
                   end if;
                   return true;
                 end $$;
                 alter table {schema}.rebuild_difference rename to found_difference;
                 create view {schema}.rebuild_difference as
                   select * from {schema}.found_difference where (select public.stumble())",
            )
            .await;
        let id = synchronise(world).await;
        let answer = rebuild_is(world, &id, "compared").await;
        assert!(world.count("select last_value from public.summed").await > 2, "it did fail");
        let problem = answer["error"].as_str().unwrap_or_default();
        assert!(problem.contains("30 of 40 open loans"), "{answer}");
        assert_eq!(world.take_incidents().await, ["snapshot_not_applied"]);
    })
    .await;
}

/// Storage names them as open, with another due date.
fn is_due(world: &World, loans: &[(Uuid, Uuid)], due_date: &str) {
    for (user, loan) in loans {
        world.users.shelf.put(LOANS, held(*user, *loan, due_date));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_lifts_many_blocks_waits_for_an_operator() {
    World::tell(async |world| {
        let group = Uuid::new_v4();
        world.limit(group, Measure::OverdueItems, 0.0).await;
        let hour = now() - TimeDelta::hours(1);
        let (late, ahead) = (minutes_from_now(-30), minutes_from_now(1440));
        let loans: Vec<_> = (0..101).map(|_| (Uuid::new_v4(), Uuid::new_v4())).collect();
        for (user, loan) in &loans {
            let out = enveloped(&check_out(*user, *loan, &late), hour);
            world.publish(Kind::ItemCheckedOut, &out).await;
        }
        world.settled().await;
        world
            .meddle(&format!(
                "insert into {{schema}}.patron (user_id, patron_group, known_at)
                 select user_id, '{group}', now() from {{schema}}.patron_counter"
            ))
            .await;
        // Not more than a quarter of all who are blocked.
        is_due(world, &loans, &late);
        is_due(world, &loans[..25], &ahead);
        let id = synchronise(world).await;
        let answer = rebuild_is(world, &id, "done").await;
        assert_eq!(answer["summary"]["blocksLifted"], 25, "{answer}");
        // It closes nothing, but of those who are blocked now many would not be any more.
        is_due(world, &loans[..55], &ahead);
        let id = synchronise(world).await;
        let answer = rebuild_is(world, &id, "compared").await;
        let problem = answer["error"].as_str().unwrap();
        assert!(problem.contains("30 of 76 blocked patrons"), "{answer}");
        assert_eq!(world.take_incidents().await, ["snapshot_not_applied"]);
        assert_eq!(world.post(&format!("{REBUILDS}/{id}/apply"), &json!({})).await.0, 202);
        rebuild_is(world, &id, "done").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_check_out_of_an_unread_loan_stays_open() {
    World::tell(async |world| {
        let loans = open(world, 1, 0).await;
        let (known, (user, odd)) = (loans[0], (Uuid::new_v4(), Uuid::new_v4()));
        let shelf = world.users.shelf.clone();
        shelf.put(LOANS, held(known.0, known.1, &minutes_from_now(60)));
        shelf.put(LOANS, json!({ "id": odd, "status": { "name": "Open" } }));
        let id = synchronise(world).await;
        rebuild_is(world, &id, "done").await;
        assert_eq!(world.take_incidents().await, ["repair_incomplete"]);
        let out = check_out(user, odd, &minutes_from_now(60));
        let hour = now() - TimeDelta::hours(1);
        world.publish(Kind::ItemCheckedOut, &enveloped(&out, hour)).await;
        world.settled().await;
        assert_eq!(world.count(OPEN_LOANS).await, 2, "storage names it as open");

        // Once storage tells all of it, an old event opens nothing that storage does not name.
        shelf.put(LOANS, held(user, odd, &minutes_from_now(60)));
        let id = synchronise(world).await;
        rebuild_is(world, &id, "done").await;
        let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &enveloped(&out, hour)).await;
        world.settled().await;
        assert_eq!(world.count(OPEN_LOANS).await, 2);
    })
    .await;
}
