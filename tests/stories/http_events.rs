//! Events over HTTP: durable at the response 204, and equal to the facts from the log.

use futures_util::future::join_all;
use patron_blocks::event::Kind;
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    payloads::{balance_change, check_out, due_date_change, loan_event, minutes_from_now},
    world::World,
};

async fn post_event(world: &World, kind: Kind, payload: &Value) {
    let answer = world.post(&kind.http_path(), payload).await;
    assert_eq!(answer, (204, String::new()), "{kind:?}");
}

async fn open_loans(world: &World, user: Uuid) -> usize {
    let summary = world.get_json(&format!("/user-summary/{user}")).await;
    summary["openLoans"].as_array().unwrap().len()
}

#[tokio::test(flavor = "multi_thread")]
async fn http_events_count_when_answered_and_repeats_do_not() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let loans: [Uuid; 7] = std::array::from_fn(|_| Uuid::new_v4());
        let (first, second) = (minutes_from_now(100), minutes_from_now(200));
        let mut calls: Vec<_> = loans[1..]
            .iter()
            .map(|loan| (Kind::ItemCheckedOut, check_out(user, *loan, &first)))
            .collect();
        // A loan policy without grace sends a grace period of 0, which must not reject the loan.
        calls[0].1["gracePeriod"] = json!({ "duration": 0, "intervalId": "Days" });
        calls[1].1["gracePeriod"] = json!({ "duration": 2, "intervalId": "Hours" });
        calls.extend([
            (Kind::ItemDeclaredLost, loan_event(user, loans[1])),
            (Kind::ItemAgedToLost, loan_event(user, loans[2])),
            (Kind::ItemClaimedReturned, loan_event(user, loans[3])),
            (Kind::LoanDueDateChanged, due_date_change(user, loans[4], &second, true)),
            (Kind::ItemCheckedIn, loan_event(user, loans[5])),
            (Kind::LoanClosed, loan_event(user, loans[6])),
            (Kind::FeeFineBalanceChanged, balance_change(user, loans[0], Some(loans[1]), 12.55)),
        ]);
        for (kind, payload) in &calls {
            post_event(world, *kind, payload).await;
        }
        // A repeat from the log opens no loan that an HTTP event has ended.
        world.publish(Kind::ItemCheckedOut, &check_out(user, loans[6], &first)).await;
        world.until_committed().await;
        let summary = world.get_json(&format!("/user-summary/{user}")).await;
        let of = |loan: Uuid| {
            let open = summary["openLoans"].as_array().unwrap();
            open.iter().find(|l| l["loanId"] == json!(loan)).cloned().unwrap_or_default()
        };
        assert_eq!(summary["openLoans"].as_array().unwrap().len(), 4);
        assert_eq!([&of(loans[1])["itemLost"], &of(loans[2])["itemLost"]], [true, true]);
        assert_eq!(of(loans[1]).get("gracePeriod"), None);
        assert_eq!(of(loans[2])["gracePeriod"], json!({ "duration": 2, "intervalId": "Hours" }));
        assert_eq!(of(loans[3])["itemClaimedReturned"], true);
        assert_eq!(of(loans[4])["recall"], true);
        assert_eq!(of(loans[4])["dueDate"], second.replace('Z', "+00:00"));
        assert_eq!(summary["openFeesFines"][0]["balance"], json!(12.55));

        for (kind, payload) in &calls {
            post_event(world, *kind, payload).await;
        }
        let again = world.get_json(&format!("/user-summary/{user}")).await;
        assert_eq!(again["openLoans"], summary["openLoans"]);
        assert_eq!(again["openFeesFines"], summary["openFeesFines"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_event_burst_is_counted_and_shares_transactions() {
    World::run(async |world| {
        const CALLERS: usize = 300;
        let (user, tomorrow) = (Uuid::new_v4(), minutes_from_now(1440));
        let world = &*world;
        let calls = (0..CALLERS).map(|_| {
            let payload = check_out(user, Uuid::new_v4(), &tomorrow);
            async move { post_event(world, Kind::ItemCheckedOut, &payload).await }
        });
        join_all(calls).await;
        assert_eq!(open_loans(world, user).await, CALLERS);
        let transactions =
            world.count("select count(distinct xmin::text::int8) from {schema}.inbox").await;
        assert!(transactions < CALLERS as i64 / 2, "{transactions} transactions");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_http_event_is_rejected_with_member_and_rule() {
    World::run(async |world| {
        let id = Uuid::new_v4();
        let invalid = |code: &str, key: &str, value: &str| {
            let code = format!("jakarta.validation.constraints.{code}.message");
            (422, Some((code, key.to_owned(), value.to_owned())))
        };
        let unreadable = (400, None);
        for (kind, body, expected) in [
            (Kind::LoanClosed, json!({ "loanId": id }), invalid("NotNull", "userId", "null")),
            (Kind::ItemCheckedIn, json!({ "loanId": id }), invalid("NotNull", "userId", "null")),
            (
                Kind::LoanClosed,
                json!({ "userId": id, "loanId": "7" }),
                invalid("Pattern", "loanId", "7"),
            ),
            (Kind::LoanClosed, json!({ "userId": id, "loanId": 7 }), unreadable.clone()),
            (Kind::ItemCheckedOut, loan_event(id, id), invalid("NotNull", "dueDate", "null")),
            (Kind::ItemCheckedOut, check_out(id, id, "soon"), unreadable.clone()),
            (
                Kind::LoanDueDateChanged,
                check_out(id, id, &minutes_from_now(1)),
                invalid("NotNull", "dueDateChangedByRecall", "null"),
            ),
            (
                Kind::FeeFineBalanceChanged,
                json!({ "feeFineId": id }),
                invalid("NotNull", "balance", "null"),
            ),
            (
                Kind::FeeFineBalanceChanged,
                json!({ "feeFineId": id, "balance": "much" }),
                unreadable.clone(),
            ),
            (Kind::LoanClosed, json!([id]), unreadable.clone()),
        ] {
            let (status, answer) = world.post(&kind.http_path(), &body).await;
            let parameter_error = (status == 422).then(|| {
                let errors: Value = serde_json::from_str(&answer).unwrap();
                let error = &errors["errors"][0];
                let text = |value: &Value| value.as_str().unwrap().to_owned();
                let parameter = &error["parameters"][0];
                (text(&error["code"]), text(&parameter["key"]), text(&parameter["value"]))
            });
            assert_eq!((status, parameter_error), expected, "{kind:?} {body}: {answer}");
            assert!(!answer.is_empty());
        }
        let closed = Kind::LoanClosed.http_path();
        let half = world.request(Method::POST, &closed).body("{");
        assert_eq!(world.send(half).await.0, 400);
        let xml = world.request(Method::POST, &closed).header("Content-Type", "text/xml");
        assert_eq!(world.send(xml.body("{}")).await.0, 400);
        assert_eq!(world.get(&closed).await.0, 405);
        let other = world.request(Method::POST, &closed).json(&loan_event(id, id));
        let other = other.header("X-Okapi-Tenant", "southlib").send().await.unwrap();
        assert_eq!(other.status(), 400);
        assert!(other.text().await.unwrap().contains("southlib"));
    })
    .await;
}

/// Kafka and HTTP accept the same bytes: members that the decoder ignores may have any value.
#[tokio::test(flavor = "multi_thread")]
async fn unread_members_of_http_events_may_have_any_value() {
    World::run(async |world| {
        let (user, due) = (Uuid::new_v4(), minutes_from_now(60));
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        let odd = [r#""\ud800""#, r#""\udc00 and \ud800""#, &deep, "1e400", "-1e-99999"];
        for (n, odd) in odd.into_iter().enumerate() {
            let out = |loan: Uuid| {
                let text = check_out(user, loan, &due).to_string();
                format!("{},\"title\":{odd}}}", text.strip_suffix('}').unwrap())
            };
            let path = Kind::ItemCheckedOut.http_path();
            let body = out(Uuid::new_v4());
            let request =
                world.request(Method::POST, &path).header("Content-Type", "application/json");
            assert_eq!(world.send(request.body(body)).await, (204, String::new()), "{odd}");
            world.log.publish(Kind::ItemCheckedOut, out(Uuid::new_v4()).as_bytes()).await;
            world.until_committed().await;
            assert_eq!(open_loans(world, user).await, 2 * (n + 1), "{odd}");
        }
        // A member that the decoder reads must be valid, and the error names it, whatever the other
        // members are.
        let body = format!(r#"{{"loanId":"7","userId":"{user}","title":"\ud800"}}"#);
        let closed = Kind::LoanClosed.http_path();
        let (status, answer) = world.send(world.request(Method::POST, &closed).body(body)).await;
        assert_eq!(status, 422, "{answer}");
        assert!(answer.contains("Pattern") && answer.contains("loanId"), "{answer}");
        let body = format!(r#"{{"loanId":"\ud800","userId":"{user}"}}"#);
        let (status, answer) = world.send(world.request(Method::POST, &closed).body(body)).await;
        assert_eq!(status, 400, "{answer}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_events_get_503_while_database_is_unavailable() {
    World::run(async |world| {
        let (user, tomorrow) = (Uuid::new_v4(), minutes_from_now(1440));
        post_event(world, Kind::ItemCheckedOut, &check_out(user, Uuid::new_v4(), &tomorrow)).await;
        world.proxy.disconnect();
        let checked_out = check_out(user, Uuid::new_v4(), &tomorrow);
        let request = world
            .request(Method::POST, &Kind::ItemCheckedOut.http_path())
            .header("X-Okapi-Tenant", crate::support::world::TENANT);
        let answer = request.json(&checked_out).send().await.unwrap();
        assert_eq!(answer.status(), 503);
        assert_eq!(answer.headers()["Retry-After"], "1");
        world.proxy.restore();
        world
            .until("the service stores the event", async |world: &World| {
                world.post(&Kind::ItemCheckedOut.http_path(), &checked_out).await.0 == 204
            })
            .await;
        assert_eq!(open_loans(world, user).await, 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn event_refused_by_database_fails_no_other_caller() {
    World::run(async |world| {
        let (user, tomorrow) = (Uuid::new_v4(), minutes_from_now(1440));
        let refused = Uuid::new_v4();
        let rule = format!("check (loan_id <> '{refused}')");
        world
            .execute_sql(&format!("alter table {{schema}}.loan add constraint unlucky {rule}"))
            .await;
        let world = &*world;
        let loans = (0..50).map(|n| if n == 25 { refused } else { Uuid::new_v4() });
        let calls = loans.map(|loan| {
            let payload = check_out(user, loan, &tomorrow);
            async move { world.post(&Kind::ItemCheckedOut.http_path(), &payload).await.0 }
        });
        let statuses = join_all(calls).await;
        assert_eq!(statuses.iter().filter(|status| **status == 204).count(), 49);
        assert_eq!(statuses[25], 500);
        assert_eq!(open_loans(world, user).await, 49);
    })
    .await;
}
