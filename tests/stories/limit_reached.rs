//! A patron reaches a limit, in every shape and with every kind of event.

use patron_blocks::{blocks::Measure, event::Kind};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    log::OutgoingRecord,
    payloads::{
        balance_change, check_out, due_date_change, in_envelope, loan_event, minutes_from_now, now,
    },
    world::{TENANT, World},
};

const NONE: [[bool; 3]; 0] = [];

#[tokio::test(flavor = "multi_thread")]
async fn patron_at_limit_is_blocked_until_items_are_returned() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        let user = world.users.add_patron(group);
        world.add_limit(group, Measure::ChargedOut, 2.0).await;
        let loans: [Uuid; 3] = std::array::from_fn(|_| Uuid::new_v4());
        let tomorrow = minutes_from_now(1440);
        for (n, loan) in loans.iter().enumerate() {
            let payload = check_out(user, *loan, &tomorrow);
            // The shapes alternate.
            let payload = if n == 1 { in_envelope(&payload, now()) } else { payload };
            world.publish(Kind::ItemCheckedOut, &payload).await;
            world.until_committed().await;
            let expected: &[[bool; 3]] = match n {
                0 => &NONE,
                1 => &[[true, false, false]],
                _ => &[[true, true, true]],
            };
            assert_eq!(world.block_flags(user).await, expected, "after {} check-outs", n + 1);
        }
        world.publish(Kind::ItemCheckedIn, &loan_event(user, loans[0])).await;
        world.publish(Kind::LoanClosed, &in_envelope(&loan_event(user, loans[1]), now())).await;
        world.until_committed().await;
        assert_eq!(world.block_flags(user).await, NONE);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_kind_shows_in_the_summary_in_both_shapes() {
    for enveloping in [false, true] {
        World::run(async |world| {
            let shape = |payload: Value| {
                if enveloping { in_envelope(&payload, now()) } else { payload }
            };
            let user = Uuid::new_v4();
            let loans: [Uuid; 6] = std::array::from_fn(|_| Uuid::new_v4());
            let (paid, owed) = (Uuid::new_v4(), Uuid::new_v4());
            let (first, second) = (minutes_from_now(100), minutes_from_now(200));
            for loan in loans {
                let mut out = check_out(user, loan, &first);
                out["gracePeriod"] = json!({ "duration": 2, "intervalId": "Hours" });
                world.publish(Kind::ItemCheckedOut, &shape(out)).await;
            }
            let later = [
                (Kind::ItemDeclaredLost, loan_event(user, loans[0])),
                (Kind::ItemAgedToLost, loan_event(user, loans[1])),
                (Kind::ItemClaimedReturned, loan_event(user, loans[2])),
                (Kind::LoanDueDateChanged, due_date_change(user, loans[3], &second, true)),
                (Kind::ItemCheckedIn, loan_event(user, loans[4])),
                (Kind::LoanClosed, loan_event(user, loans[5])),
                (Kind::FeeFineBalanceChanged, balance_change(user, paid, None, 5.0)),
                (Kind::FeeFineBalanceChanged, balance_change(user, owed, Some(loans[0]), 12.55)),
            ];
            for (kind, payload) in later {
                world.publish(kind, &shape(payload)).await;
            }
            let deleted = json!({ "feeFineId": paid, "balance": 0.0 });
            world.publish(Kind::FeeFineBalanceChanged, &shape(deleted)).await;
            world.until_committed().await;

            let summary = world.get_json(&format!("/user-summary/{user}")).await;
            let listed_loan = |loan: Uuid| {
                let loans = summary["openLoans"].as_array().unwrap();
                loans.iter().find(|entry| entry["loanId"] == json!(loan)).cloned()
            };
            let expected = |loan: Uuid, due: &str, recall: bool, lost: bool, claimed: bool| {
                Some(json!({
                    "loanId": loan, "dueDate": due.replace('Z', "+00:00"), "recall": recall,
                    "itemLost": lost, "itemClaimedReturned": claimed,
                    "gracePeriod": { "duration": 2, "intervalId": "Hours" },
                }))
            };
            assert_eq!(listed_loan(loans[0]), expected(loans[0], &first, false, true, false));
            assert_eq!(listed_loan(loans[1]), expected(loans[1], &first, false, true, false));
            assert_eq!(listed_loan(loans[2]), expected(loans[2], &first, false, false, true));
            assert_eq!(listed_loan(loans[3]), expected(loans[3], &second, true, false, false));
            assert_eq!(listed_loan(loans[4]), None);
            assert_eq!(listed_loan(loans[5]), None);
            let fees = summary["openFeesFines"].as_array().unwrap();
            assert_eq!(fees.len(), 1);
            assert_eq!(fees[0]["feeFineId"], json!(owed));
            assert_eq!(fees[0]["loanId"], json!(loans[0]));
            assert_eq!(fees[0]["balance"].to_string(), "12.55");
            assert!(summary["_version"].as_i64().unwrap() >= 1);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_in_before_check_out_leaves_no_open_loan() {
    World::run(async |world| {
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        world.publish(Kind::ItemCheckedIn, &loan_event(user, loan)).await;
        world.until_committed().await;
        world.publish(Kind::ItemCheckedOut, &check_out(user, loan, &minutes_from_now(60))).await;
        world.until_committed().await;
        assert_eq!(world.get(&format!("/user-summary/{user}")).await.0, 404);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_record_becomes_dead_letter_and_others_apply() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let tomorrow = minutes_from_now(1440);
        let brackets = "[".repeat(1_000_000);
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut);
        for bad in [
            b"no json".as_slice(),
            json!({ "userId": user, "dueDate": tomorrow }).to_string().as_bytes(),
            brackets.as_bytes(),
        ] {
            let good = check_out(user, Uuid::new_v4(), &tomorrow);
            world.publish(Kind::ItemCheckedOut, &good).await;
            world.log.publish(Kind::ItemCheckedOut, bad).await;
        }
        // The header names another tenant than the topic, so the record belongs to no tenant and leaves
        // no position of this tenant.
        world
            .log
            .send_untracked(OutgoingRecord {
                topic,
                headers: vec![("folio.tenantId", "southlib"), ("x-okapi-token", "a.secret.token")],
                payload: Some(check_out(user, Uuid::new_v4(), &tomorrow).to_string().as_bytes()),
                timestamp: None,
            })
            .await;
        world.until_committed().await;
        let shared_dead_letters = "select count(*) from mod_patron_blocks.dead_letter";
        world
            .until("the record of the other tenant is a dead letter", async |w: &World| {
                w.count(shared_dead_letters).await == 1
            })
            .await;
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openLoans"].as_array().unwrap().len(), 3);
        let full_payloads =
            "select count(*) from {schema}.dead_letter where length(payload) = 1000000";
        assert_eq!(world.count(full_payloads).await, 1, "the dead letter has the bytes");
        let tokens =
            "select count(*) from {schema}.dead_letter where headers::text like '%secret%'";
        assert_eq!(world.count(tokens).await, 0, "the dead letter has no token");
        assert_eq!(
            world.take_dead_letters().await,
            ["malformed_json", "malformed_json", "missing_field", "tenant_mismatch"]
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redelivery_and_resend_change_nothing() {
    World::run(async |world| {
        let (user, loan) = (Uuid::new_v4(), Uuid::new_v4());
        let out = in_envelope(&check_out(user, loan, &minutes_from_now(60)), now());
        for _ in 0..3 {
            world.publish(Kind::ItemCheckedOut, &out).await;
        }
        let bare = balance_change(user, Uuid::new_v4(), None, 3.0);
        for _ in 0..3 {
            world.publish(Kind::FeeFineBalanceChanged, &bare).await;
        }
        world.until_committed().await;
        let before = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(before["openLoans"].as_array().unwrap().len(), 1);
        assert_eq!(before["openFeesFines"].as_array().unwrap().len(), 1);
        assert_eq!(world.count("select count(*) from {schema}.inbox").await, 4);
        world.publish(Kind::ItemCheckedOut, &out).await;
        world.until_committed().await;
        assert_eq!(world.get_json(&format!("/user-summary/{user}")).await, before);
    })
    .await;
}
