//! Acts in the console: who may act, what an act changes, and its entry in the log.

use patron_blocks::{
    blocks::Measure,
    console::{GATEWAY_ROOT, roles::permission},
    event::Kind,
    services::operator_actions::Action,
};
use regex_lite::Regex;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    http_client,
    payloads::{check_out, loan_event, minutes_from_now},
    world::{TENANT, World},
};

/// The member of a parked payload that [`mend`] replaces.
const BROKEN: &str = "broken";

/// An instant after all records of a story.
const UNTIL: &str = "2999-01-01T00:00:00.000+00:00";

pub(super) const REASON: &str = "ticket 4711";

/// A page after an act.
pub(super) struct After {
    pub(super) status: StatusCode,
    location: Option<String>,
    pub(super) body: String,
}

impl After {
    /// Returns the path of the redirect from the root of the console.
    pub(super) fn path(&self) -> &str {
        let location = self.location.as_deref().unwrap_or_else(|| panic!("{}", self.body));
        assert_eq!(self.status, StatusCode::SEE_OTHER);
        location.trim_start_matches("../")
    }
}

/// Sends a form as a page of the console does, behind the gateway.
pub(super) async fn submit(world: &World, path: &str, form: &[(&str, &str)]) -> After {
    let all: Vec<&str> = Action::ALL.into_iter().filter_map(permission).collect();
    submit_with(
        world,
        path,
        form,
        &[("Sec-Fetch-Site", "same-origin"), ("X-Okapi-Permissions", &json!(all).to_string())],
    )
    .await
}

async fn submit_with(
    world: &World,
    path: &str,
    form: &[(&str, &str)],
    headers: &[(&str, &str)],
) -> After {
    let mut request = http_client::client_without_redirects()
        .post(format!("{}{GATEWAY_ROOT}/{path}", world.url()))
        .header("X-Okapi-Tenant", TENANT)
        .header("X-Okapi-Url", world.users.url())
        .header("X-Okapi-User-Id", "desk-1")
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(serde_urlencoded::to_string(form).unwrap());
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = request.send().await.unwrap();
    let location = response.headers().get("Location");
    let location = location.map(|location| location.to_str().unwrap().to_owned());
    After { status: response.status(), location, body: response.text().await.unwrap() }
}

/// Returns a page that the reader sees with all permissions.
pub(super) async fn page(world: &World, path: &str) -> String {
    let all: Vec<&str> = Action::ALL.into_iter().filter_map(permission).collect();
    let request = world
        .request(Method::GET, &format!("{GATEWAY_ROOT}/{path}"))
        .header("X-Okapi-Permissions", json!(all).to_string());
    let (status, body) = world.send(request).await;
    assert_eq!(status, 200, "{body}");
    body
}

/// Returns the acts of the console in the log: action, reason and outcome.
pub(super) async fn log(world: &World) -> Vec<(String, Option<String>, String)> {
    log_of(world, "console").await
}

async fn log_of(world: &World, door: &str) -> Vec<(String, Option<String>, String)> {
    let sql = format!(
        "select action, reason, outcome from {}.operator_action where door = '{door}' order by number",
        world.schema.name()
    );
    sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(&world.db).await.unwrap()
}

/// Parks a record of this payload, with [`BROKEN`] as `userId`.
pub(super) async fn park(world: &World, kind: Kind, mut payload: Value) -> String {
    payload["userId"] = json!(BROKEN);
    world.publish(kind, &payload).await;
    world.until_committed().await;
    let loan = payload["loanId"].as_str().unwrap();
    let sql = format!(
        "select dead_letter_id::text from {}.dead_letter where '{loan}'::uuid = any(subjects)",
        world.schema.name()
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&world.db).await.unwrap()
}

/// Replaces the broken member of a parked record, as a new version of the service that reads it would.
pub(super) async fn mend(world: &World, id: &str, user: Uuid) {
    let sql = format!(
        "update {{schema}}.dead_letter
            set payload = convert_to(replace(convert_from(payload, 'UTF8'), '{BROKEN}', '{user}'), 'UTF8')
          where dead_letter_id = '{id}'"
    );
    world.execute_sql(&sql).await;
}

/// Returns a patron with `count` loans, and the loans.
pub(super) async fn patron(world: &World, group: Uuid, count: usize) -> (Uuid, Vec<Uuid>) {
    let user = world.users.add_patron(group);
    let loans: Vec<Uuid> = (0..count).map(|_| Uuid::new_v4()).collect();
    for loan in &loans {
        let payload = check_out(user, *loan, &minutes_from_now(1440));
        world.publish(Kind::ItemCheckedOut, &payload).await;
    }
    world.until_committed().await;
    // An evaluation makes the patron group known.
    world.block_flags(user).await;
    (user, loans)
}

/// The path of a form, its fields, and the actions that it needs.
type ForgedForm<'a> = (String, Vec<(&'a str, &'a str)>, &'a [Action]);

#[tokio::test(flavor = "multi_thread")]
async fn forged_forms_and_readers_without_permission_change_nothing() {
    World::run(async |world| {
        let id = park(world, Kind::LoanClosed, loan_event(Uuid::new_v4(), Uuid::new_v4())).await;
        let group = Uuid::new_v4().to_string();
        let condition = Measure::ChargedOut.condition_id().to_string();
        let rebuild = Uuid::new_v4();
        let reason = ("reason", REASON);
        let forms: Vec<ForgedForm<'_>> = vec![
            (format!("parked/{id}/retry"), vec![reason], &[Action::RetryRecord]),
            (format!("parked/{id}/discard"), vec![reason], &[Action::DiscardRecord]),
            (format!("discarded/{id}/restore"), vec![reason], &[Action::RestoreRecord]),
            (
                "parked/bulk".into(),
                vec![
                    ("act", "discard"),
                    ("query", ""),
                    ("until", UNTIL),
                    ("count", "1"),
                    ("after", ""),
                    reason,
                ],
                &[Action::DiscardRecords],
            ),
            (
                "parked/bulk".into(),
                vec![
                    ("act", "retry"),
                    ("query", ""),
                    ("until", UNTIL),
                    ("count", "1"),
                    ("after", ""),
                    reason,
                ],
                &[Action::RetryRecords],
            ),
            ("discarded/restore".into(), vec![("count", "0"), reason], &[Action::RestoreRecords]),
            (format!("incidents/{id}/resolve"), vec![reason], &[Action::ResolveIncident]),
            (
                "rebuilds".into(),
                vec![("source", "topics"), ("from", ""), ("user", ""), reason],
                &[Action::RequestRebuild],
            ),
            (format!("rebuilds/{rebuild}/apply"), vec![reason], &[Action::ApplyRebuild]),
            (format!("rebuilds/{rebuild}/cancel"), vec![reason], &[Action::CancelRebuild]),
            ("exports".into(), vec![("topic", "x.y"), reason], &[Action::RequestExport]),
            (format!("exports/{rebuild}/cancel"), vec![reason], &[Action::CancelExport]),
            (
                "limits".into(),
                vec![("group", &group), ("condition", &condition), ("value", "3"), reason],
                &[Action::CreateLimit],
            ),
        ];
        for (path, form, needed) in &forms {
            let others: Vec<&str> = Action::ALL
                .into_iter()
                .filter_map(permission)
                .filter(|one| !needed.iter().any(|action| permission(*action) == Some(*one)))
                .collect();
            let all: Vec<&str> = Action::ALL.into_iter().filter_map(permission).collect();
            let all = json!(all).to_string();
            let others = json!(others).to_string();
            let all = ("X-Okapi-Permissions", &*all);
            let same = ("Sec-Fetch-Site", "same-origin");
            for headers in [
                vec![all],
                vec![all, ("Sec-Fetch-Site", "cross-site")],
                vec![all, ("Origin", "http://evil.example")],
                vec![same],
                vec![same, ("X-Okapi-Permissions", "[]")],
                vec![same, ("X-Okapi-Permissions", "no json")],
                vec![same, ("X-Okapi-Permissions", &others)],
            ] {
                let after = submit_with(world, path, form, &headers).await;
                assert_eq!(
                    after.status,
                    StatusCode::FORBIDDEN,
                    "{path} {headers:?}: {}",
                    after.body
                );
                assert!(after.body.contains("Nothing was done."), "{}", after.body);
            }
            let bad = [("reason", "?")];
            let form: Vec<_> =
                form.iter().filter(|(name, _)| *name != "reason").chain(&bad).copied().collect();
            let after = submit_with(world, path, &form, &[all, same]).await;
            assert_eq!(after.status, StatusCode::UNPROCESSABLE_ENTITY, "{path}: {}", after.body);
        }
        assert_eq!(log(world).await, []);
        assert!(world.get_json("/patron-block-limits").await["totalRecords"] == 0);
        // Without the permissions, the pages have no form but those of searches.
        for path in
            ["parked".to_owned(), format!("parked/{id}"), "rebuilds".into(), "limits".into()]
        {
            let (status, body) = world.get(&format!("{GATEWAY_ROOT}/{path}")).await;
            assert_eq!(status, 200);
            assert!(
                !body.contains("method=\"post\"") && !body.contains("preview"),
                "{path}: {body}"
            );
            let body = page(world, &path).await;
            assert!(body.contains("method=\"post\"") || body.contains("preview"), "{path}: {body}");
        }
        assert_eq!(world.take_dead_letters().await.len(), 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rebuild_is_started_read_applied_and_cancelled_in_the_console() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 1.0).await;
        let (user, loans) = patron(world, group, 2).await;
        let forget = format!("delete from {{schema}}.loan where loan_id = '{}'", loans[0]);
        world.execute_sql(&forget).await;
        let user_text = user.to_string();
        let form =
            [("source", "topics"), ("from", "earliest"), ("user", &*user_text), ("reason", REASON)];
        let requested = submit(world, "rebuilds", &form).await;
        let path = requested.path().split('?').next().unwrap().to_owned();
        world
            .until("the rebuild has its differences", async |w: &World| {
                page(w, &path).await.contains("waits for a decision")
            })
            .await;
        let body = page(world, &path).await;
        assert!(body.contains("The stored state differs from the source for 1 patron."), "{body}");
        assert!(body.contains(&format!("loan {} is missing here", loans[0])), "{body}");
        assert!(body.contains(&format!("patron/{user}")), "{body}");
        let applied = submit(world, &format!("{path}/apply"), &[("reason", REASON)]).await;
        assert!(page(world, applied.path()).await.contains("applied in the background"));
        world
            .until("the rebuild is done", async |w: &World| {
                page(w, &path).await.contains("State: <b>done</b>")
            })
            .await;
        assert_eq!(world.block_flags(user).await, [[true; 3]]);
        let late = submit(world, &format!("{path}/cancel"), &[("reason", REASON)]).await;
        assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.body);
        let bad = [("source", "inbox"), ("from", "yesterday"), ("user", ""), ("reason", REASON)];
        let bad = submit(world, "rebuilds", &bad).await;
        assert_eq!(bad.status, StatusCode::BAD_REQUEST);
        assert!(bad.body.contains("from must be earliest"), "{}", bad.body);
        // The console port has no token for the storage modules.
        let storage = [("source", "storage"), ("from", ""), ("user", ""), ("reason", REASON)];
        let url = format!("{}tenants/{TENANT}/rebuilds", world.console_url());
        let request = http_client::client()
            .post(url)
            .header("Content-Type", "application/x-www-form-urlencoded")
            .header("Sec-Fetch-Site", "same-origin")
            .body(serde_urlencoded::to_string(storage).unwrap());
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        let outcomes: Vec<String> = log(world).await.into_iter().map(|(_, _, end)| end).collect();
        assert_eq!(outcomes, ["done", "done", "failed"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn limit_is_set_changed_and_removed_in_the_console() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        let (user, _) = patron(world, group, 2).await;
        // The condition blocks and has a message.
        world.add_limit(Uuid::new_v4(), Measure::ChargedOut, 9.0).await;
        let (group, condition) =
            (group.to_string(), Measure::ChargedOut.condition_id().to_string());
        let set = async |value: &str| {
            let form = [
                ("group", &*group),
                ("condition", &*condition),
                ("value", value),
                ("reason", REASON),
            ];
            submit(world, "limits", &form).await
        };
        for (value, sentence, blocks) in [
            ("1", "The limit is 1.0 now. There was none before.", 1),
            ("2.5", "", 1),
            ("7", "The limit was 1.0 and is 7.0 now.", 0),
            ("x", "", 0),
            ("2", "The limit was 7.0 and is 2.0 now.", 1),
            ("", "The limit was 2.0. There is none now.", 0),
        ] {
            let after = set(value).await;
            if sentence.is_empty() {
                assert!(after.status.is_client_error(), "{value}: {}", after.body);
            } else {
                let body = page(world, after.path()).await;
                assert!(body.contains(sentence), "{value}: {body}");
            }
            assert_eq!(world.block_flags(user).await.len(), blocks, "{value}");
        }
        assert_eq!(set("").await.status, StatusCode::CONFLICT);
        let body = page(world, "limits").await;
        assert!(body.contains("<h2>Limits of patron groups</h2>"), "{body}");
        assert!(body.contains("charged-out") || body.contains("Items charged out"), "{body}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn export_is_requested_in_the_console() {
    World::run(async |world| {
        patron(world, Uuid::new_v4(), 1).await;
        let unknown = submit(world, "exports", &[("topic", "no.topic"), ("reason", REASON)]).await;
        assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
        assert!(
            unknown.body.contains("The topic does not exist. Nothing was done."),
            "{}",
            unknown.body
        );
        let topic =
            world.log.topic(TENANT, Kind::ItemCheckedOut).replace("ITEM_CHECKED_OUT", "summaries");
        world.log.create_topics(vec![topic.clone()]).await;
        let after = submit(world, "exports", &[("topic", &topic), ("reason", REASON)]).await;
        let body = page(world, after.path()).await;
        assert!(body.contains("The export is requested.") && body.contains(&topic), "{body}");
        world
            .until("the export is done", async |w: &World| {
                page(w, "messages").await.contains("<td>1 of 1</td><td>done</td>")
            })
            .await;
        let job = "select id from mod_patron_blocks.job where kind = 'summary_export'";
        let job: Uuid = sqlx::query_scalar(job).fetch_one(&world.db).await.unwrap();
        let late = submit(world, &format!("exports/{job}/cancel"), &[("reason", REASON)]).await;
        assert_eq!(late.status, StatusCode::CONFLICT, "{}", late.body);
        let ends: Vec<String> = log(world).await.into_iter().map(|(_, _, end)| end).collect();
        assert_eq!(ends, ["done", "failed"]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incident_is_resolved_in_the_console() {
    World::run(async |world| {
        let raise = "insert into mod_patron_blocks.incident
            (incident_id, kind, topic, partition, from_offset, to_offset, detail, tenant, raised_at)
            values (gen_random_uuid(), 'records_lost', 'lost.topic', 3, 7, 9, 'two records', $T, now())";
        world.execute_sql(&raise.replace("$T", &format!("'{TENANT}'"))).await;
        let ingest = page(world, "ingest").await;
        let action = Regex::new(r#"action="[./]*(incidents/[0-9a-f-]{36}/resolve)""#).unwrap();
        let action = action.captures(&ingest).expect("a form")[1].to_owned();
        let after = submit(world, &action, &[("reason", REASON)]).await;
        let body = page(world, after.path()).await;
        assert!(body.contains("The incident is resolved."), "{body}");
        assert!(body.contains("resolved by desk-1"), "{body}");
        let again = submit(world, &action, &[("reason", REASON)]).await;
        assert!(page(world, again.path()).await.contains("Not done: no open incident has this id."));
        let ends: Vec<String> = log(world).await.into_iter().map(|(_, _, end)| end).collect();
        assert_eq!(ends, ["done", "failed"]);
    })
    .await;
}

/// If the log cannot be written, nothing is done.
#[tokio::test(flavor = "multi_thread")]
async fn act_without_an_entry_in_the_log_is_not_done() {
    World::run(async |world| {
        let id = park(world, Kind::LoanClosed, loan_event(Uuid::new_v4(), Uuid::new_v4())).await;
        world.execute_sql("alter table {schema}.operator_action rename to elsewhere").await;
        let after = submit(world, &format!("parked/{id}/discard"), &[("reason", REASON)]).await;
        assert_eq!(after.status, StatusCode::SERVICE_UNAVAILABLE, "{}", after.body);
        let over_http = world.delete(&format!("/patron-blocks/dead-letters/{id}")).await;
        assert_eq!(over_http.0, 500);
        assert_eq!(world.count("select count(*) from {schema}.dead_letter").await, 1);
        world.execute_sql("alter table {schema}.elsewhere rename to operator_action").await;
        world.take_dead_letters().await;
    })
    .await;
}

/// Each operation of the HTTP interface that changes something is in the log, with the reason of its header.
#[tokio::test(flavor = "multi_thread")]
async fn changes_over_http_are_in_the_log() {
    World::run(async |world| {
        let id = park(world, Kind::LoanClosed, loan_event(Uuid::new_v4(), Uuid::new_v4())).await;
        let condition = Measure::ChargedOut.condition_id();
        let record = world.get_json(&format!("/patron-block-conditions/{condition}")).await;
        let limit = json!({
            "id": Uuid::new_v4(), "patronGroupId": Uuid::new_v4(), "conditionId": condition, "value": 3,
        });
        let limit_path = format!("/patron-block-limits/{}", limit["id"].as_str().unwrap());
        let unknown = Uuid::new_v4();
        let rebuild = json!({ "source": "inbox", "scope": "user", "userId": unknown, "dryRun": true });
        let topic = world.log.topic(TENANT, Kind::ItemCheckedOut).replace("ITEM_CHECKED_OUT", "summaries");
        world.log.create_topics(vec![topic.clone()]).await;
        let letters = "/patron-blocks/dead-letters";
        let jobs = "/patron-blocks/user-summaries/iteration";
        let requests: Vec<(Method, String, Value, &str)> = vec![
            (Method::POST, format!("{letters}/{id}/retry"), json!({}), "retry-record"),
            (Method::POST, format!("{letters}/retry?query=id==x"), json!({}), "retry-records"),
            (Method::DELETE, format!("{letters}?query=id==x"), json!({}), "discard-records"),
            (Method::DELETE, format!("{letters}/{id}"), json!({}), "discard-record"),
            (
                Method::POST,
                format!("/patron-blocks/incidents/{unknown}/resolve"),
                json!({}),
                "resolve-incident",
            ),
            (Method::POST, "/patron-blocks/rebuilds".into(), rebuild, "request-rebuild"),
            (
                Method::POST,
                "/automated-patron-blocks/synchronization/job".into(),
                json!({ "scope": "user", "userId": unknown }),
                "request-synchronization",
            ),
            (Method::POST, jobs.into(), json!({ "topicName": topic }), "request-export"),
            (
                Method::PUT,
                "/patron-blocks/certainty-policy".into(),
                json!({}),
                "replace-certainty-policy",
            ),
            (
                Method::PUT,
                format!("/patron-block-conditions/{condition}"),
                record,
                "change-condition",
            ),
            (Method::POST, "/patron-block-limits".into(), limit.clone(), "create-limit"),
            (Method::PUT, limit_path.clone(), limit, "change-limit"),
            (Method::DELETE, limit_path, json!({}), "delete-limit"),
        ];
        let mut expected = Vec::new();
        for (method, path, body, action) in requests {
            let request = world
                .request(method, &path)
                .header("X-Patron-Blocks-Reason", "B\u{fc}cher, ticket 7".as_bytes())
                .json(&body);
            let (status, text) = world.send(request).await;
            assert!(status < 300 || status == 422 || status == 404, "{path}: {status} {text}");
            let end = if status < 300 { "done" } else { "failed" };
            expected.push((action.to_owned(), Some("B\u{fc}cher, ticket 7".to_owned()), end.to_owned()));
            assert_eq!(log_of(world, "http").await, expected, "{path}");
        }
        let request = world.request(Method::DELETE, &format!("{letters}/{id}"));
        let (status, text) = world.send(request.header("X-Patron-Blocks-Reason", "?")).await;
        assert_eq!(status, 400);
        assert!(text.starts_with("X-Patron-Blocks-Reason must have 3 to 500 characters"), "{text}");
    })
    .await;
}
