//! Synchronisation with the storage modules: what they hold is what counts, whatever goes wrong on the way.

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    facts::{about, but, check_out, enveloped, fee, held, minutes_from_now, now},
    shelf::{ACCOUNTS, Fault, LOANS},
    world::{TENANT, World},
};

const JOB: &str = "/automated-patron-blocks/synchronization/job";
const START: &str = "/automated-patron-blocks/synchronization/start";

/// Asks for a synchronisation of a patron, or of all. Gives its path.
async fn ask(world: &World, user: Option<Uuid>) -> String {
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

/// The timer calls, with a token.
async fn start(world: &World, token: &str) {
    let request = world.request(reqwest::Method::POST, START).header("X-Okapi-Token", token);
    assert_eq!(world.send(request).await, (202, String::new()));
}

async fn reaches(world: &World, job: &str, status: &str) -> Value {
    let what = format!("{job} is {status}");
    world.until(&what, async |world: &World| world.read(job).await["status"] == status).await;
    world.read(job).await
}

/// As ITEM_CHECKED_OUT tells it, so many minutes ago.
async fn checked_out(world: &World, user: Uuid, loan: Uuid, minutes: i64) {
    let at = now() - TimeDelta::minutes(minutes);
    let mut out = check_out(user, loan, &minutes_from_now(1440));
    out["gracePeriod"] = json!({ "duration": 3, "intervalId": "Days" });
    world.publish(Kind::ItemCheckedOut, &enveloped(&out, at)).await;
}

/// The patron's summary: what is open.
async fn summary(world: &World, user: Uuid) -> Value {
    world.read_whatever(&format!("/user-summary/{user}")).await
}

/// The ids of a patron's open loans.
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
async fn what_storage_holds_is_what_counts_from_then_on() {
    World::tell(async |world| {
        let shelf = world.users.shelf.clone();
        let group = Uuid::new_v4();
        world.limit(group, Measure::ChargedOut, 2.0).await;
        let [known, phantom, other] = [(); 3].map(|()| world.users.patron(group));
        let [kept, missing, lost, claimed, fresh] = [(); 5].map(|()| Uuid::new_v4());
        let [gone, never_known] = [(); 2].map(|()| Uuid::new_v4());
        let [debt, paid] = [(); 2].map(|()| Uuid::new_v4());
        checked_out(world, known, kept, 60).await;
        checked_out(world, known, claimed, 60).await;
        // A minute ago: storage may not have had it yet when it was asked.
        checked_out(world, known, fresh, 1).await;
        checked_out(world, phantom, gone, 60).await;
        let hour = now() - TimeDelta::minutes(60);
        for (id, balance) in [(debt, 5.0), (paid, 7.0)] {
            let owed = enveloped(&fee(known, id, None, balance), hour);
            world.publish(Kind::FeeFineBalanceChanged, &owed).await;
        }
        world.settled().await;
        assert_eq!(world.blocks(phantom).await, [[false; 3]; 0]);

        let due = minutes_from_now(60);
        shelf.put(LOANS, but(&held(known, kept, &due), "dueDateChangedByRecall", true));
        shelf.put(LOANS, held(known, missing, &due));
        shelf.put(LOANS, but(&held(known, lost, &due), "itemStatus", "Aged to lost"));
        shelf.put(LOANS, but(&held(known, claimed, &due), "itemStatus", "Claimed returned"));
        shelf.put(ACCOUNTS, account(known, debt, 12.5));
        // Storage holds it as open, so it has not ended, whatever else it lacks.
        let dateless = Uuid::new_v4();
        checked_out(world, other, dateless, 60).await;
        world.settled().await;
        shelf.put(LOANS, json!({ "id": dateless, "userId": other, "status": { "name": "Open" } }));
        let nobodys = Uuid::new_v4();
        shelf.put(LOANS, json!({ "id": nobodys, "status": { "name": "Open" }, "dueDate": due }));

        let job = ask(world, None).await;
        start(world, "any").await;
        let told = reaches(world, &job, "done").await;
        assert_eq!(
            (&told["numberOfProcessedLoans"], &told["numberOfProcessedFeesFines"]),
            (&json!(4), &json!(1)),
            "{told}"
        );
        let mut errors = [
            json!(format!("loan {nobodys} is passed over: userId is required")),
            json!(format!("loan {dateless} is passed over: dueDate is required")),
        ];
        errors.sort_by_key(|error| {
            error.to_string().contains(&nobodys.to_string()) != (nobodys < dateless)
        });
        assert_eq!(told["errors"], json!(errors));
        assert_eq!(world.take_incidents().await, ["repair_incomplete"]);
        assert_eq!(open_loans(world, other).await, [dateless]);
        let mut expected = vec![kept, missing, lost, claimed, fresh];
        expected.sort();
        assert_eq!(open_loans(world, known).await, expected);
        assert_eq!(open_loans(world, phantom).await, [] as [Uuid; 0]);
        let now_known = summary(world, known).await;
        let loan = |id: Uuid| {
            let loans = now_known["openLoans"].as_array().unwrap();
            loans.iter().find(|loan| loan["loanId"] == json!(id)).unwrap().clone()
        };
        assert_eq!(loan(kept)["recall"], true);
        assert_eq!(loan(kept)["gracePeriod"]["duration"], 3, "storage knows of none");
        assert_eq!(
            (&loan(lost)["itemLost"], &loan(claimed)["itemClaimedReturned"]),
            (&json!(true), &json!(true))
        );
        let fees = now_known["openFeesFines"].as_array().unwrap();
        assert_eq!(fees.len(), 1, "what is paid is not open: {fees:?}");
        assert_eq!((&fees[0]["feeFineId"], &fees[0]["balance"]), (&json!(debt), &json!(12.5)));
        assert_eq!(world.blocks(known).await, [[true; 3]], "two are charged out, and more");

        // An old check-out that is read again opens nothing.
        checked_out(world, phantom, gone, 60).await;
        world.settled().await;
        assert_eq!(open_loans(world, phantom).await, [] as [Uuid; 0]);
        // Once all can be read, none of what is not known here does either; a new one does, and all can end.
        shelf.remove(LOANS, nobodys);
        let job = ask(world, None).await;
        start(world, "any").await;
        reaches(world, &job, "done").await;
        assert_eq!(world.take_incidents().await, ["repair_incomplete"]);
        checked_out(world, phantom, never_known, 30).await;
        checked_out(world, other, Uuid::new_v4(), 30).await;
        world.settled().await;
        assert_eq!(open_loans(world, phantom).await, [] as [Uuid; 0]);
        assert_eq!(open_loans(world, other).await, [dateless]);
        let new = Uuid::new_v4();
        checked_out(world, phantom, new, 0).await;
        world.publish(Kind::LoanClosed, &enveloped(&about(known, missing), now())).await;
        world.settled().await;
        assert_eq!(open_loans(world, phantom).await, [new]);
        assert!(!open_loans(world, known).await.contains(&missing));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_patrons_synchronisation_speaks_of_nobody_else() {
    World::tell(async |world| {
        let shelf = world.users.shelf.clone();
        let [one, another] = [(); 2].map(|()| world.users.patron(Uuid::new_v4()));
        let [ended, open, others] = [(); 3].map(|()| Uuid::new_v4());
        for (user, loan) in [(one, ended), (one, open), (another, others)] {
            checked_out(world, user, loan, 60).await;
        }
        world.settled().await;
        shelf.put(LOANS, held(one, open, &minutes_from_now(60)));
        let job = ask(world, Some(one)).await;
        start(world, "any").await;
        reaches(world, &job, "done").await;
        assert_eq!(open_loans(world, one).await, [open]);
        assert_eq!(open_loans(world, another).await, [others]);
        let query = format!("status.name==Open and userId=={one} sortBy id");
        let queries: Vec<_> = shelf.take_asked().into_iter().map(|(_, query)| query).collect();
        assert_eq!(queries, [query.clone(), query]);
        // For this patron alone an old check-out is no evidence any more.
        let [old, others_old] = [(); 2].map(|()| Uuid::new_v4());
        checked_out(world, one, old, 30).await;
        checked_out(world, another, others_old, 30).await;
        world.settled().await;
        assert_eq!(open_loans(world, one).await, [open]);
        assert_eq!(open_loans(world, another).await.len(), 2);
        // A patron of whom storage holds nothing has nothing.
        shelf.remove(LOANS, open);
        let job = ask(world, Some(one)).await;
        start(world, "any").await;
        reaches(world, &job, "done").await;
        assert_eq!(world.get(&format!("/user-summary/{one}")).await.0, 404);
    })
    .await;
}

/// 250 loans of one patron, so that there are three pages.
fn three_pages(world: &World, user: Uuid) {
    for _ in 0..250 {
        world.users.shelf.put(LOANS, held(user, Uuid::new_v4(), &minutes_from_now(60)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_asked_for_again_and_what_cannot_be_had_changes_nothing() {
    World::tell(async |world| {
        let shelf = world.users.shelf.clone();
        let user = world.users.patron(Uuid::new_v4());
        let phantom = Uuid::new_v4();
        checked_out(world, user, phantom, 60).await;
        world.settled().await;
        three_pages(world, user);
        for (what, faults) in [
            ("status 500 for good", vec![Fault::Status(500); 100]),
            ("rubbish for good", vec![Fault::Rubbish; 100]),
            ("no answer for good", vec![Fault::Hang; 100]),
        ] {
            let job = ask(world, None).await;
            shelf.faults([Fault::None].into_iter().chain(faults));
            start(world, "any").await;
            let told = reaches(world, &job, "failed").await;
            let errors = told["errors"].as_array().unwrap();
            assert!(
                errors.len() == 1
                    && errors[0]
                        .as_str()
                        .unwrap()
                        .starts_with("a page of loans could not be had for 1 s"),
                "{what}: {errors:?}"
            );
            assert_eq!(told["numberOfProcessedLoans"], 100, "{what}");
            assert_eq!(open_loans(world, user).await, [phantom], "{what}: nothing is changed");
        }
        let job = ask(world, None).await;
        shelf.faults([Fault::None, Fault::Status(500), Fault::None, Fault::Hang, Fault::Rubbish]);
        start(world, "any").await;
        let told = reaches(world, &job, "done").await;
        assert_eq!((&told["numberOfProcessedLoans"], &told["errors"]), (&json!(250), &json!([])));
        assert_eq!(open_loans(world, user).await.len(), 250);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_run_out_waits_for_the_timers_next_one_and_goes_on_where_it_was() {
    World::tell(async |world| {
        let shelf = world.users.shelf.clone();
        let user = world.users.patron(Uuid::new_v4());
        three_pages(world, user);
        let job = ask(world, None).await;
        shelf.faults([Fault::None, Fault::Status(401)]);
        start(world, "old").await;
        world
            .until("the token has run out", async |world: &World| {
                !world.read(&job).await["errors"].as_array().unwrap().is_empty()
            })
            .await;
        let told = world.read(&job).await;
        assert_eq!(
            (&told["status"], &told["numberOfProcessedLoans"]),
            (&json!("in-progress"), &json!(100)),
            "{told}"
        );
        assert!(told["errors"][0].as_str().unwrap().contains("401 Unauthorized"), "{told}");
        assert_eq!(open_loans(world, user).await, [] as [Uuid; 0]);
        // Another one that is asked for meanwhile comes after it.
        let later = ask(world, Some(user)).await;
        shelf.take_only("new");
        shelf.take_asked();
        start(world, "new").await;
        let told = reaches(world, &job, "done").await;
        assert_eq!(told["numberOfProcessedLoans"], 250, "{told}");
        assert_eq!(world.read(&later).await["status"], "open", "one for each call");
        let asked = shelf.take_asked();
        assert!(asked[0].1.contains("id > "), "not from the beginning: {asked:?}");
        assert_eq!(asked.len(), 3, "two pages of loans, one of accounts: {asked:?}");
        start(world, "new").await;
        reaches(world, &later, "done").await;
        assert_eq!(open_loans(world, user).await.len(), 250);
        let tokens = "select count(*) from mod_patron_blocks.rebuild r
                       where to_jsonb(r)::text ~ '\\y(old|new)\\y'";
        assert_eq!(world.count(tokens).await, 0, "a token is stored nowhere");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_dies_leaves_its_job_to_the_next_call_of_the_timer() {
    World::tell(async |world| {
        let shelf = world.users.shelf.clone();
        let user = world.users.patron(Uuid::new_v4());
        three_pages(world, user);
        let job = ask(world, None).await;
        shelf.faults([Fault::None, Fault::Hang, Fault::Hang]);
        start(world, "any").await;
        world
            .until("a page is read", async |world: &World| {
                world.read(&job).await["numberOfProcessedLoans"] == 100
            })
            .await;
        // A second call does not begin a second reading beside it.
        start(world, "any").await;
        world.stop_oldest().await;
        world.start().await;
        assert_eq!(world.read(&job).await["status"], "in-progress");
        shelf.faults([]);
        start(world, "any").await;
        let told = reaches(world, &job, "done").await;
        assert_eq!(told["numberOfProcessedLoans"], 250, "{told}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_from_storage_is_asked_with_the_token_of_its_request() {
    World::tell(async |world| {
        let shelf = world.users.shelf.clone();
        let user = world.users.patron(Uuid::new_v4());
        let loan = Uuid::new_v4();
        checked_out(world, user, loan, 60).await;
        world.settled().await;
        shelf.take_only("operator's");
        let path = "/patron-blocks/rebuilds";
        let body = json!({ "source": "storage", "dryRun": true });
        let request = world.request(reqwest::Method::POST, path).json(&body);
        let (status, asked) = world.send(request.header("X-Okapi-Token", "operator's")).await;
        assert_eq!(status, 201, "{asked}");
        let asked: Value = serde_json::from_str(&asked).unwrap();
        let one = format!("{path}/{}", asked["id"].as_str().unwrap());
        world
            .until("it is compared", async |world: &World| {
                world.read(&one).await["status"] == "compared"
            })
            .await;
        assert_eq!(world.read(&one).await["summary"]["loans"]["onlyHere"], 1);
        assert_eq!(open_loans(world, user).await, [loan]);
        assert_eq!(world.post(&format!("{one}/apply"), &json!({})).await.0, 202);
        world
            .until("it is applied", async |world: &World| {
                world.read(&one).await["status"] == "done"
            })
            .await;
        assert_eq!(open_loans(world, user).await, [] as [Uuid; 0]);
        let stranger = world.request(reqwest::Method::POST, START);
        assert_eq!(world.send(stranger).await.0, 202, "the timer of {TENANT} finds nothing to do");
    })
    .await;
}
