//! Explanations over HTTP and on the command line, from the rows that events created.

use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    payloads::{balance_change, check_out, due_date_change, loan_event, minutes_from_now},
    world::{TENANT, World},
};

fn path(user: Uuid) -> String {
    format!("/patron-blocks/explanations/{user}")
}

async fn borrow(world: &World, user: Uuid, minutes: i64) -> Uuid {
    let loan = Uuid::new_v4();
    let payload = check_out(user, loan, &minutes_from_now(minutes));
    world.publish(Kind::ItemCheckedOut, &payload).await;
    loan
}

/// Returns a patron with four loans under a limit of five.
async fn patron_with_four_loans(world: &World) -> Uuid {
    let group = Uuid::new_v4();
    world.add_limit(group, Measure::ChargedOut, 5.0).await;
    let user = world.users.add_patron(group);
    for _ in 0..4 {
        borrow(world, user, 60).await;
    }
    world.until_committed().await;
    user
}

async fn check_in(world: &World, user: Uuid, loan: &Value) {
    let loan = loan.as_str().unwrap().parse().unwrap();
    world.publish(Kind::ItemCheckedIn, &loan_event(user, loan)).await;
}

/// The example of the contract: too many items and too high a balance, with one claimed loan.
#[tokio::test(flavor = "multi_thread")]
async fn explanation_lists_limits_items_and_the_way_out() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        let items = world.add_limit(group, Measure::ChargedOut, 5.0).await;
        world.add_limit(group, Measure::OverdueItems, 2.0).await;
        let balance = world.add_limit(group, Measure::FeeFineBalance, 5.0).await;
        let user = world.users.add_patron(group);
        let overdue = borrow(world, user, -3 * 24 * 60).await;
        for _ in 0..6 {
            borrow(world, user, 7 * 24 * 60).await;
        }
        let claimed = borrow(world, user, 60).await;
        world.publish(Kind::ItemClaimedReturned, &loan_event(user, claimed)).await;
        let (fee, other) = (Uuid::new_v4(), Uuid::new_v4());
        world.publish(Kind::FeeFineBalanceChanged, &balance_change(user, fee, None, 9.50)).await;
        let of_claimed = balance_change(user, other, Some(claimed), 6.00);
        world.publish(Kind::FeeFineBalanceChanged, &of_claimed).await;
        world.until_committed().await;

        let explained = world.get_json(&path(user)).await;
        assert_eq!(explained["userId"], json!(user));
        assert_eq!(explained["patronGroup"]["id"], json!(group));
        assert_eq!(explained["totals"], json!({ "loans": 8, "feesFines": 2 }));
        assert_eq!(explained["countersDiffer"], Value::Null);
        let states = ["certain", "late", "doubtful"];
        assert!(states.contains(&explained["certainty"]["state"].as_str().unwrap()));
        let borrowing = &explained["actions"]["borrowing"];
        assert_eq!(borrowing["because"], json!([items["id"], balance["id"]]));
        let way_out = &borrowing["wayOut"];
        assert_eq!(way_out["returnLoans"]["count"], 3);
        assert_eq!(way_out["returnLoans"]["suggested"][0], json!(overdue));
        assert_eq!(way_out["returnLoans"]["others"].as_array().unwrap().len(), 4);
        assert_eq!(way_out["settle"], json!({ "amount": 4.5, "suggested": [fee] }));
        assert_eq!(way_out["caveats"], json!(["late-return-may-charge", "claim-adds-fees"]));
        assert_eq!(way_out["oneMoreBlocks"], json!(["charged-out"]));
        let renewals = &explained["actions"]["renewals"]["wayOut"];
        assert_eq!(renewals["returnLoans"]["count"], 2);
        let limits = explained["limits"].as_array().unwrap();
        let measures: Vec<_> = limits.iter().map(|limit| &limit["measure"]).collect();
        assert_eq!(measures, ["charged-out", "overdue", "balance"]);
        assert_eq!(limits[0]["reachedAt"], json!({ "borrowing": 5, "renewals": 6, "requests": 6 }));
        assert_eq!(limits[0]["leftOutBecause"], json!({ "claimed-returned": 1 }));
        assert_eq!((&limits[1]["measured"], &limits[1]["reached"]), (&json!(1), &json!([])));
        assert_eq!(limits[2]["reachedAbove"], 5);
        let fees = explained["feesFines"].as_array().unwrap();
        assert_eq!(fees[0]["feeFineId"], json!(fee));
        assert_eq!(fees[1]["leftOutBecause"], "loan-claimed-returned");

        // The way out frees the patron: the returns first, then the payment.
        for loan in way_out["returnLoans"]["suggested"].as_array().unwrap() {
            check_in(world, user, loan).await;
        }
        world.until_committed().await;
        assert_eq!(world.block_flags(user).await, [[true; 3]]);
        world.publish(Kind::FeeFineBalanceChanged, &balance_change(user, fee, None, 5.0)).await;
        world.until_committed().await;
        assert!(world.block_flags(user).await.is_empty());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explanation_of_an_unknown_patron_counts_nothing() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let explained = world.get_json(&path(user)).await;
        assert_eq!(explained["patronGroup"], json!({ "basis": "nothing-open" }));
        assert_eq!(explained["actions"]["borrowing"], json!({ "blocked": false }));
        for list in ["limits", "loans", "feesFines"] {
            assert_eq!(explained[list], json!([]), "{list}");
        }
        assert_eq!(explained["totals"], json!({ "loans": 0, "feesFines": 0 }));
        let (status, text) = world.get("/patron-blocks/explanations/unknown").await;
        assert_eq!((status, text.as_str()), (400, "Invalid user UUID: \"unknown\""));
        let (status, text) = world.get(&format!("{}?loanLimit=many", path(user))).await;
        assert_eq!(status, 400);
        assert!(text.contains("loanLimit"), "{text}");
    })
    .await;
}

/// The lists end at their limits; the totals are exact, and the measured numbers count every row.
#[tokio::test(flavor = "multi_thread")]
async fn lists_end_at_their_limits_and_totals_do_not() {
    World::run(async |world| {
        let user = patron_with_four_loans(world).await;
        let explained = world.get_json(&format!("{}?loanLimit=1", path(user))).await;
        assert_eq!(explained["loans"].as_array().unwrap().len(), 1);
        assert_eq!(explained["totals"]["loans"], 4);
        let schema = "{schema}";
        let add = |loans: i32| {
            format!(
                "insert into {schema}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date)
                 select gen_random_uuid(), '\\x01', '{user}', now() from generate_series(1, {loans});
                 update {schema}.patron_counter set open_loans = open_loans + {loans}
                  where user_id = '{user}'"
            )
        };
        world.execute_sql(&add(1_996)).await;
        let all = world.get_json(&format!("{}?loanLimit=5000", path(user))).await;
        assert_eq!(all["loans"].as_array().unwrap().len(), 2_000);
        assert_eq!(all["actions"]["borrowing"]["wayOut"]["returnLoans"]["count"], 1_996);
        world.execute_sql(&add(1)).await;
        let truncated = world.get_json(&format!("{}?loanLimit=5000", path(user))).await;
        assert_eq!(truncated["loans"].as_array().unwrap().len(), 2_000);
        assert_eq!(truncated["totals"], json!({ "loans": 2_001, "feesFines": 0, "truncated": true }));
        assert_eq!(truncated["limits"][0]["measured"], 2_001);
        assert_eq!(truncated["actions"]["borrowing"]["blocked"], true);
        assert_eq!(truncated["actions"]["borrowing"]["wayOut"], Value::Null);
    })
    .await;
}

/// A wrong counter is reported and repaired, and the explanation shows the rows.
#[tokio::test(flavor = "multi_thread")]
async fn explanation_repairs_wrong_counters() {
    World::run(async |world| {
        let user = patron_with_four_loans(world).await;
        let schema = "{schema}";
        let set = format!(
            "update {schema}.patron_counter set open_loans = 9 where user_id = '{user}'"
        );
        world.execute_sql(&set).await;
        assert_eq!(world.block_flags(user).await, [[true; 3]]);
        let explained = world.get_json(&path(user)).await;
        assert_eq!(explained["countersDiffer"], true);
        assert_eq!(explained["limits"][0]["measured"], 4);
        assert_eq!(explained["actions"]["borrowing"], json!({ "blocked": false }));
        world
            .until("the counters are repaired", async |world| {
                world.block_flags(user).await.is_empty()
            })
            .await;
        assert_eq!(world.get_json(&path(user)).await["countersDiffer"], Value::Null);

        // A patron without counters: the rows count.
        let delete = format!("delete from {schema}.patron_counter where user_id = '{user}'");
        world.execute_sql(&delete).await;
        let explained = world.get_json(&path(user)).await;
        assert_eq!((&explained["countersDiffer"], &explained["totals"]["loans"]), (&json!(true), &json!(4)));
        let count = format!(
            "select count(*) from {schema}.patron_counter where user_id = '{user}' and open_loans = 4"
        );
        world.until("the counters exist", async |world| world.count(&count).await == 1).await;
    })
    .await;
}

/// Blocks name numbers, ids and dates inside each block, and the response has no other member.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_carry_numbers_and_dates_inside_each_block() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        let limit = world.add_limit(group, Measure::ChargedOut, 5.0).await;
        let condition = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let mut record = world.get_json(&condition).await;
        let template = "{measured} of {limit} items. Return {toReturn} to borrow again. {unknown}";
        record["message"] = json!(template);
        assert_eq!(world.put(&condition, &record).await.0, 204);
        let user = world.users.add_patron(group);
        for _ in 0..7 {
            borrow(world, user, 60).await;
        }
        world.until_committed().await;
        let blocks = format!("/automated-patron-blocks/{user}");
        let answer = world.get_json(&blocks).await;
        assert_eq!(
            answer.as_object().unwrap().keys().collect::<Vec<_>>(),
            ["automatedPatronBlocks"]
        );
        let block = &answer["automatedPatronBlocks"][0];
        assert_eq!(block["message"], "7 of 5 items. Return 3 to borrow again. {unknown}");
        assert_eq!(block["id"], limit["id"]);
        assert!(block["metadata"]["createdDate"].is_string());
        assert_eq!(block.get("explanation"), None);
        for forbidden in ["type", "expirationDate", "desc", "borrowing", "renewals", "requests"] {
            assert_eq!(block.get(forbidden), None, "{forbidden}");
        }
        let answer = world.get_json(&format!("{blocks}?include=explanation")).await;
        assert_eq!(answer.as_object().unwrap().len(), 1);
        assert_eq!(
            answer["automatedPatronBlocks"][0]["explanation"],
            json!({ "measured": 7, "limit": 5.0, "toReturn": 3 })
        );
        for ignored in ["?include=everything", "?include=", "?include=%zz", "?other=1"] {
            assert_eq!(
                world.get_json(&format!("{blocks}{ignored}")).await["automatedPatronBlocks"][0],
                *block
            );
        }
        // The stored message stays as written.
        assert_eq!(world.get_json(&condition).await["message"], template);
    })
    .await;
}

/// An evaluation loads only the longest recall, unless a block shows how many loans the limit requires.
#[tokio::test(flavor = "multi_thread")]
async fn limit_of_days_counts_its_recalls_in_blocks() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::RecallOverdueDays, 2.0).await;
        let user = world.users.add_patron(group);
        for days in [1, 3, 4, 9] {
            let loan = borrow(world, user, 60).await;
            let due_date = minutes_from_now(-(days * 24 - 1) * 60);
            let change = due_date_change(user, loan, &due_date, true);
            world.publish(Kind::LoanDueDateChanged, &change).await;
        }
        world.until_committed().await;
        let blocks = format!("/automated-patron-blocks/{user}?include=explanation");
        let explained = &world.get_json(&blocks).await["automatedPatronBlocks"][0]["explanation"];
        assert_eq!(*explained, json!({ "measured": 9, "limit": 2.0, "toReturn": 3 }));
        let id = Measure::RecallOverdueDays.condition_id();
        let condition = format!("/patron-block-conditions/{id}");
        let mut record = world.get_json(&condition).await;
        record["message"] = json!("Return {toReturn} recalled items.");
        assert_eq!(world.put(&condition, &record).await.0, 204);
        let blocks = format!("/automated-patron-blocks/{user}");
        let message = &world.get_json(&blocks).await["automatedPatronBlocks"][0]["message"];
        assert_eq!(message, "Return 3 recalled items.");
    })
    .await;
}

/// The command prints the body of the HTTP interface, or words for a librarian.
#[tokio::test(flavor = "multi_thread")]
async fn explain_prints_reasons_and_the_way_out() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 1.0).await;
        world.add_limit(group, Measure::FeeFineBalance, 10.4).await;
        let user = world.users.add_patron(group);
        let loan = borrow(world, user, 60).await;
        let fee = Uuid::new_v4();
        world.publish(Kind::FeeFineBalanceChanged, &balance_change(user, fee, None, 12.5)).await;
        world.until_committed().await;
        let over_http = world.get_json(&path(user)).await;
        let user = user.to_string();
        let arguments = ["explain", "--tenant", TENANT, "--user", &user];
        let (code, words) = run_cli(world, &arguments);
        assert_eq!(code, Some(0), "{words}");
        for line in [
            "Borrowing: blocked\n",
            "  1 items charged out; blocked from 1 on\n",
            "  12.5 of fees/fines; blocked above 10.4\n",
            "  Way out: return 1 of the loans\n",
            &format!("    {loan}\n"),
            "  Way out: pay 2.1\n",
            &format!("    {fee}\n"),
        ] {
            assert!(words.contains(line), "{line} is missing:\n{words}");
        }
        let (code, text) = run_cli(world, &[&arguments[..], &["--json"]].concat());
        assert_eq!(code, Some(0), "{text}");
        let printed: Value = serde_json::from_str(text.trim()).unwrap();
        for member in ["actions", "limits", "loans", "feesFines", "totals"] {
            assert_eq!(printed[member], over_http[member], "{member}");
        }
        let (code, text) = run_cli(world, &["explain", "--tenant", "eastlib", "--user", &user]);
        assert_eq!((code, text.contains("eastlib is not enabled")), (Some(2), true), "{text}");
        let (code, text) = run_cli(world, &["explain", "--tenant", TENANT, "--user", "x"]);
        assert_eq!((code, text.contains("is not a UUID")), (Some(2), true), "{text}");
    })
    .await;
}
