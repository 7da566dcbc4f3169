//! Rebuilds: damage is reported and repaired while the service runs.

use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{
        BACKDATE_ENABLING_SQL, balance_change, check_out, in_envelope, loan_event,
        minutes_from_now, now,
    },
    world::World,
};

const REBUILDS: &str = "/patron-blocks/rebuilds";

/// Requests a rebuild and waits until it needs no further work or an approval.
async fn rebuild(world: &World, ask: Value) -> Value {
    let (status, body) = world.post(REBUILDS, &ask).await;
    assert_eq!(status, 201, "{body}");
    let asked: Value = serde_json::from_str(&body).unwrap();
    until_at_rest(world, asked["id"].as_str().unwrap()).await
}

async fn until_at_rest(world: &World, id: &str) -> Value {
    let path = format!("{REBUILDS}/{id}");
    let is_at_rest = async |world: &World| {
        let job = world.get_json(&path).await;
        ["compared", "done", "failed", "cancelled"].contains(&job["status"].as_str().unwrap())
    };
    world.until("the rebuild ends or waits for an operator", is_at_rest).await;
    world.get_json(&path).await
}

async fn differences(world: &World, rebuild: &Value) -> Vec<Value> {
    let path = format!("{REBUILDS}/{}/differences?limit=1000", rebuild["id"].as_str().unwrap());
    world.get_json(&path).await["patrons"].as_array().unwrap().clone()
}

/// Returns the number of shadow schemas.
async fn shadow_count(world: &World) -> i64 {
    let sql = "select count(*) from pg_namespace where nspname like '{schema}@_r%' escape '@'";
    world.count(sql).await
}

/// Four patrons with fees/fines and with loans, some of which have ended.
struct Library {
    patrons: [Uuid; 4],
    loans: Vec<Uuid>,
    fees: Vec<Uuid>,
}

async fn create_library(world: &World) -> Library {
    // The tenant was enabled long ago, so the inbox contains every event from now on.
    world.execute_sql(BACKDATE_ENABLING_SQL).await;
    let group = Uuid::new_v4();
    world.add_limit(group, Measure::ChargedOut, 3.0).await;
    let patrons = [(); 4].map(|()| world.users.add_patron(group));
    let (mut loans, mut fees) = (Vec::new(), Vec::new());
    for user in patrons {
        for n in 0..4 {
            let loan = Uuid::new_v4();
            let payload = in_envelope(&check_out(user, loan, &minutes_from_now(1440)), now());
            world.publish(Kind::ItemCheckedOut, &payload).await;
            if n == 3 {
                world.publish(Kind::LoanClosed, &in_envelope(&loan_event(user, loan), now())).await;
            }
            loans.push(loan);
        }
        let id = Uuid::new_v4();
        world
            .publish(
                Kind::FeeFineBalanceChanged,
                &in_envelope(&balance_change(user, id, None, 7.25), now()),
            )
            .await;
        fees.push(id);
    }
    world.until_committed().await;
    for user in patrons {
        world.block_flags(user).await;
    }
    Library { patrons, loans, fees }
}

/// Damages the stored state in five ways.
async fn damage(world: &World, library: &Library) {
    let Library { patrons, loans, fees } = library;
    for sql in [
        // A loan of the first patron is missing.
        format!("delete from {{schema}}.loan where loan_id = '{}'", loans[0]),
        // The counters of the second patron are wrong.
        format!(
            "update {{schema}}.patron_counter set open_loans = open_loans - 2 where user_id = '{}'",
            patrons[1]
        ),
        // A tombstone of the second patron is missing.
        format!("delete from {{schema}}.loan where loan_id = '{}'", loans[7]),
        // The third patron has a loan that never existed.
        format!(
            "insert into {{schema}}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date)
             select '{}', check_out_stamp, check_out_user, check_out_due_date from {{schema}}.loan
              where loan_id = '{}'",
            Uuid::new_v4(),
            loans[8]
        ),
        // A fee/fine of the fourth patron has a balance without an event.
        format!("update {{schema}}.fee_fine set balance = 99 where fee_fine_id = '{}'", fees[3]),
    ] {
        world.execute_sql(&sql).await;
    }
}

fn kinds(patron: &Value, of: &str) -> Vec<String> {
    let list = patron[of].as_array().unwrap();
    list.iter().map(|d| d["kind"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_reported_and_repaired_from_topics_and_inbox() {
    World::run(async |world| {
        let library = create_library(world).await;
        for source in ["topics", "inbox"] {
            damage(world, &library).await;
            let job = rebuild(world, json!({ "source": source, "dryRun": true })).await;
            assert_eq!(job["status"], "compared", "{job}");
            let none =
                json!({ "onlyCurrent": 0, "onlyInSource": 0, "different": 0, "insignificant": 0 });
            let mut loans = none.clone();
            (loans["onlyCurrent"], loans["onlyInSource"], loans["insignificant"]) =
                (json!(1), json!(1), json!(1));
            let mut fees = none;
            fees["different"] = json!(1);
            assert_eq!(job["summary"]["loans"], loans, "{job}");
            assert_eq!(job["summary"]["feesFines"], fees, "{job}");
            let found = differences(world, &job).await;
            assert_eq!(found.len(), 4, "{found:#?}");
            let of = |n: usize| {
                let user = json!(library.patrons[n]);
                found.iter().find(|patron| patron["userId"] == user).unwrap()
            };
            assert_eq!(kinds(of(0), "loans"), ["onlyInSource"]);
            assert_eq!(kinds(of(1), "loans"), ["insignificant"]);
            assert_eq!(kinds(of(2), "loans"), ["onlyCurrent"]);
            assert_eq!(kinds(of(3), "feesFines"), ["different"]);
            assert_eq!(of(1)["wrongCounters"], true);
            // The first patron had two loans here instead of three, which reach the limit.
            assert_eq!(
                (&of(0)["blockedBefore"], of(0)["blockedAfter"].as_array().unwrap().len()),
                (&json!([]), 1)
            );

            let apply = format!("{REBUILDS}/{}/apply", job["id"].as_str().unwrap());
            assert_eq!(world.post(&apply, &json!({})).await.0, 202);
            let job = until_at_rest(world, job["id"].as_str().unwrap()).await;
            assert_eq!(
                (&job["status"], &job["summary"]["applied"]),
                (&json!("done"), &json!(4)),
                "{job}"
            );
            let clean = rebuild(world, json!({ "source": source, "dryRun": true })).await;
            assert_eq!(
                clean["summary"]["patrons"],
                0,
                "{clean} {:#?}",
                differences(world, &clean).await
            );
            for user in library.patrons {
                let summary = world.get_json(&format!("/user-summary/{user}")).await;
                assert_eq!(summary["openLoans"].as_array().unwrap().len(), 3);
                assert_eq!(summary["openFeesFines"][0]["balance"], 7.25);
            }
            assert_eq!(
                world.delete(&format!("{REBUILDS}/{}", clean["id"].as_str().unwrap())).await.0,
                204
            );
            assert_eq!(
                until_at_rest(world, clean["id"].as_str().unwrap()).await["status"],
                "cancelled"
            );
        }
        world
            .until("all shadows are dropped", async |world: &World| shadow_count(world).await == 0)
            .await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_arriving_before_apply_are_preserved() {
    World::run(async |world| {
        let library = create_library(world).await;
        damage(world, &library).await;
        let job = rebuild(world, json!({ "dryRun": true })).await;
        // The missing loan of the first patron is closed, and the same patron borrows another item.
        let [first, ..] = library.patrons;
        let returned = in_envelope(&loan_event(first, library.loans[0]), now());
        world.publish(Kind::LoanClosed, &returned).await;
        let another = Uuid::new_v4();
        let out = in_envelope(&check_out(first, another, &minutes_from_now(60)), now());
        world.publish(Kind::ItemCheckedOut, &out).await;
        world.until_committed().await;
        let id = job["id"].as_str().unwrap();
        assert_eq!(world.post(&format!("{REBUILDS}/{id}/apply"), &json!({})).await.0, 202);
        assert_eq!(until_at_rest(world, id).await["status"], "done");
        let summary = world.get_json(&format!("/user-summary/{first}")).await;
        let mut open: Vec<&str> = summary["openLoans"]
            .as_array()
            .unwrap()
            .iter()
            .map(|loan| loan["loanId"].as_str().unwrap())
            .collect();
        open.sort();
        let mut expected: Vec<String> =
            [library.loans[1], library.loans[2], another].map(|id| id.to_string()).to_vec();
        expected.sort();
        assert_eq!(open, expected);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuild_of_one_patron_changes_only_that_patron() {
    World::run(async |world| {
        let library = create_library(world).await;
        damage(world, &library).await;
        let user = library.patrons[2];
        let job = rebuild(world, json!({ "scope": "user", "userId": user })).await;
        assert_eq!(
            (&job["status"], &job["summary"]["patrons"]),
            (&json!("done"), &json!(1)),
            "{job}"
        );
        let left = rebuild(world, json!({ "source": "inbox" })).await;
        assert_eq!(left["summary"]["patrons"], 3, "{left}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn truncated_topics_are_not_treated_as_complete() {
    World::run(async |world| {
        let library = create_library(world).await;
        let topic = world.log.topic(crate::support::world::TENANT, Kind::ItemCheckedOut);
        for partition in 0..2 {
            world.log.delete_records_before(&topic, partition, 1).await;
        }
        let job = rebuild(world, json!({})).await;
        assert_eq!(job["status"], "failed", "{job}");
        assert!(job["error"].as_str().unwrap().contains("lacks the records from before"), "{job}");
        // The inbox covers the truncated records.
        damage(world, &library).await;
        let job = rebuild(world, json!({ "coveredBy": "inbox" })).await;
        assert_eq!(
            (&job["status"], &job["summary"]["patrons"]),
            (&json!("done"), &json!(4)),
            "{job}"
        );
        // The topics still lack records after this time, so the rebuild fails.
        let job = rebuild(world, json!({ "from": minutes_from_now(-60) })).await;
        assert_eq!(job["status"], "failed", "{job}");
        // A single topic is only merged: its missing loan returns, and no row is removed.
        world
            .execute_sql(&format!(
                "delete from {{schema}}.loan where loan_id = '{}'",
                library.loans[3]
            ))
            .await;
        let closed = world.log.topic(crate::support::world::TENANT, Kind::LoanClosed);
        let job = rebuild(world, json!({ "from": format!("{closed}/0@0,{closed}/1") })).await;
        assert_eq!(
            (&job["status"], &job["summary"]["loans"]["insignificant"]),
            (&json!("done"), &json!(1))
        );
        let beyond_end = rebuild(world, json!({ "from": format!("{closed}/7") })).await;
        assert!(
            beyond_end["error"].as_str().unwrap().contains(&format!("{closed}/7")),
            "{beyond_end}"
        );
        // State from before the start of the read is unchanged.
        let job = rebuild(world, json!({ "from": minutes_from_now(0) })).await;
        assert_eq!(
            (&job["status"], &job["summary"]["patrons"]),
            (&json!("done"), &json!(0)),
            "{job}"
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deleted_topic_is_not_treated_as_empty() {
    World::run(async |world| {
        let library = create_library(world).await;
        let topic = world.log.topic(crate::support::world::TENANT, Kind::ItemCheckedOut);
        world.log.delete_topic(&topic).await;
        let is_failed = async |world: &World| {
            // The broker deletes the topic a moment later.
            rebuild(world, json!({ "dryRun": true })).await["status"] == "failed"
        };
        world.until("the rebuild fails", is_failed).await;
        let (last, all) = (world.get_json(&format!("{REBUILDS}?limit=1")).await, library.patrons);
        let error = last["rebuilds"][0]["error"].as_str().unwrap();
        assert!(error.contains(&topic), "{error}");
        for user in all {
            let summary = world.get_json(&format!("/user-summary/{user}")).await;
            assert_eq!(summary["openLoans"].as_array().unwrap().len(), 3);
        }
        world.take_incidents().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_and_apply_may_restart_and_cancelled_does_nothing() {
    World::run(async |world| {
        let library = create_library(world).await;
        damage(world, &library).await;
        let job = rebuild(world, json!({ "dryRun": true })).await;
        assert_eq!(job["status"], "compared", "{job}");
        let id = job["id"].as_str().unwrap().to_owned();
        let again = format!(
            "update mod_patron_blocks.job set status = 'comparing', summary = null where id = '{id}'"
        );
        world.execute_sql(&again).await;
        let compared = async |world: &World| {
            let job = world.get_json(&format!("{REBUILDS}/{id}")).await;
            job["status"] == "compared" && job["summary"].is_object()
        };
        world.until("the comparison has a summary", compared).await;
        let repeated = until_at_rest(world, &id).await;
        assert_eq!((&repeated["summary"], repeated.get("error")), (&job["summary"], None), "{repeated}");
        // An instance that claims a cancelled rebuild only ends it.
        let ending = format!(
            "update mod_patron_blocks.job set status = 'applying', cancel_requested = true where id = '{id}'"
        );
        world.execute_sql(&ending).await;
        assert_eq!(until_at_rest(world, &id).await["status"], "cancelled");
        let job = rebuild(world, json!({})).await;
        let applied = (&job["status"], &job["summary"]["applied"]);
        assert_eq!(applied, (&json!("done"), &json!(4)), "{job}");
        let again = format!(
            "update mod_patron_blocks.job set status = 'reading', ended_at = null where id = '{}'",
            job["id"].as_str().unwrap()
        );
        world.execute_sql(&again).await;
        let job = until_at_rest(world, job["id"].as_str().unwrap()).await;
        let found = (&job["status"], &job["summary"]["patrons"]);
        assert_eq!(found, (&json!("done"), &json!(0)), "{job}");
    })
    .await;
}

/// After a rebuild is aborted, its statement may still run in the database, with its locks.
#[tokio::test(flavor = "multi_thread")]
async fn rebuild_that_cannot_end_delays_no_other() {
    World::run(async |world| {
        create_library(world).await;
        let job = rebuild(world, json!({ "dryRun": true })).await;
        let id = job["id"].as_str().unwrap();
        let mut tx = world.db.begin().await.unwrap();
        let shadow = format!("{}_r{}", world.schema.name(), &id[..8]);
        let lock = format!("lock table {shadow}.loan in access share mode");
        sqlx::raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
        assert_eq!(world.delete(&format!("{REBUILDS}/{id}")).await.0, 204);
        // The lease has expired, so another instance might claim the rebuild.
        let expired_lease = format!(
            "select count(*) from mod_patron_blocks.job where id = '{id}' and lease_expires_at < now()"
        );
        let is_expired = async |world: &World| world.count(&expired_lease).await == 1;
        world.until("the lease has expired", is_expired).await;
        let other = rebuild(world, json!({ "dryRun": true })).await;
        assert_eq!(other["status"], "compared", "{other}");
        tx.rollback().await.unwrap();
        assert_eq!(until_at_rest(world, id).await["status"], "cancelled");
        let ends = async |world: &World| shadow_count(world).await == 1;
        world.until("only the shadow of the other rebuild remains", ends).await;
    })
    .await;
}

/// The records that name one patron are not all records of a loan that changed its owner.
#[tokio::test(flavor = "multi_thread")]
async fn transferred_loan_stays_when_first_borrower_is_rebuilt() {
    World::run(async |world| {
        let [first, second] = [(); 2].map(|()| world.users.add_patron(Uuid::new_v4()));
        let loan = Uuid::new_v4();
        let out = in_envelope(&check_out(first, loan, &minutes_from_now(60)), now());
        world.publish(Kind::ItemCheckedOut, &out).await;
        world.until_committed().await;
        let record = crate::support::payloads::storage_loan(second, loan, &minutes_from_now(60));
        let changed = crate::support::payloads::entity_change("UPDATED", &record, now());
        world.publish(Kind::StoredLoan, &changed).await;
        world.until_committed().await;
        for user in [first, second] {
            let job = rebuild(world, json!({ "scope": "user", "userId": user })).await;
            assert_eq!((&job["status"], &job["summary"]["patrons"]), (&json!("done"), &json!(0)));
        }
        assert_eq!(world.get(&format!("/user-summary/{first}")).await.0, 404);
        let summary = world.get_json(&format!("/user-summary/{second}")).await;
        assert_eq!(summary["openLoans"][0]["loanId"], json!(loan));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_rebuild_request_names_member_and_rule() {
    World::run(async |world| {
        for (ask, field) in [
            (json!({ "source": "storage room" }), "source"),
            (json!({ "from": "yesterday" }), "from"),
            (json!({ "scope": "user" }), "userId"),
            (json!({ "scope": "user", "userId": "x" }), "userId"),
            (json!({ "userId": Uuid::new_v4() }), "userId"),
            (json!({ "dryrun": true }), "the body"),
            (json!({ "dryrun": null }), "the body"),
            (json!({ "dryRun": "yes" }), "dryRun"),
            (json!({ "coveredBy": "faith" }), "coveredBy"),
            (json!({ "source": "storage", "coveredBy": "inbox" }), "coveredBy"),
            (json!({ "source": "storage", "from": "2026-01-01T00:00:00Z" }), "from"),
            (json!({ "source": "inbox", "fill": true }), "fill"),
        ] {
            let (status, body) = world.post(REBUILDS, &ask).await;
            let body: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (status, &body["errors"][0]["parameters"][0]["key"]),
                (422, &json!(field)),
                "{ask}"
            );
        }
        let unknown_path = format!("{REBUILDS}/{}", Uuid::new_v4());
        assert_eq!(world.get(&unknown_path).await.0, 404);
        assert_eq!(world.post(&format!("{unknown_path}/apply"), &json!({})).await.0, 404);
        assert_eq!(world.delete(&unknown_path).await.0, 404);
    })
    .await;
}
