//! The pages of the console, through both doors.

use std::{sync::Mutex, time::Instant};

use patron_blocks::{
    blocks::Measure,
    clock::Clock,
    event::{Kind, TenantId},
    services::{evaluation::policy::Policies, tenants::TenantRegistry},
};
use regex_lite::Regex;
use reqwest::{Method, StatusCode};
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

use crate::support::{
    http_client,
    payloads::{balance_change, check_out, minutes_from_now},
    world::{TENANT, World},
};

/// The console behind the gateway.
pub(super) const GATEWAY: &str = "/patron-blocks/console";

/// Returns the page at a path below the console behind the gateway.
pub(super) async fn page(world: &World, path: &str) -> String {
    let (status, body) = world.get(&format!("{GATEWAY}/{path}")).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Returns a patron with seven loans under a limit of five, and 12.50 to settle under a limit of ten.
pub(super) async fn blocked_patron(world: &World) -> (Uuid, Vec<Uuid>) {
    let group = Uuid::new_v4();
    let user = world.users.add_patron(group);
    world.add_limit(group, Measure::ChargedOut, 5.0).await;
    world.add_limit(group, Measure::FeeFineBalance, 10.0).await;
    let loans: Vec<Uuid> = (0..7).map(|_| Uuid::new_v4()).collect();
    for loan in &loans {
        let payload = check_out(user, *loan, &minutes_from_now(1440));
        world.publish(Kind::ItemCheckedOut, &payload).await;
    }
    let payload = balance_change(user, Uuid::new_v4(), None, 12.5);
    world.publish(Kind::FeeFineBalanceChanged, &payload).await;
    world.until_committed().await;
    (user, loans)
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_page_has_three_answers_and_the_way_out() {
    World::run(async |world| {
        let (user, _) = blocked_patron(world).await;
        let body = page(world, &format!("desk/{user}")).await;
        let answers = ["<h2>Borrow: no</h2>", "<h2>Renew: no</h2>", "<h2>Request: no</h2>"];
        for answer in answers {
            assert!(body.contains(answer), "{body}");
        }
        assert!(body.contains("<p>Return any 3 of 7 loans and settle 2.50.</p>"), "{body}");
        assert!(body.contains("<p>Return any 2 of 7 loans and settle 2.50.</p>"), "{body}");
        assert!(body.contains("After that, one more loan blocks again."));
        // The page lists what to ask for. All seven loans are on the page of the patron.
        assert_eq!(body.matches("<li id=\"loan-").count(), 3, "{body}");
        assert!(body.contains("<p>4 other loans can replace some of these. "), "{body}");
        assert!(body.contains(", balance 12.50. <span class=\"muted\">To borrow, renew, request."));
        assert!(body.contains("<li>Items charged out: 7, the limit is 5. Blocks borrow, renew"));
        assert!(body.contains("<li>Outstanding balance: 12.50, the limit is 10. Blocks borrow"));
        assert!(body.contains(&format!("href=\"../patron/{user}\"")), "{body}");
        let stranger = page(world, &format!("desk/{}", Uuid::new_v4())).await;
        assert_eq!(stranger.matches(": yes</h2>").count(), 3, "{stranger}");
        assert_eq!(stranger.matches("<li class=\"unsure\">").count(), 3, "{stranger}");
        assert!(stranger.contains("No loan, fee or fine of this id is known."));
        assert!(stranger.contains("The patron has no open loan, fee or fine."));
        let (status, invalid) = world.get(&format!("{GATEWAY}/desk/7")).await;
        assert_eq!(status, 400);
        assert!(invalid.contains("Invalid user UUID: &#34;7&#34;"), "{invalid}");
    })
    .await;
}

/// The only lost loan has no substitute, so not any three loans suffice.
#[tokio::test(flavor = "multi_thread")]
async fn desk_page_marks_loans_that_not_every_other_replaces() {
    World::run(async |world| {
        let (user, loans) = blocked_patron(world).await;
        let lost = loans[6];
        let payload = json!({ "userId": user, "loanId": lost });
        world.publish(Kind::ItemDeclaredLost, &payload).await;
        world.until_committed().await;
        let limits = world.get_json("/patron-block-limits").await;
        let group = limits["patronBlockLimits"][0]["patronGroupId"].as_str().unwrap();
        world.add_limit(group.parse().unwrap(), Measure::LostItems, 0.0).await;
        let body = page(world, &format!("desk/{user}")).await;
        assert!(body.contains("<p>Return the 3 marked loans and settle 2.50.</p>"), "{body}");
        let row = body.lines().find(|line| line.contains(&format!("loan-{lost}"))).unwrap();
        assert!(row.contains(", lost. <span class=\"muted\">To borrow, renew, request."), "{row}");
    })
    .await;
}

/// The console port has no token for calls, and an open page must not count as a failure of mod-users.
#[tokio::test(flavor = "multi_thread")]
async fn page_of_the_console_port_asks_no_other_module() {
    World::run(async |world| {
        let user = world.users.add_patron(Uuid::new_v4());
        world.add_limit(Uuid::new_v4(), Measure::ChargedOut, 0.0).await;
        let payload = check_out(user, Uuid::new_v4(), &minutes_from_now(1440));
        world.publish(Kind::ItemCheckedOut, &payload).await;
        world.until_committed().await;
        let url = format!("{}tenants/{TENANT}/desk/{user}", world.console_url());
        let body = http_client::client().get(&url).send().await.unwrap().text().await.unwrap();
        assert!(body.contains("The patron group is unknown, so no limit could be compared."));
        assert_eq!(body.matches("<li class=\"unsure\">").count(), 3, "{body}");
        assert_eq!(world.users.request_count(), 0);
        // Through the gateway, the token of the reader serves, and the group is known afterwards.
        page(world, &format!("desk/{user}")).await;
        assert_eq!(world.users.request_count(), 1);
        let body = http_client::client().get(&url).send().await.unwrap().text().await.unwrap();
        assert_eq!(body.matches("<li class=\"yes\">").count(), 3, "{body}");
        assert_eq!(world.users.request_count(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn desk_page_follows_the_certainty_policy() {
    World::run(async |world| {
        let (user, _) = blocked_patron(world).await;
        let doubtful = json!({ "borrowing": "allow", "requests": "block" });
        let policy = json!({ "policy": { "doubtful": doubtful } });
        assert_eq!(world.put("/patron-blocks/certainty-policy", &policy).await.0, 204);
        world.publish(Kind::ItemCheckedOut, &json!({ "userId": user })).await;
        // A slow read of the policy leaves the answer as it is known.
        let body = Mutex::new(String::new());
        world
            .until("the policy allows borrowing", async |w: &World| {
                let found = page(w, &format!("desk/{user}")).await;
                let is_allowed = found.contains("<h2>Borrow: yes</h2>");
                *body.lock().unwrap() = found;
                is_allowed
            })
            .await;
        let body = body.into_inner().unwrap();
        assert!(body.contains("This answer is doubtful"), "{body}");
        assert!(body.contains("The certainty policy allows it while the answer is not certain."));
        assert!(body.contains("<h2>Renew: no</h2>"));
        assert!(body.contains("The certainty policy blocks while the answer is not certain."));
        world.take_dead_letters().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_of_libraries_and_producers_is_no_markup() {
    const MARKUP: &str = "<script>alert(1)</script>\"'&";
    const ESCAPED: &str = "&#60;script&#62;alert(1)&#60;/script&#62;&#34;&#39;&#38;";
    World::run(async |world| {
        let (user, _) = blocked_patron(world).await;
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let mut condition = world.get_json(&path).await;
        condition["message"] = json!(MARKUP);
        assert_eq!(world.put(&path, &condition).await.0, 204);
        world.publish(Kind::LoanClosed, &json!({ "userId": user, "loanId": MARKUP })).await;
        world.until_committed().await;
        let desk = page(world, &format!("desk/{user}")).await;
        let list = page(world, "parked").await;
        let record = Regex::new(r#"href="(?:\.\./)*(parked/[0-9a-f-]{36})""#).unwrap();
        let record = &record.captures(&list).expect("a link to the record")[1];
        let record = page(world, record).await;
        assert!(desk.contains(ESCAPED), "{desk}");
        // The payload is JSON, so it has a backslash before the quotation mark.
        let in_json = ESCAPED.replace("&#34;", "\\&#34;");
        assert!(record.contains(&in_json), "{record}");
        let filter = "parked?query=field%3D%3D%22%3Cscript%3E%22";
        let filtered = page(world, filter).await;
        assert!(filtered.contains("No record is parked that matches the filter."), "{filtered}");
        for body in [&desk, &list, &record, &filtered] {
            assert_eq!(body.matches("<script").count(), 1, "only the script of the page: {body}");
        }
        assert_eq!(world.take_dead_letters().await.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_of_the_console_protect_patrons() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        let paths =
            ["home".to_owned(), format!("desk/{user}"), "desk/7".to_owned(), "no".to_owned()];
        for path in paths {
            let path = format!("{GATEWAY}/{path}");
            let request = world.request(Method::GET, &path).header("X-Okapi-Tenant", TENANT);
            let response = request.send().await.unwrap();
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("Cache-Control"), "no-store");
            assert_eq!(header("Referrer-Policy"), "same-origin");
            assert_eq!(header("X-Content-Type-Options"), "nosniff");
            let policy = header("Content-Security-Policy");
            assert!(policy.starts_with("default-src 'none'; script-src 'self'"), "{policy}");
            assert!(!policy.contains("unsafe"), "{policy}");
        }
        let without_tenant = world.request(Method::GET, &format!("{GATEWAY}/home"));
        let response = without_tenant.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert!(response.text().await.unwrap().contains("Tenant must be set"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn console_port_rejects_names_of_other_hosts() {
    World::run(async |world| {
        let url = format!("{}tenants/{TENANT}/home", world.console_url());
        let client = http_client::client();
        for (host, status) in [("localhost:1", 200), ("127.0.0.1", 200), ("evil.example", 404)] {
            let response = client.get(&url).header("Host", host).send().await.unwrap();
            assert_eq!(response.status(), status, "{host}");
        }
        // The port of the interfaces trusts the gateway, so a path must not name the tenant there.
        assert_eq!(world.get(&format!("/tenants/{TENANT}/home")).await.0, 404);
        let console = world.console_url();
        let blocks = format!("{console}automated-patron-blocks/{}", Uuid::new_v4());
        let blocks = client.get(blocks).header("X-Okapi-Tenant", TENANT).send().await.unwrap();
        assert_eq!(blocks.status(), 404, "the console port has only pages");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn home_names_what_needs_attention() {
    World::run(async |world| {
        let home = async |w: &World| page(w, "home").await;
        world
            .until("all is well", async |w: &World| home(w).await.contains("<h1>All is well.</h1>"))
            .await;
        world.publish(Kind::LoanClosed, &json!({ "userId": "x" })).await;
        world.until_committed().await;
        let body = home(world).await;
        assert!(body.contains("<h1>1 thing needs attention.</h1>"), "{body}");
        assert!(body.contains("1 record is parked, because the service could not apply them."));
        let raise = "insert into mod_patron_blocks.incident
            (incident_id, kind, topic, partition, from_offset, to_offset, detail, tenant, raised_at)
            values (gen_random_uuid(), 'records_lost', 'lost.topic', 3, 7, 9, 'two records', $T, now())";
        world.execute_sql(&raise.replace("$T", &format!("'{TENANT}'"))).await;
        let body = home(world).await;
        assert!(body.contains("things need attention.</h1>"), "{body}");
        assert!(body.contains("Records were deleted before they were read: lost.topic"), "{body}");
        let ingest = page(world, "ingest").await;
        assert!(ingest.contains("two records") && ingest.contains("7 to 9"), "{ingest}");
        world.take_incidents().await;
        world.take_dead_letters().await;
    })
    .await;
}

/// A page must not wait longer than a reader does.
#[tokio::test(flavor = "multi_thread")]
async fn page_names_the_database_if_it_does_not_respond() {
    World::run(async |world| {
        let user = Uuid::new_v4();
        page(world, &format!("desk/{user}")).await;
        for is_silent in [true, false] {
            if is_silent {
                world.proxy.freeze()
            } else {
                world.proxy.disconnect()
            }
            for path in [
                "home".to_owned(),
                format!("desk/{user}"),
                format!("patron/{user}"),
                "ingest".into(),
                "parked".into(),
            ] {
                let began = Instant::now();
                let (status, body) = world.get(&format!("{GATEWAY}/{path}")).await;
                let took = began.elapsed();
                assert_eq!(status, 503, "{body}");
                assert!(body.contains("The database does not respond"), "{body}");
                assert!(took.as_millis() < 3_500, "{path} took {took:?}");
            }
        }
        world.proxy.restore();
        world
            .until("the pages are there again", async |w: &World| {
                w.get(&format!("{GATEWAY}/home")).await.0 == 200
            })
            .await;
    })
    .await;
}

/// Pages wait for each other on one connection. No evaluation waits with them, not even for the limits.
#[tokio::test(flavor = "multi_thread")]
async fn evaluation_waits_for_no_page() {
    World::run(async |world| {
        let (user, _) = blocked_patron(world).await;
        let world = &*world;
        let path = format!("/patron-block-conditions/{}", Measure::ChargedOut.condition_id());
        let condition = world.get_json(&path).await;
        // After a change of the settings, the page or the evaluation loads them again, whichever is first.
        let change_and_evaluate = async || {
            assert_eq!(world.put(&path, &condition).await.0, 204);
            let began = Instant::now();
            (world.block_flags(user).await, began.elapsed())
        };
        let mut lock = world.db.begin().await.unwrap();
        let statement = format!("lock table {}.dead_letter", world.schema.name());
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *lock).await.unwrap();
        let paths = ["home".to_owned(), format!("desk/{user}"), format!("patron/{user}")];
        let pages = paths
            .iter()
            .cycle()
            .take(15)
            .map(async |path| world.get(&format!("{GATEWAY}/{path}")).await.0);
        let mut pages = std::pin::pin!(futures_util::future::join_all(pages));
        let mut evaluations = 0;
        let statuses = loop {
            tokio::select! {
                statuses = &mut pages => break statuses,
                (flags, took) = change_and_evaluate() => {
                    assert_eq!(flags, [[true; 3]; 2]);
                    assert!(took.as_millis() < 1_000, "evaluation {evaluations} took {took:?}");
                    evaluations += 1;
                }
            }
        };
        assert!(statuses.contains(&503), "a page waited for the lock: {statuses:?}");
        assert!(evaluations > 10, "{evaluations} evaluations while pages waited");
        lock.rollback().await.unwrap();
    })
    .await;
}

/// A page loads limits on the connection of the console, which may be busy. An evaluation that needs the same limits
/// loads them on a connection of its own.
#[tokio::test(flavor = "multi_thread")]
async fn evaluation_shares_no_load_of_limits_with_a_page() {
    World::run(async |world| {
        let registry = TenantRegistry::new(world.db.clone(), Clock::system());
        let tenant = registry.find(&TenantId::parse(TENANT).unwrap()).await.unwrap().unwrap();
        let console = PgPoolOptions::new()
            .max_connections(1)
            .connect_lazy_with((*world.db.connect_options()).clone());
        let busy = console.acquire().await.unwrap();
        let policies = Policies::default();
        let (of_page, of_evaluation) =
            (policies.get_unshared(&console, &tenant), policies.get(&world.db, &tenant));
        let loaded = tokio::select! {
            biased;
            _ = of_page => panic!("the connection is busy"),
            loaded = of_evaluation => loaded,
        };
        assert_eq!(loaded.unwrap().conditions.len(), 6);
        drop(busy);
        // From now on, the page finds the limits in memory.
        console.close().await;
        assert!(policies.get_unshared(&console, &tenant).await.is_ok());
    })
    .await;
}
