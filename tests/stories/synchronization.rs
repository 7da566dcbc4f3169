//! Synchronization with the storage modules: their records become the current state, despite failures on
//! the way.

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{
        balance_change, check_out, in_envelope, loan_event, minutes_from_now, now, storage_loan,
        with_member,
    },
    storage_stub::{ACCOUNTS, Fault, LOANS},
    world::{TENANT, World},
};

const JOB: &str = "/automated-patron-blocks/synchronization/job";
const START: &str = "/automated-patron-blocks/synchronization/start";

/// Requests a synchronization of one patron or of all, and returns its path.
async fn request_job(world: &World, user: Option<Uuid>) -> String {
    let body = match user {
        Some(user) => json!({ "scope": "user", "userId": user }),
        None => json!({ "scope": "full" }),
    };
    let (status, body) = world.post(JOB, &body).await;
    assert_eq!(status, 201, "{body}");
    let job: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&job["status"], &job["errors"]), (&json!("open"), &json!([])));
    format!("{JOB}/{}", job["id"].as_str().unwrap())
}

/// Calls the start endpoint as the timer does, with a token.
async fn start(world: &World, token: &str) {
    let request = world.request(reqwest::Method::POST, START).header("X-Okapi-Token", token);
    assert_eq!(world.send(request).await, (202, String::new()));
}

async fn until_status(world: &World, job: &str, status: &str) -> Value {
    let what = format!("{job} is {status}");
    world.until(&what, async |world: &World| world.get_json(job).await["status"] == status).await;
    world.get_json(job).await
}

/// Publishes an ITEM_CHECKED_OUT event of this many minutes ago.
async fn publish_check_out(world: &World, user: Uuid, loan: Uuid, minutes: i64) {
    let at = now() - TimeDelta::minutes(minutes);
    let mut out = check_out(user, loan, &minutes_from_now(1440));
    out["gracePeriod"] = json!({ "duration": 3, "intervalId": "Days" });
    world.publish(Kind::ItemCheckedOut, &in_envelope(&out, at)).await;
}

/// Returns the patron's summary.
async fn summary(world: &World, user: Uuid) -> Value {
    world.get_json_any_status(&format!("/user-summary/{user}")).await
}

/// Returns the ids of a patron's open loans.
async fn open_loans(world: &World, user: Uuid) -> Vec<Uuid> {
    let (status, body) = world.get(&format!("/user-summary/{user}")).await;
    if status == 404 {
        return Vec::new();
    }
    let summary: Value = serde_json::from_str(&body).unwrap();
    let loans = summary["openLoans"].as_array().unwrap();
    let mut ids: Vec<Uuid> =
        loans.iter().map(|loan| loan["loanId"].as_str().unwrap().parse().unwrap()).collect();
    ids.sort();
    ids
}

fn account(user: Uuid, id: Uuid, remaining: f64) -> Value {
    json!({
        "id": id, "userId": user, "feeFineId": Uuid::new_v4(), "remaining": remaining, "loanId": "0",
        "status": { "name": "Open" }, "amount": 20.0,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn synchronization_makes_storage_the_current_state() {
    World::run(async |world| {
        let storage = world.users.storage.clone();
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 2.0).await;
        let [known, phantom, other] = [(); 3].map(|()| world.users.add_patron(group));
        let [known_loan, missing, lost, claimed, fresh] = [(); 5].map(|()| Uuid::new_v4());
        let [former_borrower, unknown_user] = [(); 2].map(|()| Uuid::new_v4());
        let [debt, paid] = [(); 2].map(|()| Uuid::new_v4());
        publish_check_out(world, known, known_loan, 60).await;
        publish_check_out(world, known, claimed, 60).await;
        // A minute ago: the storage response may lack the loan.
        publish_check_out(world, known, fresh, 1).await;
        publish_check_out(world, phantom, former_borrower, 60).await;
        let hour = now() - TimeDelta::minutes(60);
        for (id, balance) in [(debt, 5.0), (paid, 7.0)] {
            let owed = in_envelope(&balance_change(known, id, None, balance), hour);
            world.publish(Kind::FeeFineBalanceChanged, &owed).await;
        }
        world.until_committed().await;
        assert_eq!(world.block_flags(phantom).await, [[false; 3]; 0]);

        let due = minutes_from_now(60);
        storage.insert(
            LOANS,
            with_member(&storage_loan(known, known_loan, &due), "dueDateChangedByRecall", true),
        );
        storage.insert(LOANS, storage_loan(known, missing, &due));
        storage.insert(
            LOANS,
            with_member(&storage_loan(known, lost, &due), "itemStatus", "Aged to lost"),
        );
        storage.insert(
            LOANS,
            with_member(&storage_loan(known, claimed, &due), "itemStatus", "Claimed returned"),
        );
        storage.insert(ACCOUNTS, account(known, debt, 12.5));
        // Storage returns the loan as open, so the loan has not ended, whatever members are missing.
        let dateless = Uuid::new_v4();
        publish_check_out(world, other, dateless, 60).await;
        world.until_committed().await;
        storage.insert(
            LOANS,
            json!({ "id": dateless, "userId": other, "status": { "name": "Open" } }),
        );
        let unowned_loan = Uuid::new_v4();
        storage.insert(
            LOANS,
            json!({ "id": unowned_loan, "status": { "name": "Open" }, "dueDate": due }),
        );

        let job = request_job(world, None).await;
        start(world, "any").await;
        let job_status = until_status(world, &job, "done").await;
        assert_eq!(
            (&job_status["numberOfProcessedLoans"], &job_status["numberOfProcessedFeesFines"]),
            (&json!(4), &json!(1)),
            "{job_status}"
        );
        let mut errors = [
            json!(format!("loan {unowned_loan} was skipped: userId is required")),
            json!(format!("loan {dateless} was skipped: dueDate is required")),
        ];
        errors.sort_by_key(|error| {
            error.to_string().contains(&unowned_loan.to_string()) != (unowned_loan < dateless)
        });
        assert_eq!(job_status["errors"], json!(errors));
        assert_eq!(world.take_incidents().await, ["repair_incomplete"]);
        assert_eq!(open_loans(world, other).await, [dateless]);
        let mut expected = vec![known_loan, missing, lost, claimed, fresh];
        expected.sort();
        assert_eq!(open_loans(world, known).await, expected);
        assert_eq!(open_loans(world, phantom).await, [] as [Uuid; 0]);
        let now_known = summary(world, known).await;
        let loan = |id: Uuid| {
            let loans = now_known["openLoans"].as_array().unwrap();
            loans.iter().find(|loan| loan["loanId"] == json!(id)).unwrap().clone()
        };
        assert_eq!(loan(known_loan)["recall"], true);
        assert_eq!(loan(known_loan)["gracePeriod"]["duration"], 3, "storage returns no open loan");
        assert_eq!(
            (&loan(lost)["itemLost"], &loan(claimed)["itemClaimedReturned"]),
            (&json!(true), &json!(true))
        );
        let fees = now_known["openFeesFines"].as_array().unwrap();
        assert_eq!(fees.len(), 1, "a paid fee/fine is not open: {fees:?}");
        assert_eq!((&fees[0]["feeFineId"], &fees[0]["balance"]), (&json!(debt), &json!(12.5)));
        assert_eq!(world.block_flags(known).await, [[true; 3]], "two items are charged out");

        // A repeated old check-out opens no loan.
        publish_check_out(world, phantom, former_borrower, 60).await;
        world.until_committed().await;
        assert_eq!(open_loans(world, phantom).await, [] as [Uuid; 0]);
        // Once all records are valid, an old check-out of an unknown loan opens nothing either. A new
        // check-out opens a loan, and any loan can end.
        storage.remove(LOANS, unowned_loan);
        let job = request_job(world, None).await;
        start(world, "any").await;
        until_status(world, &job, "done").await;
        assert_eq!(world.take_incidents().await, ["repair_incomplete"]);
        publish_check_out(world, phantom, unknown_user, 30).await;
        publish_check_out(world, other, Uuid::new_v4(), 30).await;
        world.until_committed().await;
        assert_eq!(open_loans(world, phantom).await, [] as [Uuid; 0]);
        assert_eq!(open_loans(world, other).await, [dateless]);
        let new = Uuid::new_v4();
        publish_check_out(world, phantom, new, 0).await;
        world.publish(Kind::LoanClosed, &in_envelope(&loan_event(known, missing), now())).await;
        world.until_committed().await;
        assert_eq!(open_loans(world, phantom).await, [new]);
        assert!(!open_loans(world, known).await.contains(&missing));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn patron_synchronization_affects_no_other_patron() {
    World::run(async |world| {
        let storage = world.users.storage.clone();
        let [one, another] = [(); 2].map(|()| world.users.add_patron(Uuid::new_v4()));
        let [ended, open, others] = [(); 3].map(|()| Uuid::new_v4());
        for (user, loan) in [(one, ended), (one, open), (another, others)] {
            publish_check_out(world, user, loan, 60).await;
        }
        world.until_committed().await;
        storage.insert(LOANS, storage_loan(one, open, &minutes_from_now(60)));
        let job = request_job(world, Some(one)).await;
        start(world, "any").await;
        until_status(world, &job, "done").await;
        assert_eq!(open_loans(world, one).await, [open]);
        assert_eq!(open_loans(world, another).await, [others]);
        let query = format!("status.name==Open and userId=={one} sortBy id");
        let queries: Vec<_> = storage.take_requests().into_iter().map(|(_, query)| query).collect();
        assert_eq!(queries, [query.clone(), query]);
        // For this patron alone, an old check-out is no longer evidence.
        let [old, others_old] = [(); 2].map(|()| Uuid::new_v4());
        publish_check_out(world, one, old, 30).await;
        publish_check_out(world, another, others_old, 30).await;
        world.until_committed().await;
        assert_eq!(open_loans(world, one).await, [open]);
        assert_eq!(open_loans(world, another).await.len(), 2);
        // A patron without records in storage has no open loans or fees/fines.
        storage.remove(LOANS, open);
        let job = request_job(world, Some(one)).await;
        start(world, "any").await;
        until_status(world, &job, "done").await;
        assert_eq!(world.get(&format!("/user-summary/{one}")).await.0, 404);
    })
    .await;
}

/// Adds 250 loans of one patron to storage, which are three pages.
fn three_pages(world: &World, user: Uuid) {
    for _ in 0..250 {
        world
            .users
            .storage
            .insert(LOANS, storage_loan(user, Uuid::new_v4(), &minutes_from_now(60)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_pages_are_retried_and_final_failure_changes_nothing() {
    World::run(async |world| {
        let storage = world.users.storage.clone();
        let user = world.users.add_patron(Uuid::new_v4());
        let phantom = Uuid::new_v4();
        publish_check_out(world, user, phantom, 60).await;
        world.until_committed().await;
        three_pages(world, user);
        for (what, faults) in [
            ("permanent status 500", vec![Fault::Status(500); 100]),
            ("permanently invalid pages", vec![Fault::InvalidJson; 100]),
            ("permanently no response", vec![Fault::Hang; 100]),
        ] {
            let job = request_job(world, None).await;
            storage.set_faults([Fault::None].into_iter().chain(faults));
            start(world, "any").await;
            let job_status = until_status(world, &job, "failed").await;
            let errors = job_status["errors"].as_array().unwrap();
            assert!(
                errors.len() == 1
                    && errors[0]
                        .as_str()
                        .unwrap()
                        .starts_with("a page of loans could not be read within 1 s"),
                "{what}: {errors:?}"
            );
            assert_eq!(job_status["numberOfProcessedLoans"], 100, "{what}");
            assert_eq!(open_loans(world, user).await, [phantom], "{what}: the state is unchanged");
        }
        let job = request_job(world, None).await;
        storage.set_faults([
            Fault::None,
            Fault::Status(500),
            Fault::None,
            Fault::Hang,
            Fault::InvalidJson,
        ]);
        start(world, "any").await;
        let job_status = until_status(world, &job, "done").await;
        assert_eq!(
            (&job_status["numberOfProcessedLoans"], &job_status["errors"]),
            (&json!(250), &json!([]))
        );
        assert_eq!(open_loans(world, user).await.len(), 250);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn expired_token_waits_for_next_timer_call_and_resumes() {
    World::run(async |world| {
        let storage = world.users.storage.clone();
        let user = world.users.add_patron(Uuid::new_v4());
        three_pages(world, user);
        let job = request_job(world, None).await;
        storage.set_faults([Fault::None, Fault::Status(401)]);
        start(world, "old").await;
        world
            .until("the job reports the rejected token", async |world: &World| {
                !world.get_json(&job).await["errors"].as_array().unwrap().is_empty()
            })
            .await;
        let job_status = world.get_json(&job).await;
        assert_eq!(
            (&job_status["status"], &job_status["numberOfProcessedLoans"]),
            (&json!("in-progress"), &json!(100)),
            "{job_status}"
        );
        assert!(
            job_status["errors"][0].as_str().unwrap().contains("401 Unauthorized"),
            "{job_status}"
        );
        assert_eq!(open_loans(world, user).await, [] as [Uuid; 0]);
        // A job that is requested meanwhile runs after the first.
        let later = request_job(world, Some(user)).await;
        storage.accept_only_token("new");
        storage.take_requests();
        start(world, "new").await;
        let job_status = until_status(world, &job, "done").await;
        assert_eq!(job_status["numberOfProcessedLoans"], 250, "{job_status}");
        assert_eq!(world.get_json(&later).await["status"], "open", "one call starts one job");
        let asked = storage.take_requests();
        assert!(asked[0].1.contains("id > "), "the read resumes after the last page: {asked:?}");
        assert_eq!(asked.len(), 3, "two pages of loans, one of accounts: {asked:?}");
        start(world, "new").await;
        until_status(world, &later, "done").await;
        assert_eq!(open_loans(world, user).await.len(), 250);
        let tokens = "select count(*) from mod_patron_blocks.job r
                       where to_jsonb(r)::text ~ '\\y(old|new)\\y'";
        assert_eq!(world.count(tokens).await, 0, "no table contains a token");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_of_dead_instance_resumes_on_next_timer_call() {
    World::run(async |world| {
        let storage = world.users.storage.clone();
        let user = world.users.add_patron(Uuid::new_v4());
        three_pages(world, user);
        let job = request_job(world, None).await;
        storage.set_faults([Fault::None, Fault::Hang, Fault::Hang]);
        start(world, "any").await;
        world
            .until("a page is read", async |world: &World| {
                world.get_json(&job).await["numberOfProcessedLoans"] == 100
            })
            .await;
        // A second call starts no second read.
        start(world, "any").await;
        world.stop_oldest().await;
        world.start().await;
        assert_eq!(world.get_json(&job).await["status"], "in-progress");
        storage.set_faults([]);
        start(world, "any").await;
        let job_status = until_status(world, &job, "done").await;
        assert_eq!(job_status["numberOfProcessedLoans"], 250, "{job_status}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_rebuild_uses_the_request_token() {
    World::run(async |world| {
        let storage = world.users.storage.clone();
        let user = world.users.add_patron(Uuid::new_v4());
        let loan = Uuid::new_v4();
        publish_check_out(world, user, loan, 60).await;
        world.until_committed().await;
        storage.accept_only_token("operator's");
        let path = "/patron-blocks/rebuilds";
        let body = json!({ "source": "storage", "dryRun": true });
        let request = world.request(reqwest::Method::POST, path).json(&body);
        let (status, asked) = world.send(request.header("X-Okapi-Token", "operator's")).await;
        assert_eq!(status, 201, "{asked}");
        let asked: Value = serde_json::from_str(&asked).unwrap();
        let one = format!("{path}/{}", asked["id"].as_str().unwrap());
        world
            .until("the rebuild is compared", async |world: &World| {
                world.get_json(&one).await["status"] == "compared"
            })
            .await;
        assert_eq!(world.get_json(&one).await["summary"]["loans"]["onlyCurrent"], 1);
        assert_eq!(open_loans(world, user).await, [loan]);
        assert_eq!(world.post(&format!("{one}/apply"), &json!({})).await.0, 202);
        world
            .until("the rebuild is done", async |world: &World| {
                world.get_json(&one).await["status"] == "done"
            })
            .await;
        assert_eq!(open_loans(world, user).await, [] as [Uuid; 0]);
        let timer_call = world.request(reqwest::Method::POST, START);
        assert_eq!(
            world.send(timer_call).await.0,
            202,
            "the timer of {TENANT} finds nothing to do"
        );
    })
    .await;
}
