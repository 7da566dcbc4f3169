//! Repairs from the storage modules that must not be applied as they are, or that leave something standing.

use chrono::TimeDelta;
use patron_blocks::event::Kind;
use serde_json::{Value, json};
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
    let request = world.request(reqwest::Method::POST, START).header("X-Okapi-Tenant", tenant);
    let answer = request.header("X-Okapi-Url", world.users.url()).send().await.unwrap();
    assert_eq!(answer.status(), 202);
}

/// A full synchronisation of the tenant, begun.
async fn synchronise(world: &World) -> String {
    let id = ask(world, TENANT, &json!({ "scope": "full" })).await;
    start(world, TENANT).await;
    id
}

async fn status_of(world: &World, tenant: &str, id: &str) -> String {
    let request = world.request(reqwest::Method::GET, &format!("{JOB}/{id}"));
    let answer = request.header("X-Okapi-Tenant", tenant).send().await.unwrap();
    let job: Value = answer.json().await.unwrap();
    job["status"].as_str().unwrap().to_owned()
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
        let install = world.request(reqwest::Method::POST, "/_/tenant");
        let install = install.header("X-Okapi-Tenant", SOUTH);
        let install = install.json(&json!({ "module_to": "mod-patron-blocks-2.0.0" }));
        assert_eq!(install.send().await.unwrap().status(), 201);
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
