//! Acts on parked records in the console: retry, discard, restore, and many at once after a preview.

use patron_blocks::{blocks::Measure, event::Kind};
use regex_lite::Regex;
use reqwest::StatusCode;
use serde_json::Value;
use uuid::Uuid;

use super::console_acts::{REASON, log, mend, page, park, patron, submit};
use crate::support::{
    payloads::{check_out, entity_change, loan_event, minutes_from_now, now},
    world::{TENANT, World},
};

/// Returns the page of a preview.
async fn preview_page(world: &World, act: &str, query: &str) -> String {
    let shown = submit(world, "parked/preview", &[("act", act), ("query", query)]).await;
    assert_eq!(shown.status, StatusCode::OK, "{}", shown.body);
    shown.body
}

/// Returns the instant until which a preview shows parked records.
fn until_of(preview: &str) -> String {
    let until = Regex::new(r#"name="until" value="([^"]+)""#).unwrap();
    until.captures(preview).expect("the form of the act")[1].to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn parked_record_is_retried_discarded_and_restored() {
    World::run(async |world| {
        let (user, loans) = patron(world, Uuid::new_v4(), 1).await;
        let id = park(world, Kind::LoanClosed, loan_event(user, loans[0])).await;
        let form = [("reason", REASON)];
        let rejected = submit(world, &format!("parked/{id}/retry"), &form).await;
        let number = rejected.path().rsplit('=').next().unwrap().to_owned();
        assert_eq!(rejected.path(), format!("parked/{id}?act={number}"));
        let body = page(world, rejected.path()).await;
        assert!(body.contains("Not done: ") && body.contains("userId"), "{body}");

        let discarded = submit(world, &format!("parked/{id}/discard"), &form).await;
        let body = page(world, discarded.path()).await;
        assert!(body.contains("The record is discarded."), "{body}");
        assert!(body.contains(&format!("discarded/{id}/restore")), "{body}");
        assert!(world.take_dead_letters().await.is_empty());
        let restored = submit(world, &format!("discarded/{id}/restore"), &form).await;
        assert!(page(world, restored.path()).await.contains("The record is parked again."));
        let again = submit(world, &format!("discarded/{id}/restore"), &form).await;
        assert_eq!(again.status, StatusCode::NOT_FOUND);

        mend(world, &id, user).await;
        let applied = submit(world, &format!("parked/{id}/retry"), &form).await;
        assert!(page(world, applied.path()).await.contains("The record is applied."));
        let summary = world.get_json_or_null(&format!("/user-summary/{user}")).await;
        assert_eq!(summary["openLoans"].as_array().map_or(0, Vec::len), 0, "{summary}");
        let reason = Some(REASON.to_owned());
        let expected = [
            ("retry-record", "failed"),
            ("discard-record", "done"),
            ("restore-record", "done"),
            ("restore-record", "failed"),
            ("retry-record", "done"),
        ];
        let expected = expected.map(|(act, end)| (act.to_owned(), reason.clone(), end.to_owned()));
        assert_eq!(log(world).await, expected);
        let log = page(world, "log").await;
        assert!(log.contains("desk-1") && log.contains(REASON) && log.contains("console"), "{log}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn preview_of_a_retry_names_the_patrons_and_changes_nothing() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 3.0).await;
        let (blocked, loans) = patron(world, group, 4).await;
        let (free, _) = patron(world, group, 2).await;
        for loan in &loans[..2] {
            let id = park(world, Kind::LoanClosed, loan_event(blocked, *loan)).await;
            mend(world, &id, blocked).await;
        }
        for _ in 0..2 {
            let payload = check_out(free, Uuid::new_v4(), &minutes_from_now(1440));
            let id = park(world, Kind::ItemCheckedOut, payload).await;
            mend(world, &id, free).await;
        }
        park(world, Kind::LoanClosed, loan_event(blocked, loans[3])).await;
        let list = page(world, "parked").await;
        assert!(list.contains("Parked records: 5."), "{list}");
        // The ids of a payload are found when the record is parked, so a mended one adds none.
        assert!(list.contains("name 1 patron. Blocked now: 1."), "{list}");
        assert!(list.contains("blocked now</span>"), "{list}");
        let counts = "select sum(open_loans)::int8 from {schema}.patron_counter";
        let before = world.count(counts).await;
        let preview = preview_page(world, "retry", "").await;
        assert!(
            preview.contains("Of 5 records, 4 would be applied, and 1 would stay parked."),
            "{preview}"
        );
        assert!(
            preview.contains(
                "The retry would concern 2 patrons: it would lift a block from 1 and add one for 1."
            ),
            "{preview}"
        );
        let row = |user: Uuid| {
            let name = format!("patron/{user}");
            preview.lines().find(|line| line.contains(&name)).unwrap().to_owned()
        };
        let all = "borrow, renew, request";
        assert!(row(blocked).ends_with(&format!("<td>{all}</td><td><b>nothing</b></td></tr>")));
        // At the limit, only borrowing is blocked.
        assert!(row(free).ends_with(&format!("<td>nothing</td><td><b>{all}</b></td></tr>")));
        assert_eq!(world.count(counts).await, before);
        assert_eq!(world.block_flags(blocked).await, [[true; 3]]);
        assert_eq!(world.count("select count(*) from {schema}.dead_letter").await, 5);

        let until = until_of(&preview);
        let form = |count| {
            [
                ("act", "retry"),
                ("query", ""),
                ("until", &*until),
                ("count", count),
                ("after", ""),
                ("reason", REASON),
            ]
        };
        let wrong = submit(world, "parked/bulk", &form("4")).await;
        assert_eq!(wrong.status, StatusCode::CONFLICT);
        assert!(wrong.body.contains("5 records match now, but the form has 4."), "{}", wrong.body);
        assert_eq!(log(world).await.len(), 0);
        let done = submit(world, "parked/bulk", &form("5")).await;
        let body = page(world, done.path()).await;
        assert!(body.contains("Applied: 4 records. Still parked: 1 record."), "{body}");
        assert_eq!(world.block_flags(blocked).await, [[false; 3]; 0]);
        assert_eq!(world.block_flags(free).await, [[true; 3]]);

        let filter = ("query", "field==\"userId\"");
        let preview = preview_page(world, "discard", filter.1).await;
        assert!(
            preview.contains("The records name 1 known patron, 0 of them blocked now."),
            "{preview}"
        );
        assert!(preview.contains(&format!("patron/{blocked}")), "{preview}");
        let until = until_of(&preview);
        // A record that is parked after the preview is not concerned.
        park(world, Kind::LoanClosed, loan_event(blocked, Uuid::new_v4())).await;
        let discard = [
            ("act", "discard"),
            filter,
            ("until", &*until),
            ("count", "1"),
            ("after", ""),
            ("reason", REASON),
        ];
        let done = submit(world, "parked/bulk", &discard).await;
        assert!(
            done.path().starts_with("parked?query=field%3D%3D%22userId%22&act="),
            "{}",
            done.path()
        );
        assert!(page(world, done.path()).await.contains("Discarded: 1 record."));
        assert_eq!(world.take_dead_letters().await.len(), 1);
    })
    .await;
}

/// The newest records are on the first page, and those of blocked patrons come first on each page.
#[tokio::test(flavor = "multi_thread")]
async fn newest_records_are_on_the_first_page() {
    World::run(async |world| {
        let group = Uuid::new_v4();
        world.add_limit(group, Measure::ChargedOut, 1.0).await;
        let (blocked, loans) = patron(world, group, 2).await;
        let park = format!(
            "insert into {{schema}}.dead_letter (dead_letter_id, reason, rule, topic, partition, \"offset\",
                                               received_at, headers, payload, subjects)
             select gen_random_uuid(), 'bad_field', 'record ' || n, 't', 0, n,
                    now() - n * interval '1 second', '[]', '',
                    case n when 99 then array['{}'::uuid] else '{{}}' end
               from generate_series(0, 149) n",
            loans[0]
        );
        world.execute_sql(&park).await;
        let rules = |body: &str| -> Vec<String> {
            let rule = Regex::new("<td lang=.en.>(record [0-9]+)</td>").unwrap();
            rule.captures_iter(body).map(|found| found[1].to_owned()).collect()
        };
        let first = page(world, "parked").await;
        let found = rules(&first);
        assert_eq!(found.len(), 100, "{first}");
        assert_eq!(found[..3], ["record 99", "record 0", "record 1"], "{first}");
        assert!(first.contains(&format!("patron/{blocked}")), "{first}");
        let found = rules(&page(world, "parked?offset=100").await);
        assert_eq!((found.len(), &*found[0], &*found[49]), (50, "record 100", "record 149"));
        // An order in the filter replaces the order of the page.
        let sorted = page(world, "parked?query=cql.allRecords=1%20sortby%20offset/sort.descending");
        assert_eq!(rules(&sorted.await)[..2], ["record 149", "record 148"]);
        world.take_dead_letters().await;
    })
    .await;
}

/// The steps of an act on many records continue after the last record of the step before.
#[tokio::test(flavor = "multi_thread")]
async fn step_of_a_bulk_act_continues_after_a_record() {
    World::run(async |world| {
        let (user, _) = patron(world, Uuid::new_v4(), 1).await;
        let mut ids = Vec::new();
        for _ in 0..3 {
            let id = park(world, Kind::LoanClosed, loan_event(user, Uuid::new_v4())).await;
            ids.push(id);
        }
        ids.sort();
        for id in &ids {
            mend(world, id, user).await;
        }
        let form = [
            ("act", "retry"),
            ("query", "cql.allRecords=1 sortby topic"),
            ("until", "2999-01-01T00:00:00.000+00:00"),
            ("count", "2"),
            ("after", &*ids[0]),
            ("reason", REASON),
        ];
        let done = submit(world, "parked/bulk", &form).await;
        assert!(page(world, done.path()).await.contains("Applied: 2 records."));
        let left = format!(
            "select count(*) from {{schema}}.dead_letter where dead_letter_id = '{}'",
            ids[0]
        );
        assert_eq!(world.count(&left).await, 1);
        world.take_dead_letters().await;
    })
    .await;
}

/// No preview shows what a record changes that deletes all loans, and the preview may not have read it.
#[tokio::test(flavor = "multi_thread")]
async fn bulk_retry_leaves_a_deletion_of_all_loans_parked() {
    World::run(async |world| {
        let (user, _) = patron(world, Uuid::new_v4(), 1).await;
        let other = park(world, Kind::LoanClosed, loan_event(user, Uuid::new_v4())).await;
        mend(world, &other, user).await;
        let id = park(world, Kind::LoanClosed, loan_event(user, Uuid::new_v4())).await;
        let (topic, deletion) = (
            world.log.topic(TENANT, Kind::StoredLoan),
            entity_change("ALL_DELETED", &Value::Null, now()),
        );
        world
            .execute_sql(&format!(
                "update {{schema}}.dead_letter set topic = '{topic}', payload = convert_to('{deletion}', 'UTF8')
                  where dead_letter_id = '{id}'"
            ))
            .await;
        let form = [
            ("act", "retry"),
            ("query", "cql.allRecords=1"),
            ("until", "2999-01-01T00:00:00.000+00:00"),
            ("count", "2"),
            ("after", ""),
            ("reason", REASON),
        ];
        let done = submit(world, "parked/bulk", &form).await;
        let body = page(world, done.path()).await;
        assert!(body.contains("Applied: 1 record."), "{body}");
        let open = format!("select open_loans::int8 from {{schema}}.patron_counter where user_id = '{user}'");
        assert_eq!(world.count(&open).await, 1);
        // The page of the record itself retries it.
        let done = submit(world, &format!("parked/{id}/retry"), &[("reason", REASON)]).await;
        let body = page(world, done.path()).await;
        assert!(body.contains("The record is applied"), "{body}");
        assert_eq!(world.count(&open).await, 0);
        // The id of a dead letter comes from its topic, which the story has changed.
        world.take_dead_letters().await;
    })
    .await;
}

/// A step that ended before its first record continues from the start, which the nil UUID names.
#[tokio::test(flavor = "multi_thread")]
async fn step_continues_from_the_start() {
    World::run(async |world| {
        let (user, _) = patron(world, Uuid::new_v4(), 1).await;
        let id = park(world, Kind::LoanClosed, loan_event(user, Uuid::new_v4())).await;
        mend(world, &id, user).await;
        let form = [
            ("act", "retry"),
            ("query", ""),
            ("until", "2999-01-01T00:00:00.000+00:00"),
            ("count", "1"),
            ("after", "00000000-0000-0000-0000-000000000000"),
            ("reason", REASON),
        ];
        let done = submit(world, "parked/bulk", &form).await;
        assert!(page(world, done.path()).await.contains("Applied: 1 record."));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_discarded_records_are_restored_as_new_ones() {
    World::run(async |world| {
        let (user, _) = patron(world, Uuid::new_v4(), 1).await;
        for _ in 0..3 {
            park(world, Kind::LoanClosed, loan_event(user, Uuid::new_v4())).await;
        }
        // They would be the first ones that housekeeping deletes.
        world.execute_sql("update {schema}.dead_letter set received_at = now() - interval '89 days'").await;
        let preview = preview_page(world, "discard", "").await;
        let until = until_of(&preview);
        let discard = [
            ("act", "discard"),
            ("query", ""),
            ("until", &*until),
            ("count", "3"),
            ("after", ""),
            ("reason", REASON),
        ];
        submit(world, "parked/bulk", &discard).await;
        assert!(page(world, "discarded").await.contains("3 of 3 discarded records"));
        let wrong = submit(world, "discarded/restore", &[("count", "2"), ("reason", REASON)]).await;
        assert_eq!(wrong.status, StatusCode::CONFLICT, "{}", wrong.body);
        let done = submit(world, "discarded/restore", &[("count", "3"), ("reason", REASON)]).await;
        assert!(page(world, done.path()).await.contains("Parked again: 3 records."));
        let new = "select count(*) from {schema}.dead_letter where received_at > now() - interval '1 hour'";
        assert_eq!(world.count(new).await, 3);
        world.take_dead_letters().await;
    })
    .await;
}

/// A step that reaches its time limit shows what is left, and the next step goes on. The lock makes the step slow.
#[tokio::test(flavor = "multi_thread")]
async fn step_that_reaches_its_time_limit_offers_the_next_one() {
    World::run(async |world| {
        let (user, loans) = patron(world, Uuid::new_v4(), 1).await;
        for loan in [loans[0], Uuid::new_v4(), Uuid::new_v4()] {
            let id = park(world, Kind::LoanClosed, loan_event(user, loan)).await;
            mend(world, &id, user).await;
        }
        let preview = preview_page(world, "retry", "").await;
        let until = until_of(&preview);
        let mut lock = world.db.begin().await.unwrap();
        let statement = format!("lock table {}.loan in exclusive mode", world.schema.name());
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut *lock).await.unwrap();
        let form = |count: &str, after: &str| {
            [
                ("act", "retry".to_owned()),
                ("query", String::new()),
                ("until", until.clone()),
                ("count", count.to_owned()),
                ("after", after.to_owned()),
                ("reason", REASON.to_owned()),
            ]
        };
        let step = async |count: &str, after: &str| {
            let form = form(count, after);
            let form: Vec<(&str, &str)> =
                form.iter().map(|(name, text)| (*name, &**text)).collect();
            submit(world, "parked/bulk", &form).await
        };
        let slow = step("3", "").await;
        assert_eq!(slow.status, StatusCode::OK, "{}", slow.body);
        assert!(slow.body.contains("data-continue"), "{}", slow.body);
        lock.rollback().await.unwrap();
        let field = |name: &str| {
            let field = Regex::new(&format!(r#"name="{name}" value="([^"]*)""#)).unwrap();
            field.captures(&slow.body).expect("a hidden field")[1].to_owned()
        };
        let next = step(&field("count"), &field("after")).await;
        assert!(next.path().starts_with("parked?"), "{}", next.body);
        // The record that took too long stays parked, or was applied late.
        let rest = step("x", "").await;
        assert!(
            rest.body.contains("The number of records must have digits only."),
            "{}",
            rest.body
        );
        world.take_dead_letters().await;
    })
    .await;
}
