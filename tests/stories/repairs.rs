//! Repairs from the storage modules that need an approval or remain incomplete.

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    payloads::{balance_change, check_out, in_envelope, minutes_from_now, now, storage_loan},
    storage_stub::{ACCOUNTS, Fault, LOANS},
    world::{TENANT, World},
};

const JOB: &str = "/automated-patron-blocks/synchronization/job";
const START: &str = "/automated-patron-blocks/synchronization/start";
const REBUILDS: &str = "/patron-blocks/rebuilds";
const SOUTH: &str = "southlib";

async fn request_job(world: &World, tenant: &str, body: &Value) -> String {
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

/// Requests and starts a full synchronization of the tenant.
async fn synchronize(world: &World) -> String {
    let id = request_job(world, TENANT, &json!({ "scope": "full" })).await;
    start(world, TENANT).await;
    id
}

/// Enables a tenant and waits until it is enabled.
async fn install(world: &World, tenant: &str) {
    let request = world.request(reqwest::Method::POST, "/_/tenant");
    let request = request.header("X-Okapi-Tenant", tenant);
    let request = request.json(&json!({ "module_to": "mod-patron-blocks-2.0.0" }));
    let answer = request.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let job: Value = answer.json().await.unwrap();
    let path = format!("/_/tenant/{}?wait=60000", job["id"].as_str().unwrap());
    let request = world.request(reqwest::Method::GET, &path).header("X-Okapi-Tenant", tenant);
    let job: Value = request.send().await.unwrap().json().await.unwrap();
    assert_eq!((&job["complete"], job.get("error")), (&json!(true), None), "{job}");
}

async fn job_of(world: &World, tenant: &str, id: &str) -> Value {
    let request = world.request(reqwest::Method::GET, &format!("{JOB}/{id}"));
    let answer = request.header("X-Okapi-Tenant", tenant).send().await.unwrap();
    answer.json().await.unwrap()
}

async fn status_of(world: &World, tenant: &str, id: &str) -> String {
    job_of(world, tenant, id).await["status"].as_str().unwrap().to_owned()
}

async fn until_rebuild_status(world: &World, id: &str, status: &str) -> Value {
    let path = format!("{REBUILDS}/{id}");
    let is = async |world: &World| world.get_json(&path).await["status"] == status;
    world.until(&format!("the rebuild is {status}"), is).await;
    world.get_json(&path).await
}

/// Publishes this many loans, each of a new patron, and this many fees/fines.
async fn publish_open_records(world: &World, loans: usize, fees: usize) -> Vec<(Uuid, Uuid)> {
    let hour = now() - TimeDelta::hours(1);
    let mut all = Vec::new();
    for _ in 0..loans {
        let (user, loan) = (world.users.add_patron(Uuid::new_v4()), Uuid::new_v4());
        let out = check_out(user, loan, &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &in_envelope(&out, hour)).await;
        all.push((user, loan));
    }
    for _ in 0..fees {
        let owed = balance_change(Uuid::new_v4(), Uuid::new_v4(), None, 5.0);
        world.publish(Kind::FeeFineBalanceChanged, &in_envelope(&owed, hour)).await;
    }
    world.until_committed().await;
    all
}

const OPEN_LOANS: &str = "select count(*) from {schema}.loan where is_open";
const OPEN_FEES: &str = "select count(*) from {schema}.fee_fine where is_open";

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_closing_too_many_loans_waits_for_operator() {
    World::run(async |world| {
        let loans = publish_open_records(world, 40, 0).await;
        // Storage responds as if it had lost nearly all loans.
        for (user, loan) in &loans[..10] {
            world.users.storage.insert(LOANS, storage_loan(*user, *loan, &minutes_from_now(60)));
        }
        let id = synchronize(world).await;
        let answer = until_rebuild_status(world, &id, "compared").await;
        assert_eq!(answer["summary"]["loans"]["onlyCurrent"], 30, "{answer}");
        assert!(answer["error"].as_str().unwrap().contains("30 of 40 open loans"), "{answer}");
        assert_eq!(world.count(OPEN_LOANS).await, 40, "the rebuild closes no loan");
        let job = world.get_json(&format!("{JOB}/{id}")).await;
        assert_eq!(job["status"], "in-progress", "{job}");
        assert!(job["errors"][0].as_str().unwrap().contains("30 of 40 open loans"), "{job}");
        let incidents = world.get_json("/patron-blocks/ingest").await["incidents"].clone();
        assert_eq!(incidents[0]["kind"], "snapshot_not_applied", "{incidents}");
        assert!(incidents[0]["detail"].as_str().unwrap().contains(&id), "{incidents}");

        // After a cancellation, nothing has changed.
        assert_eq!(world.delete(&format!("{REBUILDS}/{id}")).await.0, 204);
        until_rebuild_status(world, &id, "cancelled").await;
        let ingest = world.get_json("/patron-blocks/ingest").await;
        assert_eq!(ingest["incidents"], json!([]), "{ingest}");
        assert_eq!(world.count(OPEN_LOANS).await, 40);

        // A later rebuild can be approved and applied. It needs only a token, because the cancelled one
        // no longer blocks it.
        let id = synchronize(world).await;
        until_rebuild_status(world, &id, "compared").await;
        assert_eq!(world.post(&format!("{REBUILDS}/{id}/apply"), &json!({})).await.0, 202);
        until_rebuild_status(world, &id, "done").await;
        assert_eq!(world.count(OPEN_LOANS).await, 10);
        let ingest = world.get_json("/patron-blocks/ingest").await;
        assert_eq!(ingest["incidents"], json!([]), "{ingest}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn empty_pages_do_not_close_all_fees() {
    World::run(async |world| {
        publish_open_records(world, 0, 40).await;
        let id = synchronize(world).await;
        let answer = until_rebuild_status(world, &id, "compared").await;
        let problem = answer["error"].as_str().unwrap();
        assert!(problem.contains("40 of 40 open fees/fines"), "{answer}");
        assert_eq!(world.count(OPEN_FEES).await, 40);
        assert_eq!(world.take_incidents().await, ["snapshot_not_applied"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_topics_wait_for_operator() {
    World::run(async |world| {
        publish_open_records(world, 4, 0).await;
        // The rows have no events, as if they came from another tenant's dump.
        world
            .execute_sql(
                "insert into {schema}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date)
                 select gen_random_uuid(), check_out_stamp, check_out_user, check_out_due_date
                   from {schema}.loan, generate_series(1, 10)",
            )
            .await;
        world
            .execute_sql("update {schema}.patron_counter set open_loans = open_loans + 10")
            .await;
        let (code, output) = run_cli(world, &["rebuild", "--tenant", TENANT, "--apply"]);
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains("40 of 44 open loans") && output.contains("--apply --id"), "{output}");
        assert_eq!(world.count(OPEN_LOANS).await, 44);
        assert_eq!(world.take_incidents().await, ["snapshot_not_applied"]);
        let id = world.get_json(&format!("{REBUILDS}?limit=1")).await["rebuilds"][0]["id"].clone();
        let arguments = ["rebuild", "--tenant", TENANT, "--apply", "--id", id.as_str().unwrap()];
        let (code, output) = run_cli(world, &arguments);
        assert_eq!(code, Some(0), "{output}");
        assert_eq!(world.count(OPEN_LOANS).await, 4);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn few_loans_of_small_tenant_are_closed_automatically() {
    World::run(async |world| {
        publish_open_records(world, 2, 2).await;
        let id = synchronize(world).await;
        until_rebuild_status(world, &id, "done").await;
        assert_eq!(world.count(OPEN_LOANS).await + world.count(OPEN_FEES).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incomplete_repair_is_reported() {
    World::run(async |world| {
        let loans = publish_open_records(world, 2, 0).await;
        let [(first, open), (_, odd)] = loans[..] else { unreachable!() };
        let storage = world.users.storage.clone();
        storage.insert(LOANS, storage_loan(first, open, &minutes_from_now(60)));
        storage.insert(LOANS, json!({ "id": odd, "status": { "name": "Open" } }));
        world
            .execute_sql(
                "update mod_patron_blocks.tenant set incomplete_before = now();
                 select pg_notify('mod_patron_blocks_tenant', 'a test')",
            )
            .await;
        let is_known = async |world: &World, as_: &str| {
            world.get_json("/patron-blocks/ingest").await["knowledge"] == as_
        };
        world
            .until("the tenant is incomplete", async |w: &World| is_known(w, "incomplete").await)
            .await;
        let id = synchronize(world).await;
        // Clients of the synchronization get the status `done`; the errors name the skipped records.
        let answer = until_rebuild_status(world, &id, "done").await;
        assert_eq!(answer["summary"]["skippedRecords"], 1, "{answer}");
        let job = world.get_json(&format!("{JOB}/{id}")).await;
        assert_eq!((&job["status"], job["errors"].as_array().unwrap().len()), (&json!("done"), 1));
        let ingest = world.get_json("/patron-blocks/ingest").await;
        assert_eq!(ingest["incidents"][0]["kind"], "repair_incomplete", "{ingest}");
        assert_eq!(ingest["knowledge"], "incomplete", "{ingest}");
        let token = ["--source", "storage", "--token", "any", "--apply"];
        let arguments = [&["rebuild", "--tenant", TENANT][..], &token].concat();
        let url = world.users.url();
        let arguments = [&arguments[..], &["--okapi-url", &url]].concat();
        let (code, output) = run_cli(world, &arguments);
        assert_eq!(code, Some(1), "{output}");
        assert!(output.contains(&format!("loan {odd} was skipped")), "{output}");

        // Once storage returns all members of the loan, the tenant is complete and the incident is
        // resolved.
        storage.remove(LOANS, odd);
        let id = synchronize(world).await;
        let answer = until_rebuild_status(world, &id, "done").await;
        assert_eq!(answer["summary"]["skippedRecords"], 0, "{answer}");
        world
            .until("the tenant is complete", async |w: &World| is_known(w, "complete").await)
            .await;
        assert_eq!(world.get_json("/patron-blocks/ingest").await["incidents"], json!([]));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_for_storage_delays_no_other_tenant() {
    let long_timeout = |config: &mut patron_blocks::config::Config| {
        config.rebuild.page_timeout = std::time::Duration::from_secs(3600);
    };
    World::run_with(long_timeout, async |world| {
        install(world, SOUTH).await;
        let storage = world.users.storage.clone();
        storage.ignore_tenant(TENANT);
        synchronize(world).await;
        world
            .until("storage has received a request", async |_: &World| storage.request_count() > 0)
            .await;
        let job = request_job(world, SOUTH, &json!({ "scope": "full" })).await;
        start(world, SOUTH).await;
        world
            .until("the synchronization of the other tenant is done", async |world: &World| {
                status_of(world, SOUTH, &job).await == "done"
            })
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_storage_errors_are_not_retried() {
    let long_timeout = |config: &mut patron_blocks::config::Config| {
        config.rebuild.page_timeout = std::time::Duration::from_secs(3600);
    };
    World::run_with(long_timeout, async |world| {
        let storage = world.users.storage.clone();
        for status in [404, 405, 501] {
            storage.set_faults([Fault::Status(status)]);
            storage.take_requests();
            let id = synchronize(world).await;
            let answer = until_rebuild_status(world, &id, "failed").await;
            assert!(answer["error"].as_str().unwrap().contains(&status.to_string()), "{answer}");
            assert_eq!(storage.take_requests().len(), 1, "{status}");
        }
        storage.set_faults([Fault::None, Fault::Status(503), Fault::Status(429)]);
        let id = synchronize(world).await;
        until_rebuild_status(world, &id, "done").await;
        assert_eq!(storage.take_requests().iter().filter(|(path, _)| path == ACCOUNTS).count(), 3);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_repair_uses_the_newest_token() {
    World::run(async |world| {
        install(world, SOUTH).await;
        // The lock blocks the first repair, which uses the only slot for rebuilds with a token.
        let mut tx = world.db.begin().await.unwrap();
        let lock = format!("lock table {}.rebuild_patron", world.schema.name());
        sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
        let first = synchronize(world).await;
        let lock_waits = "select count(*) from pg_stat_activity where datname = current_database()
                      and wait_event_type = 'Lock' and query like '%.rebuild_patron where%'";
        world
            .until("the first rebuild waits for a lock", async |w: &World| {
                w.count(lock_waits).await == 1
            })
            .await;

        world.users.storage.accept_only_token("new");
        let second = request_job(world, SOUTH, &json!({ "scope": "full" })).await;
        start_with(world, SOUTH, "old").await;
        // An instance checks its tokens before it claims rebuilds without a token.
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
        until_rebuild_status(world, &first, "done").await;
        let is_over = async |world: &World| {
            let job = job_of(world, SOUTH, &second).await;
            job["status"] == "done" || job["errors"] != json!([])
        };
        world.until("the second synchronization ends", is_over).await;
        let job = job_of(world, SOUTH, &second).await;
        assert_eq!((&job["status"], &job["errors"]), (&json!("done"), &json!([])), "{job}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn safety_check_survives_a_failed_statement() {
    World::run(async |world| {
        let loans = publish_open_records(world, 40, 0).await;
        for (user, loan) in &loans[..10] {
            world.users.storage.insert(LOANS, storage_loan(*user, *loan, &minutes_from_now(60)));
        }
        // The second summary of the differences fails with a temporary error.
        world
            .execute_sql(
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
        let id = synchronize(world).await;
        let answer = until_rebuild_status(world, &id, "compared").await;
        assert!(
            world.count("select last_value from public.summed").await > 2,
            "the statement failed and was repeated"
        );
        let problem = answer["error"].as_str().unwrap_or_default();
        assert!(problem.contains("30 of 40 open loans"), "{answer}");
        assert_eq!(world.take_incidents().await, ["snapshot_not_applied"]);
    })
    .await;
}

/// Makes storage return the loans as open, with another due date.
fn set_due_dates(world: &World, loans: &[(Uuid, Uuid)], due_date: &str) {
    for (user, loan) in loans {
        world.users.storage.insert(LOANS, storage_loan(*user, *loan, due_date));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshot_lifting_many_blocks_waits_for_operator() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::OverdueItems, 0.0).await;
        let hour = now() - TimeDelta::hours(1);
        let (late, ahead) = (minutes_from_now(-30), minutes_from_now(1440));
        let loans: Vec<_> = (0..101).map(|_| (Uuid::new_v4(), Uuid::new_v4())).collect();
        for (user, loan) in &loans {
            let out = in_envelope(&check_out(*user, *loan, &late), hour);
            world.publish(Kind::ItemCheckedOut, &out).await;
        }
        world.until_committed().await;
        world
            .execute_sql(&format!(
                "insert into {{schema}}.patron (user_id, users_group, users_group_at)
                 select user_id, '{group}', now() from {{schema}}.patron_counter"
            ))
            .await;
        // A rebuild that unblocks at most a quarter of all blocked patrons needs no approval.
        set_due_dates(world, &loans, &late);
        set_due_dates(world, &loans[..25], &ahead);
        let id = synchronize(world).await;
        let answer = until_rebuild_status(world, &id, "done").await;
        assert_eq!(answer["summary"]["blocksLifted"], 25, "{answer}");
        // This rebuild closes nothing, but unblocks too many of the blocked patrons.
        set_due_dates(world, &loans[..55], &ahead);
        let id = synchronize(world).await;
        let answer = until_rebuild_status(world, &id, "compared").await;
        let problem = answer["error"].as_str().unwrap();
        assert!(problem.contains("30 of 76 blocked patrons"), "{answer}");
        assert_eq!(world.take_incidents().await, ["snapshot_not_applied"]);
        assert_eq!(world.post(&format!("{REBUILDS}/{id}/apply"), &json!({})).await.0, 202);
        until_rebuild_status(world, &id, "done").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_check_out_of_skipped_loan_stays_open() {
    World::run(async |world| {
        let loans = publish_open_records(world, 1, 0).await;
        let (known, (user, odd)) = (loans[0], (Uuid::new_v4(), Uuid::new_v4()));
        let storage = world.users.storage.clone();
        storage.insert(LOANS, storage_loan(known.0, known.1, &minutes_from_now(60)));
        storage.insert(LOANS, json!({ "id": odd, "status": { "name": "Open" } }));
        let id = synchronize(world).await;
        until_rebuild_status(world, &id, "done").await;
        assert_eq!(world.take_incidents().await, ["repair_incomplete"]);
        let out = check_out(user, odd, &minutes_from_now(60));
        let hour = now() - TimeDelta::hours(1);
        world.publish(Kind::ItemCheckedOut, &in_envelope(&out, hour)).await;
        world.until_committed().await;
        assert_eq!(world.count(OPEN_LOANS).await, 2, "storage returns the loan as open");

        // Once storage returns all members of the loan, an old event opens only loans that storage
        // returns.
        storage.insert(LOANS, storage_loan(user, odd, &minutes_from_now(60)));
        let id = synchronize(world).await;
        until_rebuild_status(world, &id, "done").await;
        let out = check_out(user, Uuid::new_v4(), &minutes_from_now(60));
        world.publish(Kind::ItemCheckedOut, &in_envelope(&out, hour)).await;
        world.until_committed().await;
        assert_eq!(world.count(OPEN_LOANS).await, 2);
    })
    .await;
}
