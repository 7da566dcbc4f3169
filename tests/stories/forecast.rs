//! Forecasts over HTTP and on the command line, against the evaluations of the same service at a later time.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use patron_blocks::{blocks::Measure, clock::Clock, event::Kind};
use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    binary::run_cli,
    payloads::{
        check_out, due_date_change, entity_change, loan_event, minutes_from_now, now, user_record,
    },
    world::{TENANT, World},
};

const FORECAST: &str = "/patron-blocks/forecast";
const DAY: i64 = 24 * 60;

/// Formats an instant without a plus sign, which a query string would need to escape.
fn text(instant: DateTime<Utc>) -> String {
    instant.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

fn path(until: DateTime<Utc>, parameters: &str) -> String {
    format!("{FORECAST}?until={}{parameters}", text(until))
}

fn in_minutes(minutes: i64) -> DateTime<Utc> {
    now() + TimeDelta::minutes(minutes)
}

/// Adds a patron with a record in the topic of users.
async fn publish_patron(world: &World, group: Uuid) -> Uuid {
    let user = world.users.add_patron(group);
    let record = entity_change("CREATED", &user_record(user, group), now());
    world.publish(Kind::StoredUser, &record).await;
    user
}

/// Publishes a check-out with a grace period, and returns the loan and its due date.
async fn borrow(world: &World, user: Uuid, minutes: i64, grace: Option<Value>) -> (Uuid, String) {
    let (loan, due) = (Uuid::new_v4(), minutes_from_now(minutes));
    let mut payload = check_out(user, loan, &due);
    if let Some(grace) = grace {
        payload["gracePeriod"] = grace;
    }
    world.publish(Kind::ItemCheckedOut, &payload).await;
    (loan, due)
}

fn instant(value: &Value) -> DateTime<Utc> {
    value.as_str().unwrap().parse().unwrap()
}

fn patrons(forecast: &Value) -> &Vec<Value> {
    forecast["patrons"].as_array().unwrap()
}

/// Returns the patron's entry of a forecast.
fn entry(forecast: &Value, user: Uuid) -> Option<&Value> {
    patrons(forecast).iter().find(|patron| patron["userId"] == json!(user))
}

/// Returns the blocked actions of an evaluation, for all conditions and for one.
async fn blocked_actions(
    world: &World,
    user: Uuid,
    condition: &Value,
) -> [BTreeSet<&'static str>; 2] {
    const ACTIONS: [(&str, &str); 3] = [
        ("blockBorrowing", "borrowing"),
        ("blockRenewals", "renewals"),
        ("blockRequests", "requests"),
    ];
    let answer = world.get_json(&format!("/automated-patron-blocks/{user}")).await;
    let mut found = [BTreeSet::new(), BTreeSet::new()];
    for block in answer["automatedPatronBlocks"].as_array().unwrap() {
        for (flag, action) in ACTIONS {
            if block[flag] == true {
                found[0].insert(action);
                if block["patronBlockConditionId"] == *condition {
                    found[1].insert(action);
                }
            }
        }
    }
    found
}

fn actions(value: &Value) -> BTreeSet<&str> {
    value.as_array().unwrap().iter().map(|action| action.as_str().unwrap()).collect()
}

/// Every listed patron is blocked at the instant of the forecast, and not a millisecond earlier.
async fn assert_matches_evaluations(world: &World, clock: &Clock, forecast: &Value) {
    let start = instant(&forecast["evaluatedAt"]);
    for patron in patrons(forecast) {
        let user = patron["userId"].as_str().unwrap().parse().unwrap();
        let (at, condition) = (instant(&patron["at"]), &patron["patronBlockConditionId"]);
        let [now, by_limit_now] = blocked_actions(world, user, condition).await;
        assert_eq!((now.clone(), by_limit_now), (actions(&patron["blockedNow"]), BTreeSet::new()));
        clock.set(at - TimeDelta::milliseconds(1));
        assert_eq!(blocked_actions(world, user, condition).await[0], now, "{patron}");
        clock.set(at);
        let [then, by_limit] = blocked_actions(world, user, condition).await;
        assert_eq!(by_limit, actions(&patron["blocks"]), "{patron}");
        let new: BTreeSet<_> = then.difference(&now).copied().collect();
        assert_eq!(new, actions(&patron["becomeBlocked"]), "{patron}");
        let next = world.get_json(&path(at + TimeDelta::milliseconds(1), "")).await;
        assert_eq!(entry(&next, user), None, "the limit is reached now");
        clock.set(start);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forecast_equals_the_evaluation_at_its_instant() {
    World::run(async |world| {
        let clock = Clock::fixed_at(now());
        world.start_with_clock(clock.clone()).await;
        let (group, strict) = (Uuid::new_v4(), Uuid::new_v4());
        let overdue = world.add_limit(group, Measure::OverdueItems, 1.0).await;
        let days = world.add_limit(group, Measure::RecallOverdueDays, 2.0).await;
        world.add_limit(strict, Measure::ChargedOut, 1.0).await;
        let recalls = world.add_limit(strict, Measure::OverdueRecalls, 0.0).await;
        let hours = json!({ "duration": 2, "intervalId": "Hours" });

        // The second overdue loan reaches the limit, after its grace period.
        let late = publish_patron(world, group).await;
        borrow(world, late, -DAY, None).await;
        let (_, due) = borrow(world, late, 60, Some(hours)).await;
        let late_at = due.parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(121);
        // An overdue recall becomes three days old.
        let old = publish_patron(world, group).await;
        let (loan, _) = borrow(world, old, 60, None).await;
        let due = minutes_from_now(-DAY);
        let recall = due_date_change(old, loan, &due, true);
        world.publish(Kind::LoanDueDateChanged, &recall).await;
        let old_at = due.parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(2 * DAY + 1);
        // A recalled loan becomes overdue, and borrowing is blocked already.
        let full = publish_patron(world, strict).await;
        let (loan, _) = borrow(world, full, DAY, None).await;
        let due = minutes_from_now(30);
        let recall = due_date_change(full, loan, &due, true);
        world.publish(Kind::LoanDueDateChanged, &recall).await;
        let full_at = due.parse::<DateTime<Utc>>().unwrap() + TimeDelta::minutes(1);
        // None of these is blocked within two days.
        let claimed = publish_patron(world, strict).await;
        let (loan, due) = borrow(world, claimed, 60, None).await;
        world.publish(Kind::LoanDueDateChanged, &due_date_change(claimed, loan, &due, true)).await;
        world.publish(Kind::ItemClaimedReturned, &loan_event(claimed, loan)).await;
        let later = publish_patron(world, group).await;
        borrow(world, later, 60, None).await;
        borrow(world, later, 3 * DAY, None).await;
        let already = publish_patron(world, group).await;
        borrow(world, already, -60, None).await;
        borrow(world, already, -60, None).await;
        borrow(world, already, 60, None).await;
        let stranger = Uuid::new_v4();
        borrow(world, stranger, 60, None).await;
        world.until_committed().await;

        let forecast = world.get_json(&path(in_minutes(2 * DAY), "")).await;
        let found: Vec<_> = patrons(&forecast)
            .iter()
            .map(|p| (p["userId"].clone(), instant(&p["at"]), p["patronBlockLimitId"].clone()))
            .collect();
        assert_eq!(
            found,
            [
                (json!(full), full_at, recalls["id"].clone()),
                (json!(late), late_at, overdue["id"].clone()),
                (json!(old), old_at, days["id"].clone()),
            ]
        );
        let mut by_group = [(group, 2), (strict, 1)];
        by_group.sort();
        let by_group = by_group.map(|(id, n)| json!({ "patronGroup": id, "patrons": n }));
        assert_eq!(
            forecast["counts"],
            json!({
                "byMeasure": { "overdue": 1, "overdue-recalls": 1, "recall-overdue-days": 1 },
                "byGroup": by_group, "alreadyBlocked": 1, "unknownGroup": 1,
            })
        );
        assert_eq!(forecast["totalRecords"], 3);
        let first = &patrons(&forecast)[0];
        assert_eq!((&first["measure"], &first["limit"]), (&json!("overdue-recalls"), &json!(0.0)));
        assert_eq!(first["blockedNow"], json!(["borrowing"]));
        assert_eq!(first["becomeBlocked"], json!(["renewals", "requests"]));
        assert_matches_evaluations(world, &clock, &forecast).await;

        let all = world.get_json(&path(in_minutes(5 * DAY), "")).await;
        assert!(entry(&all, later).is_some(), "{all}");
        for user in [claimed, already, stranger] {
            assert_eq!(entry(&all, user), None);
        }
        // The explanation of a patron names the same instant.
        let explained = world.get_json(&format!("/patron-blocks/explanations/{late}")).await;
        assert_eq!(instant(&explained["next"]["at"]), late_at);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_of_a_forecast_must_be_a_near_instant() {
    World::run(async |world| {
        let violation = async |parameters: &str| {
            let (status, body) = world.get(&format!("{FORECAST}{parameters}")).await;
            assert_eq!(status, 422, "{parameters}: {body}");
            let body: Value = serde_json::from_str(&body).unwrap();
            let error = &body["errors"][0];
            let parameter = &error["parameters"][0];
            (error["message"].as_str().unwrap().to_owned(), parameter["key"].clone())
        };
        for missing in ["", "?until="] {
            assert_eq!(violation(missing).await, ("must not be null".to_owned(), json!("until")));
        }
        for (bad, rule) in [
            ("tomorrow".to_owned(), "must be an instant"),
            ("2026-09-18".to_owned(), "must be an instant"),
            (text(in_minutes(-1)), "must be in the future"),
            (text(in_minutes(400 * DAY + 1)), "must be at most 400 days ahead"),
        ] {
            let (message, key) = violation(&format!("?until={bad}")).await;
            assert!(message.contains(rule) && key == "until", "{bad}: {message}");
        }
        let until = text(in_minutes(60));
        let (message, key) = violation(&format!("?until={until}&format=xml")).await;
        assert!(message.contains("json or csv") && key == "format", "{message}");
        let offset = format!("{FORECAST}?until={}", until.replace('Z', "+00:00"));
        let empty = world.get_json(&offset).await;
        assert_eq!((&empty["totalRecords"], &empty["patrons"]), (&json!(0), &json!([])));
        assert_eq!(world.get(&path(in_minutes(60), "&limit=-1")).await.0, 400);
    })
    .await;
}

/// Adds patrons with overdue limits by SQL: one loan each, and one patron with more loans than a page has.
async fn insert_patrons(world: &World, group: Uuid, patrons: u32, loans: u32) {
    let schema = "{schema}";
    let sql = format!(
        "create temp table borrower as
           select gen_random_uuid() as id, 1 as loans from generate_series(1, {patrons})
           union all select gen_random_uuid(), {loans};
         insert into {schema}.loan (loan_id, check_out_stamp, check_out_user, check_out_due_date)
           select gen_random_uuid(), '\\x01', id, now() + (1 + n % 7) * interval '1 hour'
             from borrower, generate_series(1, loans) n;
         insert into {schema}.patron_counter (user_id, open_loans, lost_loans, claimed_returned_loans,
             recalled_loans, open_fees_fines, fee_fine_balance)
           select id, loans, 0, 0, 0, 0, 0 from borrower;
         insert into {schema}.patron (user_id, users_group, users_group_at)
           select id, '{group}', now() from borrower;
         drop table borrower"
    );
    world.execute_sql(&sql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_complete_and_csv_equals_them() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        let limit = world.add_limit(group, Measure::OverdueItems, 0.0).await;
        insert_patrons(world, group, 2_300, 1_500).await;
        let until = in_minutes(DAY);
        let (mut listed, mut starts) = (Vec::new(), BTreeSet::new());
        for offset in (0..=2_400).step_by(400) {
            let page = world.get_json(&path(until, &format!("&limit=400&offset={offset}"))).await;
            assert_eq!(page["totalRecords"], 2_301);
            starts.insert(page["evaluatedAt"].to_string());
            listed.extend(patrons(&page).clone());
        }
        assert_eq!(starts.len(), 1, "all pages are of one forecast");
        let key = |patron: &Value| (patron["at"].to_string(), patron["userId"].to_string());
        let keys: BTreeSet<_> = listed.iter().map(key).collect();
        assert_eq!((listed.len(), keys.len()), (2_301, 2_301), "no patron is repeated");
        assert!(listed.is_sorted_by_key(key));

        let csv = world.request(Method::GET, &path(until, "&limit=1")).header("Accept", "text/csv");
        let csv = csv.header("X-Okapi-Tenant", TENANT).send().await.unwrap();
        assert_eq!(csv.headers()["Content-Type"], "text/csv; charset=utf-8; header=present");
        let csv = csv.text().await.unwrap();
        let (_, by_parameter) = world.get(&path(until, "&format=csv")).await;
        assert_eq!(csv, by_parameter);
        let mut lines = csv.split("\r\n");
        assert_eq!(
            lines.next(),
            Some(
                "userId,patronGroup,at,patronBlockLimitId,patronBlockConditionId,measure,limit,\
                 blocks,becomeBlocked,blockedNow"
            )
        );
        let plain = |value: &Value| value.as_str().unwrap().to_owned();
        let condition = Measure::OverdueItems.condition_id();
        let all = "borrowing renewals requests";
        let expected: Vec<String> = listed
            .iter()
            .map(|patron| {
                let (user, at, limit) = (&patron["userId"], &patron["at"], &limit["id"]);
                let [user, at, limit] = [user, at, limit].map(plain);
                format!("{user},{group},{at},{limit},{condition},overdue,0,{all},{all},")
            })
            .chain([String::new()])
            .collect();
        assert_eq!(lines.collect::<Vec<_>>(), expected);

        // JSON is the default, and the parameter takes precedence.
        for (parameters, accept) in
            [("", "*/*"), ("", "application/json, text/csv"), ("&format=json", "text/csv")]
        {
            let request = world.request(Method::GET, &path(until, parameters));
            let request = request.header("Accept", accept).header("X-Okapi-Tenant", TENANT);
            let answer = request.send().await.unwrap();
            assert_eq!(answer.headers()["Content-Type"], "application/json", "{accept}");
        }
        // A change of the limits applies at once.
        let limit_path = format!("/patron-block-limits/{}", plain(&limit["id"]));
        assert_eq!(world.delete(&limit_path).await.0, 204);
        assert_eq!(world.get_json(&path(until, "")).await["totalRecords"], 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forecast_lists_only_patrons_of_its_tenant() {
    World::run(async |world| {
        let send = async |method: Method, path: &str, body: &Value| {
            let request = world.request(method, path).header("X-Okapi-Tenant", "southlib");
            let answer = request.json(body).send().await.unwrap();
            let status = answer.status().as_u16();
            (status, serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap_or_default())
        };
        let install = json!({ "module_to": "mod-patron-blocks-2.0.0" });
        let (status, job) = send(Method::POST, "/_/tenant", &install).await;
        assert_eq!(status, 201, "{job}");
        let job = format!("/_/tenant/{}?wait=60000", job["id"].as_str().unwrap());
        assert_eq!(send(Method::GET, &job, &json!({})).await.1["complete"], true);
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::OverdueItems, 0.0).await;
        let northern = publish_patron(world, group).await;
        borrow(world, northern, 60, None).await;
        world.until_committed().await;
        let southern = Uuid::new_v4();
        let out = check_out(southern, Uuid::new_v4(), &minutes_from_now(30));
        let handler = Kind::ItemCheckedOut.http_path();
        assert_eq!(send(Method::POST, &handler, &out).await.0, 204);
        let group_known = format!(
            "insert into southlib_mod_patron_blocks.patron (user_id, users_group, users_group_at)
             values ('{southern}', '{group}', now())"
        );
        world.execute_sql(&group_known).await;
        let limits = "insert into southlib_mod_patron_blocks.patron_block_limits
                      select * from {schema}.patron_block_limits;
                      update southlib_mod_patron_blocks.patron_block_conditions s set jsonb = n.jsonb
                        from {schema}.patron_block_conditions n where n.id = s.id";
        world.execute_sql(limits).await;

        let path = path(in_minutes(DAY), "");
        let users = |forecast: &Value| -> Vec<Value> {
            patrons(forecast).iter().map(|patron| patron["userId"].clone()).collect()
        };
        assert_eq!(users(&world.get_json(&path).await), [json!(northern)]);
        let (status, forecast) = send(Method::GET, &path, &json!({})).await;
        assert_eq!((status, users(&forecast)), (200, vec![json!(southern)]), "{forecast}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forecast_command_prints_patrons_and_counts() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        let limit = world.add_limit(group, Measure::OverdueItems, 0.0).await;
        let user = publish_patron(world, group).await;
        borrow(world, user, 60, None).await;
        borrow(world, Uuid::new_v4(), 60, None).await;
        world.until_committed().await;
        let until = text(in_minutes(DAY));
        let arguments = ["forecast", "--tenant", TENANT, "--until", &until];
        let (code, words) = run_cli(world, &arguments);
        assert_eq!(code, Some(0), "{words}");
        for part in [
            "1 patrons, 0 of them blocked already\n",
            &format!(
                "{user}  group {group}  overdue above 0  blocks borrowing, renewals, requests\n"
            ),
            "  overdue: 1\n",
            &format!("  group {group}: 1\n"),
            "  patrons of unknown group: 1\n",
        ] {
            assert!(words.contains(part), "{part} is missing:\n{words}");
        }
        let (code, output) = run_cli(world, &[&arguments[..], &["--json"]].concat());
        assert_eq!(code, Some(0), "{output}");
        let lines: Vec<Value> =
            output.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let over_http = world.get_json(&path(until.parse().unwrap(), "")).await;
        assert_eq!(lines.len(), 2, "{output}");
        assert_eq!(lines[0], patrons(&over_http)[0]);
        assert_eq!(lines[0]["patronBlockLimitId"], limit["id"]);
        for member in ["until", "counts", "totalRecords"] {
            assert_eq!(lines[1][member], over_http[member], "{member}");
        }
        for (tenant, until, reason) in [
            (TENANT, "2026-09-18", "--until must be an instant"),
            (TENANT, "2020-01-01T00:00:00Z", "in the future"),
            ("southlib", until.as_str(), "southlib is not enabled"),
            ("South", until.as_str(), "--tenant"),
        ] {
            let (code, output) =
                run_cli(world, &["forecast", "--tenant", tenant, "--until", until]);
            assert_eq!((code, output.contains(reason)), (Some(2), true), "{output}");
        }
    })
    .await;
}

/// One forecast at a time uses the connections of operators, and evaluations use others.
#[tokio::test(flavor = "multi_thread")]
async fn second_forecast_does_not_wait_for_ever() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::OverdueItems, 0.0).await;
        let user = publish_patron(world, group).await;
        borrow(world, user, 60, None).await;
        world.until_committed().await;
        let mut tx = patron_blocks::store::begin(&world.db).await.unwrap();
        let lock = format!("lock table {}.patron in access exclusive mode", world.schema.name());
        sqlx::query(sqlx::AssertSqlSafe(lock)).execute(&mut *tx).await.unwrap();
        let world = &*world;
        let first_path = path(in_minutes(60), "");
        let second = async {
            let waiting = "select count(*) from pg_stat_activity
                            where datname = current_database() and wait_event_type = 'Lock'";
            world
                .until("the first forecast waits", async |w: &World| w.count(waiting).await == 1)
                .await;
            let request = world.request(Method::GET, &path(in_minutes(90), ""));
            let answer = request.header("X-Okapi-Tenant", TENANT).send().await.unwrap();
            assert_eq!(
                (answer.status().as_u16(), &answer.headers()["Retry-After"]),
                (503, &"1".parse().unwrap())
            );
            assert_eq!(world.count(waiting).await, 1, "the second forecast has no connection");
            tx.rollback().await.unwrap();
        };
        let (first, ()) = tokio::join!(world.get(&first_path), second);
        assert_eq!(first.0, 200, "{}", first.1);
        let counts: BTreeMap<String, Value> = serde_json::from_str(&first.1).unwrap();
        assert_eq!(counts["totalRecords"], 0, "the loan becomes overdue a minute later");
        assert_eq!(world.get_json(&path(in_minutes(90), "")).await["totalRecords"], 1);
    })
    .await;
}
