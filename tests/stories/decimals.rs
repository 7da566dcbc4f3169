//! Balances with a floating-point remainder, over HTTP, from the log and from storage.

use chrono::TimeDelta;
use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{balance_change, in_envelope, now},
    storage_stub::ACCOUNTS,
    world::World,
};

const FEE: Kind = Kind::FeeFineBalanceChanged;
const JOB: &str = "/automated-patron-blocks/synchronization/job";
const START: &str = "/automated-patron-blocks/synchronization/start";

/// The remainder of 12.50 - 12.40 - 0.10 in doubles.
fn remainder() -> Value {
    serde_json::from_str("4.996003610813204e-16").unwrap()
}

/// Returns a patron with a balance above the limit, and the fee/fine.
async fn debtor(world: &World, group: Uuid) -> (Uuid, Uuid) {
    let (user, debt) = (world.users.add_patron(group), Uuid::new_v4());
    world.publish(FEE, &balance_change(user, debt, None, 12.5)).await;
    world.until_committed().await;
    assert_eq!(world.block_flags(user).await, [[true; 3]]);
    (user, debt)
}

#[tokio::test(flavor = "multi_thread")]
async fn floating_point_remainder_closes_fee_from_any_source() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::FeeFineBalance, 5.0).await;
        let paid = |user: Uuid, debt: Uuid| {
            json!({ "userId": user, "feeFineId": debt, "feeFineTypeId": Uuid::new_v4(), "balance": remainder() })
        };
        // Source: the log.
        let (user, debt) = debtor(world, group).await;
        world.publish(FEE, &paid(user, debt)).await;
        world.until_committed().await;
        assert_eq!(world.take_dead_letters().await, [""; 0]);
        assert_eq!(world.block_flags(user).await, [[false; 3]; 0]);
        // Source: HTTP.
        let (user, debt) = debtor(world, group).await;
        assert_eq!(world.post(&FEE.http_path(), &paid(user, debt)).await, (204, String::new()));
        assert_eq!(world.block_flags(user).await, [[false; 3]; 0]);
        // Source: storage, which lists the fee/fine as open. Its response counts as five minutes old, so
        // the fee/fine is an hour old.
        let (user, debt) = (world.users.add_patron(group), Uuid::new_v4());
        let hour = now() - TimeDelta::minutes(60);
        world.publish(FEE, &in_envelope(&balance_change(user, debt, None, 12.5), hour)).await;
        world.until_committed().await;
        assert_eq!(world.block_flags(user).await, [[true; 3]]);
        world.users.storage.insert(ACCOUNTS, json!({
            "id": debt, "userId": user, "feeFineId": Uuid::new_v4(), "remaining": remainder(),
            "status": { "name": "Open" }, "loanId": "0",
        }));
        let (status, job) = world.post(JOB, &json!({ "scope": "user", "userId": user })).await;
        assert_eq!(status, 201, "{job}");
        let job: Value = serde_json::from_str(&job).unwrap();
        let path = format!("{JOB}/{}", job["id"].as_str().unwrap());
        let start = world.request(reqwest::Method::POST, START).header("X-Okapi-Token", "any");
        assert_eq!(world.send(start).await.0, 202);
        world
            .until("the synchronization is done", async |w: &World| {
                w.get_json(&path).await["status"] == "done"
            })
            .await;
        assert_eq!(world.get_json(&path).await["errors"], json!([]));
        assert_eq!(world.block_flags(user).await, [[false; 3]; 0]);
        assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 404);
    })
    .await;
}

/// Each balance is within its bound; the sum is greater and has as many decimals.
#[tokio::test(flavor = "multi_thread")]
async fn sum_of_largest_balances_is_evaluated_and_blocks() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::FeeFineBalance, 999_999.99).await;
        let user = world.users.add_patron(group);
        let most: Value = serde_json::from_str("9999999999999.999999999999999").unwrap();
        for _ in 0..40 {
            let owed = json!({ "userId": user, "feeFineId": Uuid::new_v4(), "balance": most });
            world.publish(FEE, &owed).await;
        }
        world.until_committed().await;
        assert_eq!(world.take_dead_letters().await, [""; 0]);
        assert_eq!(world.evaluation_source(user).await, "group-from-users");
        assert_eq!(world.block_flags(user).await, [[true; 3]]);
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openFeesFines"][39]["balance"].to_string(), most.to_string());
    })
    .await;
}

/// The due date is the last day of the calendar, in a zone behind UTC.
#[tokio::test(flavor = "multi_thread")]
async fn due_date_on_last_calendar_day_counts() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let due = "9999-12-31T23:59:59.000-05:00";
        let out = |loan: Uuid| json!({ "userId": user, "loanId": loan, "dueDate": due });
        let called = world.post(&Kind::ItemCheckedOut.http_path(), &out(Uuid::new_v4())).await;
        assert_eq!(called, (204, String::new()));
        world.publish(Kind::ItemCheckedOut, &out(Uuid::new_v4())).await;
        world.until_committed().await;
        assert_eq!(world.take_dead_letters().await, [""; 0]);
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        let loans = summary["openLoans"].as_array().unwrap();
        // Clients read years of four digits.
        let dates: Vec<&str> = loans.iter().map(|loan| loan["dueDate"].as_str().unwrap()).collect();
        assert_eq!(dates, ["9999-12-31T23:59:59.999+00:00"; 2]);
    })
    .await;
}
